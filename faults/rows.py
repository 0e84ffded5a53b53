"""What came of a fault: one row of the table, and the table as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from faults.books import Books


@dataclass(frozen=True)
class Plan:
    """What a run of the harness does; every fault draws its moments from the seed."""

    folder: Path
    """For everything that is made."""
    start: str
    """Folder of the warm model."""
    questions: int
    batch: int
    """Questions of one iteration; divides `questions`."""
    kills: int
    """How often the process itself is killed; the disk fails an eighth as often."""
    seed: int = 0


@dataclass(frozen=True)
class Row:
    """One fault, done some times while questions were collected and trained on."""

    part: str
    done: str
    """What was done to it."""
    times: int
    found: Books
    same: bool
    """Whether training that was killed and resumed left the bytes of training that was not."""
    seconds: float
    """Wall time of everything, the undisturbed job that it is compared with not counted."""
    torn: int = 0
    """Sealed lines and checkpoints that could not be read, looked for after every single fault."""
    lost: int = 0
    """What else was lost, beside questions: tracked numbers, and operations that still wait."""
    note: str = ""
    deaths: int | None = None
    """How often the training that follows a collection was killed; None = nothing follows."""

    @property
    def held(self) -> bool:
        """Return whether the promise was kept; a fault or a death that never came shows nothing."""
        done = self.times > 0 and self.deaths != 0
        return done and self.found.exact and self.same and not (self.torn or self.lost)

    def cells(self) -> list[str]:
        """Return the row's cells in the order of `HEADINGS`."""
        found = self.found
        outcomes = f"{found.answered} answered, {found.failed} failed"
        why = [f"{count} × {reason}" for reason, count in found.reasons.items()]
        torn = self.torn + found.torn
        same = "not tried" if self.deaths == 0 else "yes" if self.same else "NO"
        then = [] if self.deaths is None else [f"the training was killed {self.deaths} times"]
        notes = "; ".join([*([self.note] if self.note else []), *then, *why]).replace("|", "/")
        cells = [
            self.part,
            self.done,
            self.times,
            found.asked,
            outcomes,
            found.lost + self.lost,
            found.twice,
            torn,
            same,
        ]
        return [*map(str, cells), f"{self.seconds:.0f}", notes]


HEADINGS = ("part", "what was done to it", "times", "questions", "outcomes", "lost", "twice", "torn",
            "resumed bit-identical", "seconds", "seen")  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [HEADINGS, ["---"] * len(HEADINGS), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
