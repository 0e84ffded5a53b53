"""What a batch had to leave out: run ids by named reason, so that nothing disappears uncounted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Dropped:
    """Runs left out of training, by reason. Reasons are short and stable: they become metric names."""

    runs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Reason → run ids in the order met."""

    @staticmethod
    def of(pairs: Iterable[tuple[str, str]]) -> Dropped:
        """Group (reason, run id) pairs by reason."""
        grouped: dict[str, list[str]] = {}
        for reason, run in pairs:
            grouped.setdefault(reason, []).append(run)
        return Dropped({reason: tuple(runs) for reason, runs in grouped.items()})

    @property
    def counts(self) -> dict[str, int]:
        """Return how many runs each reason cost."""
        return {reason: len(runs) for reason, runs in self.runs.items()}

    @property
    def total(self) -> int:
        """Return how many runs were left out for any reason."""
        return sum(self.counts.values())

    def __add__(self, other: Dropped) -> Dropped:
        sides = [*self.runs.items(), *other.runs.items()]
        return Dropped.of((reason, run) for reason, runs in sides for run in runs)
