"""What is asked of an inference server and heard from it, in words of ours; a dialect puts them into the server's.

What a server sends is checked where it comes in, so that nothing but a `ServerError` comes of an event that is not as
agreed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite, isnan
from pathlib import Path
from typing import Any, Protocol

from agents.errors import ServerError
from agents.remote_http import Connection

EXACT = "exact"
"""`Facts.logprobs`: at the temperature asked for, over the allowed tokens (DESIGN §5 "Sampling")."""
RAW = "at temperature 1"
"""`Facts.logprobs`: of the model as it is, before temperature and restrictions."""
MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What reading an answer raises that is not as agreed."""


@dataclass(frozen=True)
class Ask:
    """One request to a server."""

    ids: tuple[int, ...]
    """Prompt, and what is known of the response."""
    most: int
    """Most tokens wanted."""
    temperature: float
    """τ; 0 = greedy."""
    seed: int
    """Below 2³¹."""
    stop: str | None = None
    speaker: str | None = None
    """The server's name of an adapter; None = the base."""
    allowed: tuple[int, ...] = ()
    """Wanted are their log-probabilities at τ = 1 over them alone, and no response; empty = a response."""
    regex: str = ""
    """What the whole response must match; "" = anything."""


@dataclass(frozen=True)
class Heard:
    """One event of an answer."""

    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    """One a token."""
    scores: Mapping[int, float] = field(default_factory=dict)
    """Token → log-probability among `Ask.allowed`."""
    text: str = ""
    sampled: int | None = None
    """How many tokens the server has sampled so far, where it says so."""
    done: bool = False
    cut: bool = False
    """With `done`: the budget or the context ended it."""

    def __post_init__(self) -> None:
        """Refuse what is no token and no log-probability.

        Raises:
            ValueError: A token below 0, or a log-probability that is not a number.
        """
        if any(token < 0 for token in self.ids):
            raise ValueError(f"tokens {self.ids}")
        if not all(map(isfinite, self.logprobs)) or any(map(isnan, self.scores.values())):
            raise ValueError(f"log-probabilities {self.logprobs}, scores {dict(self.scores)}")


@dataclass(frozen=True)
class Facts:
    """What a server says about itself."""

    model: str
    """Its name of the base."""
    context_length: int
    """Most tokens of one request."""
    logprobs: str
    """`EXACT` or `RAW`."""
    speakers: Mapping[str, str] = field(default_factory=dict)
    """Adapters that it started with: our name → its name."""


class Dialect(Protocol):
    """How one kind of server is spoken to."""

    name: str
    path: str
    """Where responses are asked for."""
    stops: bool
    """Whether it ends a response at `Ask.stop` by itself, stop included."""
    constrains: bool
    """Whether it can hold a whole response to a regular expression."""

    async def facts(self, connection: Connection) -> Facts:
        """Ask the server about itself."""

    def body(self, ask: Ask, facts: Facts) -> dict[str, Any]:
        """Return the JSON of a request."""

    def read(self, event: Mapping[str, Any]) -> Heard:
        """Read one event of the answer."""

    async def load(self, connection: Connection, name: str, folder: Path) -> str:
        """Load an adapter folder and return the server's name of it."""

    async def unload(self, connection: Connection, speaker: str) -> None:
        """Forget an adapter that was loaded."""


def understand(dialect: Dialect, event: Mapping[str, Any], address: str) -> Heard:
    """Read one event of an answer.

    Raises:
        ServerError: The event is not as agreed.
    """
    try:
        return dialect.read(event)
    except MALFORMED as error:
        raise ServerError(
            f"{address}{dialect.path} sent an event that is not of a {dialect.name} server ({type(error).__name__}: "
            f"{error}): {str(dict(event))[:200]}; see the server's log, or give another dialect"
        ) from error


def unlike(dialect: Dialect, address: str, path: str, error: Exception) -> ServerError:
    """Return what to raise where a server does not answer as one of its kind."""
    return ServerError(
        f"{address}{path} does not answer as a {dialect.name} server does ({type(error).__name__}: {error}); "
        "give the address of one, or another dialect"
    )
