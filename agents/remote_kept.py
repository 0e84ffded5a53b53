"""What came of requests, kept for a moment: a batcher that tries a failed batch again in parts has none asked twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from agents.call import Completion, Request

Outcome = Completion | Exception
_SECONDS = 5.0


class Kept:
    """Outcomes by request. Thread-safe."""

    def __init__(self) -> None:
        """Know of none."""
        self._lock = threading.Lock()
        self._found: dict[Request, tuple[float, Outcome]] = {}

    def take(self, requests: Sequence[Request]) -> list[Outcome | None]:
        """Return what came of each request, in their order, and forget it; None = not known."""
        now = time.monotonic()
        with self._lock:
            found = [self._found.pop(request, None) for request in requests]
        return [None if item is None or item[0] < now else item[1] for item in found]

    def keep(self, requests: Sequence[Request], outcomes: Sequence[Outcome | None]) -> None:
        """Remember what came of each request, where that is known, and forget what is old."""
        now = time.monotonic()
        news = {
            request: (now + _SECONDS, outcome)
            for request, outcome in zip(requests, outcomes, strict=True)
            if outcome is not None
        }
        with self._lock:
            self._found = {request: item for request, item in self._found.items() if item[0] >= now} | news
