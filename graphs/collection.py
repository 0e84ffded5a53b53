"""Collect recorded executions in lock-step: reproducible batches, no timers, no wall-clock timeouts.

All runs live in one private event loop. When nothing in it is ready to run, every run waits: queued queries
are answered together, then all queued requests are sampled together. A failed run is a record, not an
exception; only when every run failed does `collect` raise. (Parallel branches of one run that also wait for
something else, a timer or a web service, race: which of them share a batch is not reproducible then.)
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from langchain_core.runnables import RunnableConfig

from agents.batcher import LockstepBatcher
from agents.call import Policy
from agents.errors import ConfigError
from agents.idle import LockstepLoop
from graphs.ledger import LedgerWriter
from graphs.options import Options, read_options
from graphs.recorded import RecordedGraph
from graphs.run import RUN_ID_KEY
from graphs.trajectory import FAILED, Trajectory

T = TypeVar("T")
QuestionLike = str | Mapping[str, Any]


@dataclass
class Timing:
    """Where the wall time of a collection went, in seconds."""

    model: float = 0.0
    """All of the policy's work: prefill, decode, and what surrounds them (cutting and filling micro-batches)."""
    prefill: float = 0.0
    """Of that: reading prompts. As recorded in the calls, so of runs that left a record."""
    decode: float = 0.0
    """Of that: sampling responses."""
    retrieval: float = 0.0
    total: float = 0.0

    @property
    def graph(self) -> float:
        """Return the rest: LangGraph, parsing, recording."""
        return max(0.0, self.total - self.model - self.retrieval)


@dataclass(frozen=True)
class Job:
    """One run to be made."""

    index: int
    input: QuestionLike
    options: Options
    run: str
    """Its id."""


@dataclass
class Gathered:
    """Trajectories by run id, as runs close."""

    closed: dict[str, Trajectory] = field(default_factory=dict)
    errors: list[BaseException] = field(default_factory=list)


def collect(
    graph: RecordedGraph,
    questions: Sequence[QuestionLike],
    *,
    policy: Policy | None = None,
    ledger: LedgerWriter | None = None,
    in_flight: int = 64,
    runs: int = 1,
    timing: Timing | None = None,
    on_done: Callable[[Trajectory], None] | None = None,
    share: tuple[int, int] = (0, 1),
    **options: Any,
) -> list[Trajectory]:
    """Run the graph on all questions and return their trajectories, in order (runs of a question together).

    Args:
        graph: A recorded graph.
        questions: Texts, or mappings with the graph's input and optionally "id".
        policy: Who plays the roles; default: the graph's own policy.
        ledger: Where to record; default: the graph's own ledger.
        in_flight: Most runs at once.
        runs: Runs of each question; the i-th uses seed + i.
        timing: Filled with where the wall time went.
        on_done: Called with each trajectory as its run ends.
        share: (rank, number of ranks): only every so many-th question, with the run ids and seeds of the whole; where
            all runs of a share fail, that is for those to judge who see the other shares.
        **options: Per-call options such as `workflow="R,AG"` or `record="train"`.

    Raises:
        ConfigError: No questions, an unusable one, or an impossible option; nothing has run then.
        Exception: The first run's error, when every run failed.
    """
    if not questions:
        raise ConfigError("collect() was given no questions; give at least one")
    base = read_options(options, graph.recorder.defaults)
    graph.recorder.at(base.cost)
    batcher = LockstepBatcher(policy or graph.recorder.batcher.policy)
    gathered = Gathered()

    def note(trajectory: Trajectory) -> None:
        gathered.closed[trajectory.run] = trajectory
        if on_done is not None:
            on_done(trajectory)

    private = graph.with_recorder(
        batcher=batcher, ledger=ledger or graph.recorder.ledger, on_close=note, defaults=Options()
    )
    rank, ranks = share
    jobs = [job for job in _jobs(questions, base, runs, graph.recorder.input) if job.index // runs % ranks == rank]
    for job in jobs:
        private.check(job.input)
    started = time.perf_counter()
    drive(batcher, lambda: run_jobs(private, jobs, in_flight, gathered))
    elapsed = time.perf_counter() - started
    results = [gathered.closed[job.run] for job in jobs]
    if timing is not None:
        timing.model += batcher.model_seconds
        timing.prefill += _recorded(results, "prefill")
        timing.decode += _recorded(results, "decode")
        timing.retrieval += batcher.retrieval_seconds
        timing.total += elapsed
    if ranks == 1 and gathered.errors and all(result.outcome in FAILED for result in results):
        raise gathered.errors[0]
    return results


def _recorded(results: Sequence[Trajectory], kind: str) -> float:
    """Return the wall seconds of a kind: each call holds its share of its batch's."""
    return math.fsum(call.seconds.get(kind, 0.0) for result in results for call in result.calls)


def _jobs(questions: Sequence[QuestionLike], base: Options, runs: int, key: str) -> list[Job]:
    """Give each run its seed and an id that is the same whenever it is collected again."""
    jobs: list[Job] = []
    for item in questions:
        given = dict(item) if isinstance(item, Mapping) else {key: item}
        named = given.pop("id", None)
        identifier = base.question_id if named is None else str(named)
        for turn in range(runs):
            options = base.model_copy(update={"seed": base.seed + turn, "question_id": identifier})
            name = f"{options.seed}|{identifier}|{given.get(key)}|{len(jobs)}"
            run = hashlib.blake2b(name.encode(errors="backslashreplace"), digest_size=8).hexdigest()
            jobs.append(Job(len(jobs), given, options, run))
    return jobs


async def run_jobs(graph: RecordedGraph, jobs: Sequence[Job], in_flight: int, gathered: Gathered) -> None:
    """Make the runs of some jobs, at most `in_flight` at once; what they raise is gathered once they were begun."""
    slots = asyncio.Semaphore(in_flight)

    async def one(job: Job) -> None:
        async with slots:
            config: RunnableConfig = {"configurable": {RUN_ID_KEY: job.run}}
            try:
                await graph.ainvoke(job.input, config, **job.options.model_dump())
            except Exception as error:
                if job.run not in gathered.closed:
                    raise  # refused before it became a run: the caller's mistake
                gathered.errors.append(error)

    tasks = [asyncio.create_task(one(job)) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def drive(batcher: LockstepBatcher, work: Callable[[], Any]) -> None:
    """Run `work` in a private event loop that reports its idle moments to the batcher."""

    def factory() -> asyncio.AbstractEventLoop:
        loop = LockstepLoop(batcher.idle)

        def wake() -> None:
            loop.call_soon_threadsafe(_nothing)

        batcher.wake = wake
        batcher.busy = lambda: loop.busy
        return loop

    def run() -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(work())

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        run()
        return
    _in_thread(run)


def _in_thread(run: Callable[[], None]) -> None:
    """Run in a fresh thread, because this one already has a running event loop (a notebook, say)."""
    failure: list[BaseException] = []

    def guarded() -> None:
        try:
            run()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=guarded, name="jade-collect")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]


def _nothing() -> None:
    """Wake the loop."""
