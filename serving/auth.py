"""Who may ask: `Authorization: Bearer KEY`, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.problems import Problem, refuse

OPEN = frozenset({"/health", "/ready"})
"""Paths that need no key: they tell a probe that somebody is there, and nothing else."""


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


class KeyGuard:
    """ASGI middleware that lets nobody in without a key, before the body is read; without keys it lets all in."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        """Keep digests of the keys, which are of one length whatever the keys are."""
        self.app = app
        self._digests = tuple(_digest(key.encode()) for key in keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401."""
        if scope["type"] != "http" or scope["path"] in OPEN or not self._digests or self._knows(scope):
            await self.app(scope, receive, send)
            return
        message = "an API key is needed: send the header Authorization: Bearer KEY"
        await refuse(Problem("unauthorized", message, headers={"WWW-Authenticate": "Bearer"}), scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        """Return whether the request names a key; every key is compared, so that time tells nothing."""
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, key = given.partition(b" ")
        digest = _digest(key.strip())
        known = [hmac.compare_digest(digest, one) for one in self._digests]
        return scheme.lower() == b"bearer" and any(known)
