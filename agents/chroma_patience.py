"""How long searches wait for a Chroma server that is away: one patience an outage, however many searches meet it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from agents.errors import RetrieverError

T = TypeVar("T")
_LONGEST_WAIT = 2.0
"""Longest wait between two tries, in seconds."""


class Patience:
    """Tries again while a server does not answer.

    An outage begins with the first search that fails and ends with the first that does not, or when nobody has met it
    for longer than patience. Once it has lasted for
    longer than patience, further searches fail at once: a batch of them costs one patience and not one each.
    """

    def __init__(self) -> None:
        """Know of no outage."""
        self._since: float | None = None
        self._last = 0.0

    def search(self, work: Callable[[], T], seconds: float) -> T:
        """Do some work, again where the server did not answer.

        Args:
            work: Asks the server; doing it twice changes nothing.
            seconds: Most seconds of an outage that are waited out.

        Raises:
            RetrieverError: The server has been away for longer, or refuses.
        """
        pause = 0.1
        while True:
            try:
                found = work()
            except RetrieverError as error:
                if not _away(error):
                    raise
                now = time.monotonic()
                if self._since is None or now - self._last > max(seconds, _LONGEST_WAIT):
                    self._since = now  # nobody has asked for so long that this is another outage
                self._last = now
                if now + pause - self._since > seconds:
                    raise
                time.sleep(random.uniform(0.5, 1.0) * pause)
                pause = min(_LONGEST_WAIT, 2 * pause)
            else:
                self._since = None
                return found


def _away(error: RetrieverError) -> bool:
    """Return whether the server did not answer, as opposed to refusing."""
    from httpx import HTTPError

    return isinstance(error.__cause__, HTTPError)
