"""Scores that people give to recorded runs afterwards; they join the runs by id when a ledger is replayed."""

from __future__ import annotations

from pathlib import Path

from agents.errors import LedgerError
from graphs.ledger import LedgerWriter
from graphs.ledger_lines import UNREADABLE, OnProblem, Problem, log_problem, read_data, read_lines

_SEGMENT = "feedback"


def append_feedback(folder: Path, run: str, score: float, note: str = "") -> None:
    """Append a score for a recorded run; a later score replaces an earlier one.

    Raises:
        LedgerError: The line could not be written.
    """
    warning = LedgerWriter(folder, _SEGMENT).feedback(run, score, note)
    if warning:
        raise LedgerError(warning)


def read_feedback(path: Path, *, on_problem: OnProblem = log_problem) -> dict[str, float]:
    """Return the latest score of each run that was given one.

    Raises:
        LedgerError: No ledger at `path`.
    """
    scores: dict[str, tuple[str, float]] = {}
    for line in read_lines(Path(path), on_problem):
        if line.event != "feedback":
            continue
        try:
            score = (line.at, float(read_data(line)["score"]))
        except UNREADABLE as error:
            on_problem(Problem(line.file, line.number, f"corrupt feedback line: {error!r:.200}; skipped"))
            continue
        if line.run not in scores or score[0] >= scores[line.run][0]:
            scores[line.run] = score
    return {run: score for run, (_, score) in scores.items()}
