"""A policy and a retriever that are loaded when first used, once, under a lock.

`langgraph dev` imports the graphs at start and draws them without a model; a graph of one's own costs nothing
until it is asked. Loading happens in whatever thread asks first (never on a serving event loop, see
`graphs.recorded`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from typing import Generic, TypeVar

from agents.call import Completion, Message, Policy, Prompt, Request
from agents.passage import Passage, Retriever

T = TypeVar("T")


class Once(Generic[T]):
    """A value made at the first call, by one thread for all that ask meanwhile.

    An error goes to those who waited for it as well, and each later call tries anew until making succeeds.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        """Remember how to make the value."""
        self._make = make
        self._lock = threading.Lock()
        self._made: Future[T] | None = None

    def __call__(self) -> T:
        """Return the value."""
        while True:
            with self._lock:
                first = self._made is None
                made = self._made = self._made or Future()
            if first:
                self._fill(made)
            try:
                return made.result()
            except CancelledError:
                if not made.cancelled():
                    raise  # of the making itself

    def _fill(self, made: Future[T]) -> None:
        try:
            made.set_result(self._make())
        except BaseException as error:
            with self._lock:
                self._made = None
            if isinstance(error, Exception):
                made.set_exception(error)
                return
            made.cancel()  # interrupted: those who wait make it themselves
            raise


class LazyPolicy:
    """A `Policy` behind `Once`."""

    def __init__(self, make: Callable[[], Policy]) -> None:
        """Load nothing yet."""
        self.load = Once(make)

    @property
    def context_length(self) -> int:
        """Return the policy's context length in tokens."""
        return self.load().context_length

    @property
    def identity(self) -> Mapping[str, str]:
        """Return the policy's identity."""
        return self.load().identity

    def encode(self, messages: Sequence[Message]) -> Prompt:
        """Render chat turns."""
        return self.load().encode(messages)

    def sample(self, requests: Sequence[Request]) -> list[Completion]:
        """Sample all requests."""
        return self.load().sample(requests)


class LazyRetriever:
    """A `Retriever` behind `Once`."""

    def __init__(self, make: Callable[[], Retriever]) -> None:
        """Open nothing yet."""
        self.load = Once(make)

    @property
    def identity(self) -> Mapping[str, str]:
        """Return the retriever's identity."""
        return self.load().identity

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Return the k closest passages of each query."""
        return self.load().search(queries, k)
