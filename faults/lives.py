"""Processes that may be killed: forked from a warm server, so that a life begins in a fraction of a second.

The fork server has imported everything and computed nothing: no thread of torch exists when it forks, which is what
makes forking sound. Each way of dying is a real signal to a real process.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from faults.toy import STARTING, Job, train
from training.checkpoint import find_checkpoint, read_state

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 600.0
"""Seconds after which a process that should have ended counts as stuck."""
PRELOAD = ["faults.toy", "training.ppo", "torch.optim", "peft", "agents.remote", "agents.retriever"]


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    status: int
    """Exit status; negative = the signal that killed it."""
    seconds: float


@contextmanager
def _importable() -> Iterator[None]:
    """Let the fork server, which starts with the first process, import what we import."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([before] if before else [])])
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def start(target: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """Start a function in a process of its own."""
    context: ForkServerContext = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=target, args=arguments, daemon=True)
    with _importable():
        process.start()
    return process


def lived(target: Callable[..., None], *arguments: Any) -> Ended:
    """Run a function in a process of its own to its end.

    Raises:
        TimeoutError: It is stuck.
    """
    began = time.monotonic()
    return Ended(waited(start(target, *arguments)), time.monotonic() - began)


def waited(process: ForkServerProcess) -> int:
    """Wait until a process has ended, and return its exit status.

    Raises:
        TimeoutError: It is stuck.
    """
    process.join(PATIENCE)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"process {process.pid} did not end in {PATIENCE:g} s")
    return process.exitcode


def whole(job: Job) -> Ended:
    """Run a job that nobody disturbs.

    Raises:
        RuntimeError: It failed all the same.
    """
    ended = lived(train, job)
    if ended.status != 0:
        raise RuntimeError(f"the undisturbed job ended with {ended.status}; see {job.output}.log")
    return ended


class Pace:
    """How long lives last, so that a given number of deaths is spread over a whole job.

    A quarter of the lives end while the process starts. The others last from its first stage on for a time that is
    uniform below a longest one, which is drawn out while the job is behind its schedule, shortened while it is ahead.
    """

    def __init__(self, job: Job, deaths: int, longest: float, seed: int) -> None:
        """Begin with lives of at most `longest` seconds after starting."""
        self._job, self._deaths, self._longest = job, deaths, longest
        self._draw, self._died, self._starting = random.Random(seed), 0, 0.0

    def life(self) -> ForkServerProcess:
        """Start the job and return when it has lived for long enough, or has ended; it is not killed here.

        Raises:
            TimeoutError: It is stuck at its start; it is dead then.
        """
        self._job.stage.parent.mkdir(parents=True, exist_ok=True)
        self._job.stage.write_text(STARTING)
        began, process = time.monotonic(), start(train, self._job)
        longest, starts = self._next(), self._draw.random() < 0.25
        if starts and self._starting:
            process.join(self._draw.uniform(0.0, self._starting))
            return process
        while process.exitcode is None and self._job.stage.read_text() in ("", STARTING):  # "": it is being written
            if time.monotonic() - began > PATIENCE:
                process.kill()
                raise TimeoutError(f"process {process.pid} is still starting after {PATIENCE:g} s")
            process.join(0.005)
        self._starting = time.monotonic() - began
        process.join(self._draw.uniform(0.0, longest))
        return process

    def _next(self) -> float:
        ahead = self.progress() > self._died / max(1, self._deaths)
        self._longest *= 0.85 if ahead else 1.15
        self._died += 1
        return self._longest

    def progress(self) -> float:
        """Return the share of the job that is done: iterations with a checkpoint."""
        found = find_checkpoint(self._job.folder)
        return 0.0 if found is None else read_state(found).iteration / self._job.iterations


def die_often(job: Job, deaths: int, pace: Pace, after: Callable[[], None] = lambda: None) -> int:
    """Kill a job by SIGKILL at random moments, life after life, then let it live to its end.

    Args:
        job: The job; what stands in its folder is gone on with.
        deaths: How often.
        pace: How long the lives last.
        after: Called after each death.

    Returns:
        How often it was killed: fewer than wanted only where the job was done before.

    Raises:
        RuntimeError: It ended by itself before its end.
    """
    died = 0
    while died < deaths:
        process = pace.life()
        if process.exitcode is None:
            process.kill()
            waited(process)
            died += 1
            after()
        elif process.exitcode != 0:
            raise RuntimeError(f"the job ended by itself with {process.exitcode}; see {job.output}.log")
        else:
            return died
    whole(job)
    return died
