"""A policy and a retriever that are loaded when first used, once, under a lock.

`langgraph dev` imports the graphs at start and draws them without a model; a graph of one's own costs nothing
until it is asked. Loading happens in whatever thread asks first (never on a serving event loop, see
`graphs.recorded`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

from agents.call import Completion, Message, Policy, Prompt, Request
from agents.passage import Passage, Retriever

T = TypeVar("T")


class Once(Generic[T]):
    """A value made at the first call; an error is raised anew at each call until making it succeeds."""

    def __init__(self, make: Callable[[], T]) -> None:
        """Remember how to make the value."""
        self._make = make
        self._lock = threading.Lock()
        self._value: T | None = None

    def __call__(self) -> T:
        """Return the value."""
        with self._lock:
            if self._value is None:
                self._value = self._make()
            return self._value


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
