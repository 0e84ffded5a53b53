"""How a run ended: which outcome its record names, and who stopped it."""

from __future__ import annotations

import asyncio

from agents.call import Call
from agents.errors import RetrieverError
from graphs.trajectory import Outcome


def stopped_by(error: BaseException | None) -> BaseException | None:
    """Return why a run ended: a cancellation whose message is an exception stands for that exception.

    Who cancels a task tells the record why with `task.cancel(TimeoutError("…"))`; asyncio itself knows no reasons.
    """
    if isinstance(error, asyncio.CancelledError) and error.args and isinstance(error.args[0], BaseException):
        return error.args[0]
    return error


def outcome_of(error: BaseException | None, final: Call | None) -> Outcome:
    """Return the first outcome that applies (DESIGN §6); truncated and invalid speak of the final call."""
    if isinstance(error, RetrieverError):
        return "retriever-error"
    if isinstance(error, TimeoutError):
        return "timeout"
    if error is not None:
        return "crashed"
    if final is not None and final.truncated:
        return "truncated"
    if final is not None and final.format_error is not None:
        return "invalid"
    return "ok"
