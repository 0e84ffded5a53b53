"""The process itself: kill -9 at random moments of a job that collects and trains, life after life."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from faults.books import books, same_lines, same_weights, torn_checkpoint, torn_lines
from faults.lives import die_often, whole
from faults.rows import Plan, Row
from faults.toy import Job, examples_of
from graphs.ledger import is_sealed
from training.checkpoint import FRESH, LATEST, PREVIOUS, find_checkpoint, read_state
from training.shares import segment_file


def run(plan: Plan) -> Iterator[Row]:
    """Kill one job again and again, and compare it with one that was never killed."""
    calm = Job(str(plan.folder / "whole"), plan.start, plan.questions, plan.batch)
    job = Job(str(plan.folder / "killed"), plan.start, plan.questions, plan.batch)
    longest = whole(calm).seconds / 4
    seen: Counter[str] = Counter()
    torn = 0

    def look() -> None:
        nonlocal torn
        seen[moment(job.folder)] += 1
        torn += torn_sealed(job.folder) + (torn_checkpoint(job.folder) is not None)

    began = time.monotonic()
    times = die_often(job, plan.kills, longest, plan.seed, look)
    seconds = time.monotonic() - began
    found = books(job.folder / "ledger", examples_of(plan.questions))
    same = same_weights(calm.folder, job.folder) and same_lines(calm.folder / "ledger", job.folder / "ledger")
    where = ", ".join(f"{count} {name}" for name, count in seen.most_common())
    yield Row("the process", "kill -9 at a random moment", times, found, same, seconds, torn, note=f"it was: {where}")


def moment(folder: Path) -> str:
    """Return what a job was doing when it was killed, from what it left."""
    if (folder / FRESH).exists():
        return "writing a checkpoint"
    if not (folder / LATEST).exists():
        return "swapping checkpoints" if (folder / PREVIOUS).exists() else "starting for the first time"
    file = segment_file(folder, read_state(folder / LATEST).iteration)
    if not file.exists():
        return "starting, or between iterations"
    return (
        "scoring or updating, or starting again before it" if is_sealed(file) else "recording runs, or starting again"
    )


def torn_sealed(folder: Path) -> int:
    """Return how many lines of the committed segments cannot be read.

    The one segment that is being recorded is thrown away and recorded again: only sealed ones are promised.
    """
    found = find_checkpoint(folder)
    if found is None:
        return 0
    done = range(read_state(found).iteration)
    return sum(torn_lines(segment_file(folder, number)) for number in done)
