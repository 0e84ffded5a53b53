"""What only rank 0 of a job shows: the tracked run, progress, and log lines below a warning."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evaluation.delivery import TrackedRun
from evaluation.ranks import Ranks
from evaluation.spool import Operation
from evaluation.tracking import track

_log = logging.getLogger("jade.ranks")


class Untracked(TrackedRun):
    """A tracked run that keeps nothing, where another process tracks or nobody does."""

    def __init__(self) -> None:
        """Open nothing."""
        self._opened = None

    def _send(self, operation: Operation, files: Path | None = None) -> None:
        """Send nothing."""

    def _log_file(self, name: str, write: Any) -> None:
        """Write nothing."""


@contextmanager
def tracked_by_first(
    ranks: Ranks,
    experiment: str,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, Any] | None = None,
    resume: str | None = None,
) -> Iterator[TrackedRun]:
    """Track what happens inside as one run, on rank 0; arguments as `evaluation.tracking.track`."""
    if not ranks.leads:
        yield Untracked()
        return
    with track(experiment, name, params, tags, resume) as tracked:
        yield tracked


def log_as(ranks: Ranks) -> None:
    """Begin logging: rank 0 as a command does, the others only warnings, with their rank before them."""
    who = "" if ranks.leads else f"rank {ranks.rank}: "
    level = logging.INFO if ranks.leads else logging.WARNING
    logging.basicConfig(level=level, format=f"%(asctime)s {who}%(message)s", datefmt="%H:%M:%S")
    if ranks.size > 1:
        _log.info("%d processes train together: %s", ranks.size, ranks.named(range(ranks.size)))
