"""Without keys only this machine may ask; a browser's page from elsewhere whose name resolves to us is not it."""

from __future__ import annotations

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.config import is_loopback
from serving.problems import Problem, refuse


class LocalOnly:
    """ASGI middleware that refuses requests to any other name than this machine's own (DNS rebinding)."""

    def __init__(self, app: ASGIApp, wanted: bool) -> None:
        """Wrap `app`; where it is not `wanted`, everything passes."""
        self.app, self.wanted = app, wanted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 403."""
        if scope["type"] != "http" or not self.wanted or is_loopback(_host(scope)):
            await self.app(scope, receive, send)
            return
        message = "this server takes questions without a key, and so only under a loopback name such as 127.0.0.1"
        await refuse(Problem("unauthorized", message, status=403), scope, receive, send)


def _host(scope: Scope) -> str:
    """Return the host that the client believes to speak to, without port and brackets; none = loopback."""
    given = HTTPConnection(scope).headers.get("host", "localhost")
    name, _, port = given.rpartition(":")
    host = name if port.isdigit() and name else given
    return host.strip("[]").lower()
