"""Where JADE keeps what it can make again: models/, index/ and ledger/ below one folder. Leaf module."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agents.errors import ConfigError, JadeError


def jade_home() -> Path:
    """Return the cache folder, made if need be: environment variable JADE_HOME, else ~/.jade.

    Raises:
        ConfigError: The folder cannot be created, or something that is no folder stands in its place.
    """
    home = Path(os.environ.get("JADE_HOME") or "~/.jade").expanduser()
    try:
        home.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"the cache folder {home} cannot be created ({error}); set JADE_HOME to a folder that you may write to"
        ) from error
    return home


@contextmanager
def only_one(lock_file: Path, refusal: JadeError) -> Iterator[None]:
    """Hold a lock file, whose folder is made if need be; the operating system frees it if the process dies.

    Raises:
        JadeError: `refusal`, when another process holds it.
        ConfigError: The folder cannot be written to.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(lock_file)
    try:
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise refusal from error
    except (OSError, NotImplementedError) as error:
        raise ConfigError(
            f"{lock_file.parent} cannot be written to ({error}); make it writable, or give another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()
