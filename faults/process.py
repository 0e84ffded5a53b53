"""The process itself: kill -9 at random moments of a job that collects and trains, life after life."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from faults.books import books, same_lines, same_weights, torn_checkpoint, torn_lines
from faults.lives import Pace, die_often, lived, whole
from faults.rows import Plan, Row
from faults.toy import STARTING, Job, examples_of
from training.checkpoint import find_checkpoint, read_state
from training.shares import segment_file


def run(plan: Plan) -> Iterator[Row]:
    """Kill one job again and again, and compare it with one that was never killed."""
    calm = Job(str(plan.folder / "whole"), plan.start, plan.questions, plan.batch)
    job = Job(str(plan.folder / "killed"), plan.start, plan.questions, plan.batch)
    lived(time.sleep, 0.0)  # the fork server has imported everything now
    pace = Pace(job, plan.kills, whole(calm).seconds / 4 / job.iterations, plan.seed)
    seen, met = Counter[str](), Counter[int]()
    torn = 0

    def look() -> None:
        nonlocal torn
        doing, iteration = moment(job)
        seen[doing] += 1
        met[iteration] += 1
        torn += torn_sealed(job.folder) + (torn_checkpoint(job.folder) is not None)

    began = time.monotonic()
    times = die_often(job, plan.kills, pace, look)
    seconds = time.monotonic() - began
    found = books(job.folder / "ledger", examples_of(plan.questions))
    same = same_weights(calm.folder, job.folder) and same_lines(calm.folder / "ledger", job.folder / "ledger")
    where = ", ".join(f"{name} {count}" for name, count in seen.most_common())
    spread = f"in {len(met)} of {job.iterations} iterations, at most {max(met.values(), default=0)} in one"
    note = f"killed while {where}; {spread}"
    yield Row("the process", "kill -9 at a random moment", times, found, same, seconds, torn, note=note)


def moment(job: Job) -> tuple[str, int]:
    """Return what a job was doing when it was killed, and in which iteration."""
    if not job.stage.is_file() or not (doing := job.stage.read_text()):
        doing = STARTING
    found = find_checkpoint(job.folder)
    return doing, 0 if found is None else read_state(found).iteration


def torn_sealed(folder: Path) -> int:
    """Return how many lines of the committed segments cannot be read.

    The one segment that is being recorded is thrown away and recorded again: only sealed ones are promised.
    """
    found = find_checkpoint(folder)
    if found is None:
        return 0
    done = range(read_state(found).iteration)
    return sum(torn_lines(segment_file(folder, number)) for number in done)
