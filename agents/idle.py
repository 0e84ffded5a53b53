"""The idle moment of an event loop: nothing in it is ready to run, and no thread is at work for it.

`agents.batcher.LockstepBatcher` cuts its batches at that moment.
"""

from __future__ import annotations

import selectors
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

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


class CountedThreads(ThreadPoolExecutor):
    """A loop's default executor that knows how many of its jobs have not ended."""

    def __init__(self) -> None:
        """Start no thread."""
        super().__init__(MOST_THREADS, "jade-node")
        self._counting = threading.Lock()
        self.busy = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a job in a thread; it counts as ended before anybody learns of its result."""
        with self._counting:
            self.busy += 1
        future = super().submit(fn, *args, **kwargs)
        future.add_done_callback(self._ended)
        return future

    def _ended(self, future: Future[Any]) -> None:
        with self._counting:
            self.busy -= 1
