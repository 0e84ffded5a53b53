"""The disk: full, or read-only, at random moments of a job that records runs and writes checkpoints.

A real file system, a tmpfs of some megabytes that only this process and its children see (a mount namespace of their
own, which needs no root): so what is refused is refused by the kernel, with ENOSPC and EROFS.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from faults.books import Books, books, same_lines, same_weights, torn_checkpoint
from faults.lives import Pace, lived, waited, whole
from faults.process import torn_sealed
from faults.rows import Plan, Row
from faults.toy import Job, examples_of

MEGABYTES = 64
_LIBC = ctypes.CDLL(None, use_errno=True)
_READ_ONLY, _REMOUNT = 1, 32
"""MS_RDONLY and MS_REMOUNT of mount(2)."""
_TOLD = 2
"""Exit status of a command that ends with a message for its user."""


class Disk:
    """A small file system of our own."""

    def __init__(self, folder: Path) -> None:
        """Mount it."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._ballast = folder / "ballast"
        _call("mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", str(folder))

    def fill(self, room: int) -> None:
        """Leave about `room` bytes free (whole pages of 4 KiB)."""
        block = bytes(1 << 12)
        with self._ballast.open("wb", buffering=0) as file:
            try:
                while file.write(block):
                    pass
            except OSError:
                file.truncate(max(0, file.tell() - room))

    def free(self) -> None:
        """Make room again."""
        self._ballast.unlink(missing_ok=True)

    def freeze(self, patience: float = 5.0) -> bool:
        """Make it read-only; the kernel waits for a moment in which no file is open for writing.

        Returns:
            Whether such a moment came.
        """
        until = time.monotonic() + patience
        while time.monotonic() < until:
            if _mount(self.folder, "ro"):
                return True
            time.sleep(0.0002)
        return False

    def thaw(self) -> None:
        """Make it writable again."""
        _mount(self.folder, "rw")


def _call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _mount(folder: Path, mode: str) -> bool:
    """Mount anew by the system call itself: a command would take longer than such a moment lasts."""
    flags = _REMOUNT | (_READ_ONLY if mode == "ro" else 0)
    return bool(_LIBC.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", ctypes.c_ulong(flags), None) == 0)


@dataclass(frozen=True)
class _Fault:
    done: str
    strike: Callable[[Disk, random.Random], bool]
    mend: Callable[[Disk], None]


def _fill(disk: Disk, draw: random.Random) -> bool:
    disk.fill(draw.choice([0, 0, 4096, 16384, 65536]))
    return True


FAULTS = {
    "full": _Fault("full at a random moment (0 to 64 KiB left), until the job has ended", _fill, Disk.free),
    "read-only": _Fault("read-only at a random moment, until the job has ended", lambda disk, _: disk.freeze(),
                        Disk.thaw),
}  # fmt: skip


def run(plan: Plan) -> Iterator[Row]:
    """Do both faults in a process that has its own mounts.

    Raises:
        RuntimeError: This machine gives nobody mounts of their own, or the faults could not be done.
    """
    plain = {**asdict(plan), "folder": str(plan.folder)}
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-m", "faults.disk"]
    done = subprocess.run([*command, json.dumps(plain)], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"the disk's faults could not be done: {done.stderr.strip()[-2000:]}")
    for line in done.stdout.splitlines():
        row = json.loads(line)
        yield Row(**{**row, "found": Books(**row["found"])})


def _rows(plan: Plan) -> list[Row]:
    calm = Job(str(plan.folder / "whole-disk"), plan.start, plan.questions, plan.batch)
    lived(time.sleep, 0.0)  # the fork server has imported everything now
    longest = whole(calm).seconds / 4
    disk = Disk(plan.folder / "disk")
    return [_row(plan, calm, disk, name, fault, longest) for name, fault in FAULTS.items()]


def _row(plan: Plan, calm: Job, disk: Disk, name: str, fault: _Fault, longest: float) -> Row:
    job = Job(str(disk.folder / name), plan.start, plan.questions, plan.batch, log=str(plan.folder / f"{name}.log"))
    wanted, draw, began = max(2, plan.kills // 8), random.Random(plan.seed), time.monotonic()
    pace, ends, torn, times = Pace(job, wanted, longest, plan.seed), Counter[str](), 0, 0
    while times < wanted:
        process = pace.life()
        struck = process.exitcode is None and fault.strike(disk, draw)
        status = waited(process)
        fault.mend(disk)
        if not struck and status == 0:
            break
        if struck:
            times += 1
            ends["a message" if status == _TOLD else "its usual end" if status == 0 else f"status {status}"] += 1
        torn += (torn_checkpoint(job.folder) is not None) + torn_sealed(job.folder)
    whole(job)
    seconds = time.monotonic() - began
    found = books(job.folder / "ledger", examples_of(plan.questions))
    same = same_weights(calm.folder, job.folder) and same_lines(calm.folder / "ledger", job.folder / "ledger")
    told = "the job ended with " + ", ".join(f"{count} × {how}" for how, count in ends.most_common())
    return Row("the disk", fault.done, times, found, same, seconds, torn, note=told)


def main() -> int:
    """Print one JSON line a row; run by `run` in mounts of its own."""
    given: dict[str, Any] = json.loads(sys.argv[1])
    for row in _rows(Plan(**{**given, "folder": Path(given["folder"])})):
        sys.stdout.write(json.dumps(asdict(row)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
