"""A job in a thread of its own that nobody has to wait for.

In a pool, jobs that hang keep others waiting, and Python waits for a pool's threads before it ends; a thread of this
kind dies with the process.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from threading import Thread
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def aside(work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> Future[T]:
    """Start a job in a daemon thread, in the caller's context; the future gets what it returns or raises."""
    job: Future[T] = Future()

    def do() -> None:
        if not job.set_running_or_notify_cancel():
            return
        try:
            job.set_result(work(*arguments, **named))
        except BaseException as error:
            job.set_exception(error)

    Thread(target=copy_context().run, args=(do,), name="jade-aside", daemon=True).start()
    return job
