"""Asking an inference server for responses: many at once, each until it is whole, too late or cancelled.

All of it runs on one event loop in a thread of its own, so that a request can be aborted while it waits.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from agents.call import Completion, Request
from agents.errors import ServerError
from agents.lazy import Once
from agents.remote_http import Connection, Patience, Transient
from agents.remote_row import RemoteRow
from agents.remote_wire import Dialect, Facts, Heard, understand

T = TypeVar("T")
_log = logging.getLogger("jade.remote")
_CANCELLED = "the request was cancelled"


@dataclass(frozen=True)
class Texts:
    """What asking needs of the text side."""

    start: Callable[[Request], RemoteRow]
    """Returns the row of a request of which nothing was heard."""
    tokens: Callable[[str], Sequence[int]]
    """Tokenises a text."""
    speaker: Callable[[Request], str | None]
    """Returns the server's name of a request's adapter."""
    restore: Callable[[Request], Awaitable[bool]]
    """Has a request's adapter loaded again; returns whether it was us who had it loaded."""
    facts: Callable[[], Facts]
    """Returns what the server said about itself; known before anything is asked."""


class Asker:
    """The requests of one policy to one server. Thread-safe."""

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
        self._outage = Patience(patience)
        self._loop = Once(_started_loop)
        self._running: dict[asyncio.Task[Any], tuple[str | int, ...] | None] = {}
        """What can be cancelled: task → its request's key, None = no request."""
        self._ending, self._closed = threading.Lock(), False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop's thread and wait; a wait that is interrupted aborts it.

        Raises:
            ServerError: It was cancelled, or all is closed.
        """
        with self._ending:
            if self._closed:
                work.close()
                raise ServerError(f"the connections to {self._connection.address} were closed; make a new policy")
            future = asyncio.run_coroutine_threadsafe(work, self._loop())
        try:
            return future.result()
        except CancelledError as error:
            raise ServerError(_CANCELLED) from error
        except BaseException:
            future.cancel()
            raise

    def insist(self, what: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do what may be done twice until the server has answered; an outage is waited out once, not at each call.

        Args:
            what: Names the work in messages.
            work: Begins a try.

        Raises:
            ServerError: The server cannot be reached, refuses, did not answer in time, or the work was cancelled.
        """

        async def begun() -> T:
            return await self._begin(self._insist(what, work), None)

        return self.run(begun())

    def cancel(self, key: tuple[str | int, ...] | None) -> None:
        """Abort the requests with a key, or all that runs; any thread may call."""

        def stop() -> None:
            for task, place in list(self._running.items()):
                if key is None or place == key:
                    task.cancel()

        with self._ending:
            if not self._closed:
                self._loop().call_soon_threadsafe(stop)

    def close(self) -> None:
        """Abort all, close the connections and end the thread; whoever waits is told."""
        with self._ending:
            if self._closed:
                return
            self._closed, loop = True, self._loop()
            ended = asyncio.run_coroutine_threadsafe(self._end(), loop)
        try:
            ended.result()
        finally:
            loop.call_soon_threadsafe(loop.stop)

    async def sample(self, requests: Sequence[Request], texts: Texts) -> list[Completion | Exception]:
        """Have all requests answered; what came of each, in their order."""
        tasks = [self._begin(self._one(request, texts), request.key) for request in requests]
        try:
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            raise
        return [_told(outcome) for outcome in outcomes]

    def _begin(self, work: Coroutine[Any, Any, T], key: tuple[str | int, ...] | None) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._running[task] = key
        task.add_done_callback(self._running.pop)
        return task

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._connection.close()

    async def _insist(self, what: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        self._outage.lapse()
        warned = False
        async with self._in_time(what):
            while True:
                try:
                    found = await work()
                except Transient as trouble:
                    if not warned:
                        _log.warning("%s does not answer (%s): trying again", self._connection.address, trouble)
                    warned = True
                    await self._outage.wait(trouble, self._connection.address)
                else:
                    self._outage.reset()
                    return found

    async def _one(self, request: Request, texts: Texts) -> Completion:
        async with self._slots, self._in_time(f"a request of {request.role}"):
            return (await self._speak(request, texts)).completion(1)

    @asynccontextmanager
    async def _in_time(self, what: str) -> AsyncIterator[None]:
        """Hold some work to the deadline.

        Raises:
            ServerError: It took longer.
        """
        try:
            async with asyncio.timeout(self._deadline):
                yield
        except TimeoutError as error:
            raise ServerError(
                f"the inference server at {self._connection.address} took more than {self._deadline:g} s for {what}; "
                "give more deadline_seconds, or a lower concurrency"
            ) from error

    async def _speak(self, request: Request, texts: Texts) -> RemoteRow:
        """Ask until the response is whole; after a failure only for what is missing."""
        row, patience = texts.start(request), Patience(self._patience)
        while not row.finished:
            known = len(row.ids)
            try:
                await self._follow(row, texts)
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

    async def _follow(self, row: RemoteRow, texts: Texts) -> None:
        """Follow one answer; a server that has forgotten the adapter, as after a restart, loads it and is asked again.

        Raises:
            Transient: The answer broke off.
        """
        try:
            await self._listen(row, texts)
        except ServerError as refusal:
            if refusal.status != 404 or not await texts.restore(row.request):
                raise
            await self._listen(row, texts)

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
                heard = understand(dialect, event, self._connection.address)
                with self._addressed():
                    if ask.allowed:
                        chosen = chosen or _chosen(row, heard)
                        continue
                    sent = _taken(row, heard, sent, texts)
                if heard.done and not row.finished:
                    row.end(heard.cut)
                if row.finished and not (heard.done or dialect.stops or row.ends_by_itself):
                    return
        if not (row.finished or chosen):
            raise Transient("the answer broke off")

    @contextmanager
    def _addressed(self) -> Iterator[None]:
        try:
            yield
        except ServerError as error:
            raise ServerError(f"{self._connection.address}: {error}") from error


def _chosen(row: RemoteRow, heard: Heard) -> bool:
    """Draw the next token where the event has the scores to draw it from; return whether it had."""
    if heard.scores:
        row.choose(heard.scores)
    return bool(heard.scores)


def _taken(row: RemoteRow, heard: Heard, sent: int, texts: Texts) -> int:
    """Append what an event says; return how many tokens have come by now, those included that are not sent."""
    sent += len(heard.ids)
    if heard.sampled is None or heard.sampled <= sent or heard.done:
        row.hear(heard)
        return sent
    row.guess(texts.tokens(heard.text))  # llama.cpp sends no token that ends inside a character; its text comes now
    return heard.sampled


def _started_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()

    def turn() -> None:
        try:
            loop.run_forever()
        finally:
            loop.close()

    threading.Thread(target=turn, name="jade-remote", daemon=True).start()
    return loop


def _told(outcome: Completion | BaseException) -> Completion | Exception:
    if isinstance(outcome, Completion | Exception):
        return outcome
    if isinstance(outcome, asyncio.CancelledError):
        return ServerError(_CANCELLED)
    raise outcome
