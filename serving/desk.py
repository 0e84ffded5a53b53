"""The desk at which questions are taken: as many as may run and wait, and none while the server stops."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping
from typing import Any

from agents.errors import ConfigError
from graphs.options import read_options
from graphs.recorded import RecordedGraph
from graphs.trajectory import Trajectory
from serving.config import ServeConfig
from serving.job import Job
from serving.metrics import Metrics
from serving.problems import Problem, as_problem

_log = logging.getLogger("jade.serving")
_MOVE_ON = 5
"""Seconds after which a client of a stopping server may try again: it speaks to the next one then."""


class Desk:
    """One graph, its jobs, and the rule for how many there may be."""

    def __init__(self, graph: RecordedGraph, config: ServeConfig, metrics: Metrics) -> None:
        """Take the graph without its checkpointer, if it has one: nobody resumes a served run."""
        self.config, self.metrics = config, metrics
        self.draining = False
        self._jobs: dict[str, Job] = {}
        self._turns = asyncio.Semaphore(config.capacity)
        self._usual = 1.0
        self._also = graph.recorder.on_close
        without = graph.copy({"checkpointer": None}) if graph.checkpointer else graph
        self.graph = without.with_recorder(on_close=self._closed)
        metrics.watch(lambda: self.running, lambda: self.waiting)

    @property
    def running(self) -> int:
        """Return how many questions run now."""
        return sum(job.running for job in self._jobs.values())

    @property
    def waiting(self) -> int:
        """Return how many questions wait for their turn."""
        return len(self._jobs) - self.running

    @property
    def idle(self) -> bool:
        """Return whether nothing runs or waits."""
        return not self._jobs

    def accept(self, question: str, given: Mapping[str, Any], *, stream: bool = False) -> Job:
        """Take a question on.

        Args:
            question: What the client asks.
            given: The options that it named.
            stream: Whether it wants node updates and tokens.

        Raises:
            Problem: The question or an option cannot be used, the queue is full, or the server stops.
        """
        try:
            self.graph.check(question)
            options = read_options(given, self.graph.recorder.defaults)
        except ConfigError as error:
            raise as_problem(error) from None
        if self.draining:
            raise draining()
        if len(self._jobs) >= self.config.capacity + self.config.queue:
            message = f"{self.running} questions run and {self.waiting} wait, which is all that may; try again later"
            raise Problem("busy", message, headers={"Retry-After": str(self._retry_after())})
        job = Job(
            self.graph,
            question,
            given,
            options,
            turns=self._turns,
            timeout=self.config.timeout,
            stream=stream,
        )
        self._jobs[job.run] = job
        job.task.add_done_callback(lambda task: self._done(job))
        return job

    def drain(self) -> None:
        """Take nothing on any more, and send away who still waits; what runs runs on."""
        self.draining = True
        for job in list(self._jobs.values()):
            if not job.running:
                job.stop(draining())

    def abort(self) -> None:
        """Stop what runs, too; each run is recorded as stopped."""
        self.drain()
        for job in list(self._jobs.values()):
            job.stop(draining())

    def _retry_after(self) -> int:
        """Return in how many whole seconds a place is likely to be free."""
        rounds = math.ceil((self.waiting + 1) / self.config.capacity)
        return max(1, min(math.ceil(rounds * self._usual), math.ceil(self.config.timeout)))

    def _closed(self, trajectory: Trajectory) -> None:
        """Take note of a finished run, in whatever thread closes it."""
        self.metrics.run(trajectory)
        job = self._jobs.get(trajectory.run)
        if job is not None:
            job.trajectory = trajectory
        if self._also is not None:
            self._also(trajectory)

    def _done(self, job: Job) -> None:
        del self._jobs[job.run]
        error = job.error()
        if error is None:
            self._usual += 0.2 * (job.seconds - self._usual)
        elif as_problem(error).code == "failed":
            _log.error("run %s failed", job.run, exc_info=error)


def draining() -> Problem:
    """Return what clients of a stopping server are told."""
    return Problem("draining", "the server stops; ask again in a moment", headers={"Retry-After": str(_MOVE_ON)})
