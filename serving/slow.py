"""Clients who take their time: a request's head that does not arrive, and what is cut off when the server ends.

Both come before anybody was asked for a key, so neither may hold memory or a connection for as long as it likes.
"""

from __future__ import annotations

import asyncio
import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from serving.body import ARRIVAL_SECONDS
from serving.desk import draining
from serving.problems import refuse

HEAD_SECONDS = ARRIVAL_SECONDS
"""A connection whose next request has not told its path and headers after so long is closed."""
MOST_HEAD = 64 * 1024
"""Most bytes of path and headers; beyond them 400. (uvicorn's other parser, httptools, has no such limit.)"""
_log = logging.getLogger("jade.serving")


class HeadLimit(H11Protocol):
    """uvicorn's connection, closed where a head takes too long; uvicorn itself limits the pause between requests."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take some bytes; as long as they are no whole head, the clock of the first of them runs on."""
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._wait()
        else:
            self._rest()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._rest()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _rest(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class CutOff:
    """ASGI middleware around everything: a request that the ending server gives up ends without a traceback.

    uvicorn cancels what is not sent or read some seconds after the last run has ended.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; who has not sent all of it by the end is told that the server stops."""
        started = False

        async def noting(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, noting)
        except asyncio.CancelledError:
            if scope["type"] != "http":
                raise
            _log.warning("a client was cut off at the end: it had not %s in time", "read" if started else "sent all")
            if not started:
                await refuse(draining(), scope, receive, send)
