"""How a training run is ended gently: after the update under way, with a checkpoint."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_log = logging.getLogger("jade.ppo")


@contextmanager
def ends_gently() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a request to stop after the current update; the second one is what it was."""
    asked: list[int] = []

    def note(number: int, frame: object) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, before)
        _log.warning("ending after the current update; press Ctrl-C again to end at once")

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)
