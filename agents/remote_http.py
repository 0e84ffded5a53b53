"""HTTP to an inference server: one pool of connections, streamed answers, and which failures are worth another try.

A request is aborted on the server by closing its stream, which is what leaving `events` early does.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from agents.errors import ServerError

_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_WAIT = 10.0
"""Longest wait between two tries, in seconds, unless the server asks for another one."""


class Transient(Exception):
    """A failure that may pass: no connection, a broken stream, an overloaded server."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        """Note why, and how many seconds the server asked to wait (None = it did not say)."""
        super().__init__(reason)
        self.wait = wait


class Patience:
    """How long to go on trying while nothing comes; each failure waits longer than the last, with jitter."""

    def __init__(self, seconds: float) -> None:
        """Start patient; `seconds` without any progress are the limit."""
        self._seconds = seconds
        self.reset()

    def reset(self) -> None:
        """Note that something came."""
        self._since: float | None = None
        self._tries = 0

    async def wait(self, trouble: Transient, address: str) -> None:
        """Wait before the next try.

        Raises:
            ServerError: Patience is at its end.
        """
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        pause = trouble.wait
        if pause is None:
            pause = random.uniform(0.5, 1.0) * min(_LONGEST_WAIT, 0.1 * 2.0**self._tries)
        self._tries += 1
        if now + pause - self._since > self._seconds:
            raise ServerError(
                f"the inference server at {address} has not answered for {self._seconds:g} s ({trouble}); see that it "
                "runs and is not overloaded, or give more patience_seconds"
            ) from trouble
        await asyncio.sleep(pause)


class Connection:
    """One server, used from one event loop."""

    def __init__(self, address: str, headers: Mapping[str, str], connections: int) -> None:
        """Connect to nothing yet.

        Args:
            address: "http://host:port", with a path where the server stands behind one.
            headers: Sent with each request, such as Authorization.
            connections: Most connections at once.
        """
        self.address = address.rstrip("/")
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        timeout = httpx.Timeout(None, connect=5.0)  # the caller's deadline covers the rest
        self._client = httpx.AsyncClient(
            base_url=self.address, headers=dict(headers), limits=limits, timeout=timeout, trust_env=False
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def get(self, path: str) -> Any:
        """Return the JSON that a path answers.

        Raises:
            Transient: It may answer later.
            ServerError: It refuses, or answers something else.
        """
        return await self._json("GET", path, None)

    async def post(self, path: str, body: Any) -> Any:
        """Send JSON; return the JSON of the answer, or its text. Raises as `get` does."""
        return await self._json("POST", path, body)

    async def events(self, path: str, body: Any) -> AsyncGenerator[Mapping[str, Any], None]:
        """Yield the JSON of each server-sent event; ends where the stream does. Raises as `get` does."""
        try:
            async with self._client.stream("POST", path, json=body) as response:
                if response.status_code != 200:
                    await response.aread()
                    self._refused(path, response)
                async for line in response.aiter_lines():
                    data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
                    if data and data != "[DONE]":
                        yield self._event(path, data)
        except httpx.TransportError as error:
            raise Transient(_said(error)) from error

    async def _json(self, method: str, path: str, body: Any) -> Any:
        try:
            response = await self._client.request(method, path, json=body)
        except httpx.TransportError as error:
            raise Transient(_said(error)) from error
        if response.status_code != 200:
            self._refused(path, response)
        try:
            return response.json()
        except ValueError:
            return response.text

    def _event(self, path: str, data: str) -> Mapping[str, Any]:
        try:
            event = json.loads(data)
        except ValueError as error:
            raise Transient(f"{path} sent half an event") from error
        if not isinstance(event, dict):
            raise ServerError(f"{self.address}{path} sent an event that is no object: {data[:200]}")
        if "error" in event:
            raise ServerError(f"{self.address}{path} failed while answering: {json.dumps(event['error'])[:500]}")
        return event

    def _refused(self, path: str, response: httpx.Response) -> None:
        told = " ".join(response.text.split())[:500]
        if response.status_code in _AGAIN:
            raise Transient(f"{response.status_code}: {told}", retry_after(response.headers.get("Retry-After")))
        hint = {401: "give its API key", 403: "give its API key", 404: "is this the right dialect and model?"}
        advice = hint.get(response.status_code, "see the server's log")
        raise ServerError(f"{self.address}{path} refused with {response.status_code}: {told}; {advice}")


def retry_after(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for: a number, or a date; None where there is none.

    >>> retry_after("1.5")
    1.5
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if seconds == seconds else None


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
