"""What could not be sent to the tracking store yet, kept on disk in order until it can be.

One folder per tracked run, one JSON file per operation, one folder of copied files beside it where the operation
carries files. An operation is written completely or not at all (rename), and removed after delivery, so that a
process killed at any moment neither loses nor tears one. Knows nothing of MLflow.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Operation = Mapping[str, Any]
_HEADER = "run.json"


class Spool:
    """The waiting operations of one tracked run."""

    def __init__(self, folder: Path) -> None:
        """Open a spool folder; it is made when something has to wait."""
        self.folder = folder
        self._next = max((int(file.stem) for file in self._files()), default=0) + 1

    @staticmethod
    def fresh(parent: Path) -> Spool:
        """Return an empty spool below `parent`."""
        return Spool(parent / uuid.uuid4().hex[:12])

    @staticmethod
    def waiting(parent: Path) -> Iterator[Spool]:
        """Yield the spools below `parent` that still hold operations and whose process has ended."""
        for folder in sorted(parent.glob("*")):
            spool = Spool(folder)
            if spool.pending and not _alive(spool.header.get("pid")):
                yield spool

    @property
    def header(self) -> dict[str, Any]:
        """Return what was said about the run: "uri", "run_id" (None until created), "pid"."""
        try:
            value = json.loads((self.folder / _HEADER).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def pending(self) -> int:
        """Return how many operations wait."""
        return len(self._files())

    def describe(self, **header: Any) -> None:
        """Write the header."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write(self.folder / _HEADER, {**header, "pid": os.getpid()})

    def add(self, operation: Operation, files: Path | None = None) -> None:
        """Append an operation; `files` is a folder that is copied, since it may change before delivery."""
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"{self._next:08d}"
        self._next += 1
        if files is not None:
            shutil.copytree(files, self.folder / name)
        self._write(self.folder / f"{name}.json", operation)

    def first(self) -> tuple[Operation, Path | None] | None:
        """Return the oldest operation with its folder of files, or None when nothing waits."""
        for file in self._files():
            staged = file.with_suffix("")
            try:
                return json.loads(file.read_text(encoding="utf-8")), staged if staged.is_dir() else None
            except (OSError, ValueError):  # meddled with: nothing that could be sent
                self.drop_first()
        return None

    def drop_first(self) -> None:
        """Remove the oldest operation, and the whole folder after the last one."""
        files = self._files()
        for file in files[:1]:
            shutil.rmtree(file.with_suffix(""), ignore_errors=True)
            file.unlink(missing_ok=True)
        if len(files) <= 1:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.json"))

    def _write(self, path: Path, value: Operation) -> None:
        part = path.with_suffix(".part")
        with part.open("w", encoding="utf-8") as file:
            json.dump(value, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)


def _alive(pid: Any) -> bool:
    """Return whether another process of this machine still owns a spool."""
    if not isinstance(pid, int) or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
