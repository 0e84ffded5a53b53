"""Where the wall time of an iteration went, stage by stage; what no stage claims is idle."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Where the wall time of an iteration went."""

    def __init__(self) -> None:
        """Start now."""
        self.begun = time.monotonic()
        self.start()

    def start(self) -> None:
        """Begin an iteration."""
        self._started = time.perf_counter()
        self._stages: dict[str, float] = {}
        self._speed: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what happens inside as one stage."""
        started = time.perf_counter()
        yield
        self._stages[name] = self._stages.get(name, 0.0) + time.perf_counter() - started

    def add(self, parts: dict[str, float], total: float, tokens: int) -> None:
        """Add the parts of a collection, its wall seconds, and the tokens it processed."""
        self._stages |= parts
        self._stages["ledger"] = max(0.0, total - sum(parts.values()))
        if tokens and total > 0:
            self._speed["speed/tokens_per_second"] = tokens / total

    def metrics(self) -> dict[str, float]:
        """Return the stages under their tracked names."""
        total = time.perf_counter() - self._started
        idle = max(0.0, total - sum(self._stages.values())) / total if total > 0 else 0.0
        stages = {f"time/{name}": seconds for name, seconds in self._stages.items()}
        return {**stages, **self._speed, "time/total": total, "time/idle_share": idle}
