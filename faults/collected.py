"""Questions that are collected while a part fails: the books afterwards, and training on what was recorded."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from typing import Any

from faults.books import Books, books, same_weights
from faults.lives import PATIENCE, Pace, die_often, start, waited, whole
from faults.rows import Plan, Row
from faults.toy import Job, collect, examples_of, ledger_of

MOST = 16
"""Most questions at once; fewer where few are asked, so that no single fault meets all of them."""
DEATHS = 3
"""How often the training that follows is killed."""


@dataclass(frozen=True)
class Scene:
    """A collection and what is done to it."""

    part: str
    done: str
    make: Callable[..., Any]
    """Returns the policy and the retriever; importable, since it runs in the collecting process."""
    arguments: tuple[Any, ...]
    disturb: Callable[[ForkServerProcess], int]
    """Does the fault until the process has ended, and returns how often."""
    after: float = 0.0
    """Share of the questions that end before the first fault: what is left must be enough to train on."""


def through(plan: Plan, name: str, scene: Scene) -> Row:
    """Collect all questions while the scene's part fails, train on what was recorded, and count.

    Raises:
        RuntimeError: The collection ended by itself.
    """
    job = Job(str(plan.folder / name), plan.start, plan.questions, plan.batch)
    began = time.monotonic()
    process = start(collect, job, scene.make, scene.arguments, min(MOST, max(1, plan.questions // 8)))
    begins(process, job, scene.after)
    times = scene.disturb(process)
    status = waited(process)
    if status != 0:
        raise RuntimeError(f"the collection ended with {status}; see {job.output}.log")
    found = books(ledger_of(job), examples_of(plan.questions))
    seconds = time.monotonic() - began
    same, deaths, more = resumes(job, found, plan.seed)
    return Row(scene.part, scene.done, times, found, same, seconds + more, deaths=deaths)


def begins(process: ForkServerProcess, job: Job, share: float) -> None:
    """Wait until a share of the questions has ended, at least until the first run is recorded.

    A fault before that only refuses the command.
    """
    file, end = ledger_of(job), time.monotonic() + PATIENCE
    while process.exitcode is None and time.monotonic() < end:
        if file.is_file() and file.read_bytes().count(b'{"event":"close"') >= share * job.questions:
            return
        process.join(0.01)


def resumes(job: Job, found: Books, seed: int) -> tuple[bool, int, float]:
    """Train on what a job recorded, once undisturbed and once killed and resumed; say whether both learned the same.

    Returns:
        Whether they did, how often the disturbed one was killed, and its seconds.
    """
    batch = job.questions if found.failed else max(1, job.questions // 2)  # a batch may not have failed as a whole
    calm, killed = (
        Job(f"{job.output}-{name}", job.start, job.questions, batch, str(ledger_of(job))) for name in ("calm", "killed")
    )
    longest, began = whole(calm).seconds / 4, time.monotonic()  # longer lives would come to the end
    deaths = die_often(killed, DEATHS, Pace(killed, DEATHS, longest, seed))
    return same_weights(calm.folder, killed.folder), deaths, time.monotonic() - began


def now_and_then(process: ForkServerProcess, plan: Plan, fault: Callable[[], None]) -> int:
    """Do a fault 0.2 to 2 s after the last one is over, until the process has ended; return how often.

    At most a tenth as often as the process is killed: a machine so slow that nothing is done in between would never
    come to the end.
    """
    draw, times = random.Random(plan.seed), 0
    while times < max(2, plan.kills // 10):
        process.join(draw.uniform(0.2, 2.0))
        if process.exitcode is not None:
            break
        fault()
        times += 1
    return times


def outages(
    plan: Plan, down: Callable[[], None], up: Callable[[], None], seconds: tuple[float, float]
) -> tuple[Callable[[ForkServerProcess], int], Callable[[ForkServerProcess], int]]:
    """Return two ways to disturb: a part goes down and comes up, again and again; and down until the process has ended.

    Args:
        plan: Its seed draws how long.
        down: Takes the part away.
        up: Brings it back.
        seconds: Shortest and longest time between the two.
    """
    draw = random.Random(plan.seed)

    def outage() -> None:
        down()
        time.sleep(draw.uniform(*seconds))
        up()

    def for_good(process: ForkServerProcess) -> int:
        down()
        process.join(PATIENCE)
        up()
        return 1

    return lambda process: now_and_then(process, plan, outage), for_good
