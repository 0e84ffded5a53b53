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

from agents.errors import ConfigError, ServerError

_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_WAIT = 10.0
"""Longest wait between two tries, in seconds, beside what the server asks for."""


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
        self._seconds, self._last = seconds, 0.0
        self.reset()

    def reset(self) -> None:
        """Note that something came."""
        self._since: float | None = None
        self._tries = 0

    def lapse(self) -> None:
        """Start anew where nobody has met a failure for longer than patience: the next one is another outage."""
        if time.monotonic() - self._last > max(self._seconds, _LONGEST_WAIT):
            self.reset()

    async def wait(self, trouble: Transient, address: str) -> None:
        """Wait before the next try.

        Raises:
            ServerError: Patience is at its end.
        """
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        pause = pause_before(self._tries, trouble.wait)
        self._tries += 1
        self._last = now + pause
        if now + pause - self._since > self._seconds:
            raise ServerError(
                f"the inference server at {address} has not answered for {self._seconds:g} s ({trouble}); see that it "
                "runs and is not overloaded, or give more patience_seconds"
            ) from trouble
        await asyncio.sleep(pause)


def pause_before(tries: int, asked: float | None) -> float:
    """Return how long to wait before another try, in seconds.

    Our own wait comes on top of what the server asks for: those who were told the same do not come back at once, and
    "0" is no leave to come back without a pause.

    Args:
        tries: How many tries have waited before.
        asked: What the server asks for; None = it did not say.
    """
    return (asked or 0.0) + random.uniform(0.5, 1.0) * min(_LONGEST_WAIT, 0.1 * 2.0 ** min(tries, 10))


class Connection:
    """One server, used from one event loop."""

    def __init__(self, address: str, headers: Mapping[str, str], connections: int) -> None:
        """Connect to nothing yet.

        Args:
            address: "http://host:port", with a path where the server stands behind one.
            headers: Sent with each request, such as Authorization.
            connections: Most connections at once.

        Raises:
            ConfigError: No such address is possible.
        """
        self.address = address.rstrip("/")
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        timeout = httpx.Timeout(None, connect=5.0)  # the caller's deadline covers the rest
        try:
            self._client = httpx.AsyncClient(
                base_url=self.address, headers=dict(headers), limits=limits, timeout=timeout, trust_env=False
            )
        except httpx.InvalidURL as error:
            raise ConfigError(
                f"the inference server's address is {address!r} ({error}); wanted http://HOST:PORT"
            ) from error

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
                rest = b""
                async for chunk in response.aiter_bytes():
                    # httpx's own lines would also end at U+2028 and its like, which texts may hold
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        if (event := self._event(path, line)) is not None:
                            yield event
                if (event := self._event(path, rest)) is not None:
                    yield event
        except httpx.RequestError as error:
            raise Transient(_said(error)) from error

    async def _json(self, method: str, path: str, body: Any) -> Any:
        try:
            response = await self._client.request(method, path, json=body)
        except httpx.RequestError as error:
            raise Transient(_said(error)) from error
        if response.status_code != 200:
            self._refused(path, response)
        try:
            return response.json()
        except (ValueError, RecursionError):
            return response.text

    def _event(self, path: str, line: bytes) -> Mapping[str, Any] | None:
        """Return the event that a line holds, or None."""
        data = line.removeprefix(b"data:").strip() if line.startswith(b"data:") else b""
        if not data or data == b"[DONE]":
            return None
        try:
            event = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise Transient(f"{path} sent half an event") from error
        if not isinstance(event, dict):
            raise ServerError(f"{self.address}{path} sent an event that is no object: {data[:200]!r}")
        if event.get("error") is not None:
            raise ServerError(f"{self.address}{path} failed while answering: {json.dumps(event['error'])[:500]}")
        return event

    def _refused(self, path: str, response: httpx.Response) -> None:
        told = " ".join(response.text.split())[:500]
        if response.status_code in _AGAIN:
            raise Transient(f"{response.status_code}: {told}", retry_after(response.headers.get("Retry-After")))
        hint = {401: "give its API key", 403: "give its API key", 404: "is this the right dialect and model?"}
        advice = hint.get(response.status_code, "see the server's log")
        message = f"{self.address}{path} refused with {response.status_code}: {told}; {advice}"
        raise ServerError(message, response.status_code)


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
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if seconds == seconds else None


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
