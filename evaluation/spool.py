"""What could not be sent to the tracking store yet, kept on disk in order until it can be.

One folder per tracked run, one JSON file per operation, one folder of copied files beside it where the operation
carries files. An operation is written completely or not at all (rename), and removed after delivery, so that a
process killed at any moment neither loses nor tears one. Who writes or delivers a spool holds its lock, so that each
operation goes out once, also from a home that machines share. Knows nothing of MLflow.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.errors import JadeError, SetupError
from agents.home import only_one

Operation = Mapping[str, Any]
_HEADER = "run.json"


@dataclass(frozen=True)
class Waiting:
    """One operation of a spool."""

    operation: Operation
    file: Path
    """Where it is written down; names it as long as it waits."""

    @property
    def files(self) -> Path | None:
        """Return the folder of files that it carries, or None."""
        staged = self.file.with_suffix("")
        return staged if staged.is_dir() else None


class Spool:
    """The waiting operations of one tracked run."""

    def __init__(self, folder: Path) -> None:
        """Open a spool folder; it is made when something has to wait."""
        self.folder = folder
        self._next = max((int(file.stem) for file in self._files()), default=0) + 1
        self._held: ExitStack | None = None

    @staticmethod
    def fresh(parent: Path) -> Spool:
        """Return an empty spool below `parent`."""
        return Spool(parent / uuid.uuid4().hex[:12])

    @staticmethod
    def waiting(parent: Path) -> Iterator[Spool]:
        """Yield the spools below `parent` where something waits and that nobody holds; each is held meanwhile."""
        for folder in sorted(parent.glob("*")):
            spool = Spool(folder)
            if spool.pending and spool.hold():
                try:
                    yield spool
                finally:
                    spool.release()

    @property
    def header(self) -> dict[str, Any]:
        """Return what was said about the run: "uri", "run_id" (None until created)."""
        try:
            value = json.loads((self.folder / _HEADER).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def pending(self) -> int:
        """Return how many operations wait."""
        return len(self._files())

    def hold(self) -> bool:
        """Claim the spool until `release`, or the end of this process; return whether it is ours."""
        if self._held is None:
            held = ExitStack()
            try:
                held.enter_context(only_one(self._lock, SetupError(f"{self.folder} belongs to another run")))
            except JadeError:
                return False
            self._held = held
        return True

    def release(self) -> None:
        """Leave the spool to whoever delivers what still waits in it."""
        if self._held is not None:
            if not self.folder.exists():  # whoever has opened the lock file already finds nothing that waits
                self._lock.unlink(missing_ok=True)
            self._held.close()
            self._held = None

    def describe(self, **header: Any) -> None:
        """Write the header."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write(self.folder / _HEADER, header)

    def add(self, operation: Operation, files: Path | None = None) -> None:
        """Append an operation; `files` is a folder that is copied, since it may change before delivery."""
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"{self._next:08d}"
        self._next += 1
        if files is not None:
            shutil.copytree(files, self.folder / name)
        self._write(self.folder / f"{name}.json", operation)

    def first(self) -> Waiting | None:
        """Return the oldest operation, or None when nothing waits.

        Raises:
            OSError: It cannot be read now.
        """
        for file in self._files():
            try:
                return Waiting(json.loads(file.read_text(encoding="utf-8")), file)
            except ValueError:  # meddled with: nothing that could be sent
                self.drop(Waiting({}, file))
        return None

    def drop(self, done: Waiting) -> None:
        """Remove an operation, and the whole folder after the last one."""
        if done.files is not None:
            shutil.rmtree(done.files, ignore_errors=True)
        done.file.unlink(missing_ok=True)
        if not self.pending:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _lock(self) -> Path:
        return self.folder.with_suffix(".lock")

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.json"))

    def _write(self, path: Path, value: Operation) -> None:
        part = path.with_suffix(".part")
        with part.open("w", encoding="utf-8") as file:
            json.dump(value, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
