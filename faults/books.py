"""What is left after a fault, counted: outcomes, lines lost and torn, and whether two jobs learned the same.

Everything is read from disk as anybody would read it, not from what the job believes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.errors import ConfigError
from evaluation.dataset import Example
from graphs.ledger_lines import Problem, read_data, read_lines
from graphs.trajectory import FAILED
from training.checkpoint import find_checkpoint, read_state

TIMES = frozenset({"at", "started", "seconds"})
"""Fields of a line that are clocks, at any depth: the only ones in which two recordings of a run may differ."""


@dataclass(frozen=True)
class Books:
    """A ledger against the questions that were asked."""

    asked: int
    outcomes: Mapping[str, int]
    """Outcome → runs."""
    reasons: Mapping[str, int]
    """Error of a failed run, cut short → runs."""
    lost: int
    """Questions without an outcome."""
    twice: int
    """Questions with more than one."""
    torn: int
    """Lines that cannot be read."""

    @property
    def answered(self) -> int:
        """Return how many runs came to an answer."""
        return sum(count for outcome, count in self.outcomes.items() if outcome not in FAILED)

    @property
    def failed(self) -> int:
        """Return how many runs failed with a reason."""
        return sum(count for outcome, count in self.outcomes.items() if outcome in FAILED)

    @property
    def exact(self) -> bool:
        """Return whether every question has exactly one outcome, and every line can be read."""
        return not (self.lost or self.twice or self.torn)


def books(ledger: Path, examples: Iterable[Example]) -> Books:
    """Compare a ledger with the questions that were asked, each once."""
    problems: list[Problem] = []
    closed: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for line in read_lines(ledger, problems.append):
        if line.event != "close":
            continue
        data = read_data(line)
        closed[str(data["question_id"])] += 1
        outcomes[str(data["outcome"])] += 1
        if data["outcome"] in FAILED:
            reasons[str(data["error"])[:90]] += 1
    asked = [example.id for example in examples]
    lost = sum(closed[name] == 0 for name in asked)
    twice = sum(count - 1 for count in closed.values())
    return Books(len(asked), dict(outcomes), dict(reasons), lost, twice, len(problems))


def torn_checkpoint(folder: Path) -> str | None:
    """Return what is wrong with the checkpoint that a run would go on from; None = whole, or none yet."""
    found = find_checkpoint(folder)
    if found is None:
        return None
    try:
        read_state(found)
    except ConfigError as error:
        return str(error)
    return None


def torn_lines(file: Path) -> int:
    """Return how many lines of a segment cannot be read; a segment that is not there counts as one."""
    if not file.is_file():
        return 1
    problems: list[Problem] = []
    for _ in read_lines(file, problems.append):
        pass
    return len(problems)


def timeless(value: Any) -> Any:
    """Return a line's data without its clocks.

    >>> timeless({"run": "a", "at": "now", "calls": [{"id": "x", "seconds": {"wait": 1}}]})
    {'run': 'a', 'calls': [{'id': 'x'}]}
    """
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in TIMES}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def same_lines(one: Path, other: Path) -> bool:
    """Return whether two ledgers hold the same files with the same lines in the same order, clocks apart."""
    names = [sorted(file.name for file in folder.glob("*.jsonl")) for folder in (one, other)]
    return names[0] == names[1] and all(_lines(one / name) == _lines(other / name) for name in names[0])


def _lines(file: Path) -> list[Any]:
    return [timeless(json.loads(line)) for line in file.read_bytes().splitlines()]


def weights(folder: Path) -> dict[str, bytes]:
    """Return every weight file that a finished job leaves, optimiser states included, as bytes."""
    files = [*(folder / "adapter").rglob("*.safetensors"), *(folder / "checkpoint").rglob("*.safetensors")]
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(files)}


def same_weights(one: Path, other: Path) -> bool:
    """Return whether two finished jobs left the same weight files, byte by byte: adapter, heads and Adam's moments."""
    left = weights(one)
    return len(left) >= 4 and left == weights(other)
