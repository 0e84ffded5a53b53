"""The idle moment of an event loop: nothing in it is ready to run, and no thread is at work for it.

`agents.batcher.LockstepBatcher` cuts its batches at that moment.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

MOST_THREADS = 100_000
"""Never reached: a thread is only made where one is needed, and one that blocks must never starve another."""
ASK_AGAIN = 0.5
"""Seconds after which a sleeping loop asks whether there is idle work by now."""


class IdleSelector(selectors.DefaultSelector):
    """An event loop's selector that reports the moment when nothing is ready to run.

    asyncio asks `select` with timeout 0 while callbacks are ready and with None or a positive timeout when
    the loop would go to sleep; that is the idle moment.
    """

    def __init__(self, on_idle: Callable[[], bool]) -> None:
        """Call `on_idle` when the loop is about to sleep; it returns whether it woke anything."""
        super().__init__()
        self._on_idle = on_idle

    def select(self, timeout: float | None = None) -> Any:
        """Return I/O events; do idle work first when the loop would sleep."""
        if timeout is None or timeout > 0:
            events = super().select(0)
            if events:
                return events
            timeout = 0 if self._on_idle() else min(ASK_AGAIN, timeout or ASK_AGAIN)
        return super().select(timeout)


class LockstepLoop(asyncio.SelectorEventLoop):
    """An event loop that reports its idle moments and counts the jobs in threads that have not come back to it."""

    def __init__(self, on_idle: Callable[[], bool]) -> None:
        """Call `on_idle` when the loop is about to sleep; start no thread."""
        super().__init__(IdleSelector(on_idle))
        self.busy = 0
        """Jobs in threads whose end this loop has not learned of."""
        self._threads = ThreadPoolExecutor(MOST_THREADS, "jade-node")
        self.set_default_executor(self._threads)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Run a job in a thread and count it until the loop learns of its end.

        The loop itself stops counting, in the very step in which whoever awaits the job is made ready: where the thread
        did so, the loop could find itself idle between a job's end and its news, and cut a batch one request short.
        A job that nobody awaits any more counts for as long as its thread is at work, since it may ask for something.
        """
        job = (self._threads if executor is None else executor).submit(func, *args)
        self.busy += 1
        future = asyncio.wrap_future(job, loop=self)
        future.add_done_callback(partial(self._came_back, job))
        return future

    def _came_back(self, job: Future[Any], _: asyncio.Future[Any]) -> None:
        if job.done():
            self.busy -= 1
        else:  # cancelled at work
            job.add_done_callback(self._ended)

    def _ended(self, _: Future[Any]) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self.call_soon_threadsafe(self._stop_counting)

    def _stop_counting(self) -> None:
        self.busy -= 1
