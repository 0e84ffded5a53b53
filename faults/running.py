"""A server for as long as it is needed: started, and dead afterwards, even where it never came up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar


class Server(Protocol):
    """A process that others ask."""

    def start(self) -> None:
        """Start it and wait until it answers."""

    def kill(self) -> None:
        """Do kill -9; nothing happens where it was never started, or is dead."""


S = TypeVar("S", bound=Server)


@contextmanager
def running(server: S) -> Iterator[S]:
    """Start a server, and kill it when the block ends, however it ends.

    Raises:
        TimeoutError: It does not answer; it is dead then.
    """
    try:
        server.start()
        yield server
    finally:
        server.kill()
