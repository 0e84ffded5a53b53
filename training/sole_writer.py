"""One training command at a time writes into an output folder: two would mix their checkpoints, ledgers and metrics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from agents.errors import ConfigError
from agents.home import only_one
from evaluation.ranks import ALONE, Ranks

LOCK = ".lock"


@contextmanager
def sole_writer(output: str, ranks: Ranks = ALONE) -> Iterator[None]:
    """Hold an output folder until the `with` block ends; a process that dies lets go of it.

    Args:
        output: Made if need be.
        ranks: The processes that write together; rank 0 holds the folder for all.

    Raises:
        ConfigError, SetupError: Another command writes there; on every rank.
    """
    folder = Path(output)
    fresh = not folder.exists()
    refusal = ConfigError(
        f"another training command writes into {folder}; wait until it has ended, or give another output"
    )
    with ExitStack() as held:
        ranks.first(lambda: held.enter_context(only_one(folder / LOCK, refusal)))
        if ranks.leads and fresh:
            held.callback(_leave_nothing, folder)
        yield


def _leave_nothing(folder: Path) -> None:
    """Remove a folder in which nothing was written but the lock: a refused command leaves none."""
    with suppress(OSError):
        if [item.name for item in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()
            folder.rmdir()
