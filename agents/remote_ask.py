"""Asking an inference server for responses: many at once, each until it is whole, too late or cancelled.

All of it runs on one event loop in a thread of its own, so that a request can be aborted while it waits.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from agents.call import Completion, Request
from agents.errors import ServerError
from agents.lazy import Once
from agents.remote_http import Connection, Patience, Transient
from agents.remote_row import RemoteRow
from agents.remote_wire import Dialect, Facts

T = TypeVar("T")


@dataclass(frozen=True)
class Texts:
    """What asking needs of the text side."""

    start: Callable[[Request], RemoteRow]
    """Returns the row of a request of which nothing was heard."""
    tokens: Callable[[str], Sequence[int]]
    """Tokenises a text."""
    speaker: Callable[[Request], str | None]
    """Returns the server's name of a request's adapter."""
    facts: Callable[[], Facts]
    """Returns what the server said about itself; known before anything is asked."""


class Asker:
    """The requests of one policy to one server."""

    def __init__(
        self, connection: Connection, dialect: Callable[[], Dialect], concurrency: int, deadline: float, patience: float
    ) -> None:
        """Ask nothing yet.

        Args:
            connection: To the server.
            dialect: Returns how it is spoken to; known before anything is asked.
            concurrency: Most requests at once.
            deadline: Most seconds of one request, its tries together, once it was begun.
            patience: Most seconds without any progress.
        """
        self._connection, self._dialect = connection, dialect
        self._deadline, self._patience = deadline, patience
        self._slots = asyncio.Semaphore(concurrency)
        self._loop = Once(_started_loop)
        self._running: dict[tuple[str | int, ...], asyncio.Task[Completion]] = {}

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop's thread and wait; a wait that is interrupted aborts it.

        Raises:
            ServerError: The server cannot be reached.
        """
        future = asyncio.run_coroutine_threadsafe(work, self._loop())
        try:
            return future.result()
        except Transient as trouble:
            raise ServerError(
                f"no inference server can be used at {self._connection.address} ({trouble}); see that it runs there"
            ) from trouble
        except BaseException:
            future.cancel()
            raise

    def cancel(self, key: tuple[str | int, ...] | None) -> None:
        """Abort the request with a key, or all; any thread may call."""

        def stop() -> None:
            for place, task in list(self._running.items()):
                if key is None or place == key:
                    task.cancel()

        self._loop().call_soon_threadsafe(stop)

    def close(self) -> None:
        """Abort all, close the connections and end the thread."""
        self.cancel(None)
        self.run(self._connection.close())
        loop = self._loop()
        loop.call_soon_threadsafe(loop.stop)

    async def sample(self, requests: Sequence[Request], texts: Texts) -> list[Completion | Exception]:
        """Have all requests answered; what came of each, in their order."""
        tasks = [asyncio.create_task(self._one(request, texts)) for request in requests]
        try:
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            raise
        return [_told(outcome) for outcome in outcomes]

    async def _one(self, request: Request, texts: Texts) -> Completion:
        task = asyncio.current_task()
        if task is not None:
            self._running[request.key] = task
        try:
            async with self._slots, asyncio.timeout(self._deadline):
                return (await self._speak(request, texts)).completion(1)
        except TimeoutError as error:
            raise ServerError(
                f"the inference server at {self._connection.address} took more than {self._deadline:g} s for a request "
                f"of {request.role}; give more deadline_seconds, or a lower concurrency"
            ) from error
        finally:
            self._running.pop(request.key, None)

    async def _speak(self, request: Request, texts: Texts) -> RemoteRow:
        """Ask until the response is whole; after a failure only for what is missing."""
        row, patience = texts.start(request), Patience(self._patience)
        while not row.finished:
            known = len(row.ids)
            try:
                await self._listen(row, texts)
                patience.reset()
            except Transient as trouble:
                if row.finished:
                    break
                if len(row.ids) > known:
                    patience.reset()
                if request.constraint is not None and request.constraint.regex:  # its grammar begins at token 0
                    row = texts.start(request)
                await patience.wait(trouble, self._connection.address)
        return row

    async def _listen(self, row: RemoteRow, texts: Texts) -> None:
        """Follow one answer to its end, or hang up once the response is whole: that stops the server.

        Raises:
            Transient: The answer broke off.
        """
        dialect = self._dialect()
        ask = row.ask(texts.speaker(row.request))
        sent, chosen = 0, False
        events = self._connection.events(dialect.path, dialect.body(ask, texts.facts()))
        async with aclosing(events):
            async for event in events:
                heard = dialect.read(event)
                if ask.allowed:
                    if heard.scores and not chosen:
                        row.choose(heard.scores)
                        chosen = True
                    continue
                sent += len(heard.ids)
                if heard.sampled is not None and heard.sampled > sent and not heard.done:
                    sent = heard.sampled  # llama.cpp sends no token that ends inside a character; its text comes now
                    row.guess(texts.tokens(heard.text))
                else:
                    row.hear(heard)
                if heard.done and not row.finished:
                    row.end(heard.cut)
                if row.finished and not (heard.done or dialect.stops or row.ends_by_itself):
                    return
        if not (row.finished or chosen):
            raise Transient("the answer broke off")


def _started_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="jade-remote", daemon=True).start()
    return loop


def _told(outcome: Completion | BaseException) -> Completion | Exception:
    if isinstance(outcome, Completion | Exception):
        return outcome
    if isinstance(outcome, asyncio.CancelledError):
        return ServerError("the request was cancelled")
    raise outcome
