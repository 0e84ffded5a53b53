"""Where targets put the files that their readers read: in memory where the machine has such a place."""

from __future__ import annotations

import atexit
import tempfile
from functools import cache
from pathlib import Path

_MEMORY = Path("/dev/shm")


@cache
def scratch() -> Path:
    """Return this process's folder; it is removed when the process ends."""
    place = _MEMORY if _MEMORY.is_dir() else None
    folder = tempfile.TemporaryDirectory(prefix="jade-fuzz-", dir=place)
    atexit.register(folder.cleanup)
    return Path(folder.name)


def put(name: str, data: bytes) -> Path:
    """Write a file of the scratch folder and return its path."""
    file = scratch() / name
    file.write_bytes(data)
    return file
