"""Checkpoints from some time ago: what an alarm rolls back to that compares windows of iterations.

Such an alarm rings when what it rings for has lasted a whole window, so that the last checkpoint lies inside it. One
checkpoint a window is copied, and the two newest copies stay: one of them is always from before the last window.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from training.checkpoint import LATEST, writing

KEPT = "checkpoint.kept"


def keep(output: Path, iteration: int, window: int) -> None:
    """Copy the checkpoint that was just saved, if it is one in `window`, and let go of older copies than two.

    Args:
        output: Folder of the run.
        iteration: Iterations done.
        window: Iterations of a window.

    Raises:
        SetupError: The disk is full or read-only.
    """
    place = output / KEPT / f"{iteration:06d}"
    if iteration % window == 0 and not place.is_dir():
        fresh = place.with_name(f".{place.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        with writing(place, output):
            shutil.copytree(output / LATEST, fresh)
            fresh.replace(place)
    for folder in _copies(output)[:-2]:
        _remove(folder)


def before(output: Path, iteration: int) -> Path | None:
    """Return the newest copy of a checkpoint of at most so many iterations; None where there is none."""
    return next((folder for folder in reversed(_copies(output)) if int(folder.name) <= iteration), None)


def forget_after(output: Path, iteration: int) -> None:
    """Remove the copies of checkpoints of more iterations: what a rollback has undone must not come back by another."""
    for folder in _copies(output):
        if int(folder.name) > iteration:
            _remove(folder)


def _copies(output: Path) -> list[Path]:
    """Return the copies, oldest first."""
    found = (folder for folder in (output / KEPT).glob("*") if folder.name.isdigit())
    return sorted(found, key=lambda folder: int(folder.name))


def _remove(folder: Path) -> None:
    gone = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(gone, ignore_errors=True)
    folder.replace(gone)  # so that no half-deleted one stands if we are killed here
    shutil.rmtree(gone, ignore_errors=True)
