"""How long searches wait for a Chroma server that is away: one patience an outage, however many searches meet it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from agents.chroma_failures import is_away
from agents.errors import RetrieverError

T = TypeVar("T")
_LONGEST_WAIT = 2.0
"""Longest wait between two tries, in seconds."""
_CHEAP = 0.1
"""Seconds: a try that fails sooner may be made by everybody."""


class Patience:
    """Tries again while a server does not answer; safe to share between threads, which wait beside each other.

    An outage begins with the first search that fails and ends with the first that does not, or when nobody has met it
    for longer than patience. Once it has lasted for longer than patience, further searches fail at once: a batch of
    them costs one patience and not one each. Where a try takes long to fail, since the server accepts and says nothing,
    its failure then stands for as long as it took, so that waiting never takes more than half of the time.
    """

    def __init__(self) -> None:
        """Know of no outage."""
        self._lock = threading.Lock()
        self._since: float | None = None
        self._last = self._stands = 0.0
        self._error = RetrieverError()

    def search(self, work: Callable[[], T], seconds: float) -> T:
        """Do some work, again where the server did not answer.

        Args:
            work: Asks the server; doing it twice changes nothing.
            seconds: Most seconds of an outage after which another try is begun.

        Raises:
            RetrieverError: The server has been away for longer, or refuses.
        """
        pause = 0.1
        while True:
            self._known(seconds)
            began = time.monotonic()
            try:
                found = work()
            except RetrieverError as error:
                if not is_away(error):
                    raise
                if time.monotonic() + pause - self._met(error, began, seconds) > seconds:
                    raise
                time.sleep(random.uniform(0.5, 1.0) * pause)
                pause = min(_LONGEST_WAIT, 2 * pause)
            else:
                with self._lock:
                    self._since = None
                return found

    def _known(self, seconds: float) -> None:
        """Fail where an outage has outlasted patience and the last try's failure still stands."""
        with self._lock:
            now = time.monotonic()
            if self._since is not None and now - self._since > seconds and now - self._last < self._stands:
                raise RetrieverError(str(self._error)) from self._error.__cause__

    def _met(self, error: RetrieverError, began: float, seconds: float) -> float:
        """Take note of a try that failed; return when its outage began."""
        with self._lock:
            if self._since is None or began - self._last > max(seconds, _LONGEST_WAIT):
                self._since = began  # nobody has asked for so long that this is another outage
            self._last = time.monotonic()
            self._error, took = error, self._last - began
            self._stands = took if took > _CHEAP else 0.0
            return self._since
