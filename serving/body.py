"""How large a request may be, and how long it may take to arrive; the graph sees neither before that is settled."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.problems import Problem, refuse

ARRIVAL_SECONDS = 30.0
"""A body that takes longer is given up."""


class BodyLimit:
    """ASGI middleware that reads a body of at most `limit` bytes and hands it on in one piece."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        """Wrap `app`."""
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 413 or 408."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(ARRIVAL_SECONDS):
                body = await self._read(scope, receive)
        except TimeoutError:
            problem = Problem("too_slow", f"the body took longer than {ARRIVAL_SECONDS:g} seconds to arrive")
            await refuse(problem, scope, receive, send)
            return
        except Problem as problem:
            await refuse(problem, scope, receive, send)
            return
        await self.app(scope, _replay(body, receive), send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        """Return the whole body.

        Raises:
            Problem: It is too large, or its sender went away.
        """
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        body = bytearray()
        if declared.isdigit() and (len(declared) > 15 or int(declared) > self.limit):
            raise self._too_large()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Problem("gone", "the client went away")
            body += message.get("body", b"")
            if len(body) > self.limit:
                raise self._too_large()
            if not message.get("more_body"):
                return bytes(body)

    def _too_large(self) -> Problem:
        return Problem(
            "too_large",
            f"the body is larger than {self.limit:,} bytes; long material belongs into the index",
            headers={"Connection": "close"},
        )


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body once, and then whatever else happens."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
