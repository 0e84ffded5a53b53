"""Server-sent events: one response that hands on what a job says, keeps the line open, and notices who hangs up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serving.job import Job, watched
from serving.problems import Problem, note_outcome

PING_SECONDS = 15.0
"""Pause after which a comment is sent, so that no proxy takes a thinking planner for a dead line."""
PING = b": still at work\n\n"


def encode_event(data: Any, name: str | None = None) -> bytes:
    """Return one event; JSON in ASCII holds no line break that could end it early."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data)}\n\n".encode("ascii")


class EventStream(Response):
    """A job's events, as they come; an error that comes after the first of them is itself an event."""

    media_type = "text/event-stream"

    def __init__(self, job: Job, events: AsyncIterator[bytes], error_name: str | None = None) -> None:
        """Stream `events`, which come from `job`.

        Args:
            job: Stopped when the client goes away.
            events: Encoded events.
            error_name: Name of the event that tells of an error; None = it has none, as OpenAI's clients expect.
        """
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.job, self.events, self.error_name = job, events, error_name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything."""
        async with watched(self.job, receive):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            pings = asyncio.create_task(_ping(send))
            try:
                await self._send_events(scope, send)
            finally:
                pings.cancel()
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_events(self, scope: Scope, send: Send) -> None:
        try:
            async for event in self.events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        except Problem as problem:
            note_outcome(scope, problem.code)
            body = encode_event(problem.body(), self.error_name)
            await send({"type": "http.response.body", "body": body, "more_body": True})


async def _ping(send: Send) -> None:
    while True:
        await asyncio.sleep(PING_SECONDS)
        await send({"type": "http.response.body", "body": PING, "more_body": True})
