"""Where the wall time of an iteration went, stage by stage, and how much memory it took; what no stage claims is idle.

An iteration ends where its metrics are read and the next one begins there, so that nothing between two iterations (a
checkpoint, a plot) is lost: it counts in the one that follows.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from graphs.collection import Timing


class Clock:
    """Where the wall time of an iteration went."""

    def __init__(self) -> None:
        """Start now."""
        self.begun = time.monotonic()
        self.start()

    def start(self) -> None:
        """Begin an iteration, and forget what was counted since the last one ended."""
        self._started = time.perf_counter()
        self._stages: dict[str, float] = {}
        self._speed: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what happens inside as one stage; stages do not nest."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._add(name, time.perf_counter() - started)

    def collected(self, timing: Timing, total: float, tokens: int) -> None:
        """Count a collection: the model's work apart, and what surrounds the runs (writing and reading) as ledger.

        Args:
            timing: Of the collection; all 0 when its segment was already there.
            total: Wall seconds of all of it.
            tokens: Tokens that the model read or sampled; 0 = none were.
        """
        parts = {
            "prefill": timing.prefill,
            "decode": timing.decode,
            "batching": max(0.0, timing.model - timing.prefill - timing.decode),
            "retrieval": timing.retrieval,
            "graph": timing.graph,
        }
        for name, seconds in parts.items():
            self._add(name, seconds)
        self._add("ledger", max(0.0, total - sum(parts.values())))
        if tokens and total > 0:
            self._speed["speed/tokens_per_second"] = tokens / total

    def updated(self, tokens: float) -> None:
        """Note how many tokens the update's epochs went over; after its stage."""
        seconds = self._stages.get("update", 0.0)
        if tokens and seconds > 0:
            self._speed["speed/update_tokens_per_second"] = tokens / seconds

    def metrics(self) -> dict[str, float]:
        """Return the stages under their tracked names, which sum to the total, and begin the next iteration."""
        total = time.perf_counter() - self._started
        idle = max(0.0, total - sum(self._stages.values()))
        stages = {f"time/{name}": seconds for name, seconds in self._stages.items()}
        found = {**stages, **self._speed, "time/idle": idle, "time/total": total, "memory/peak": peak_memory()}
        self.start()
        return {**found, "time/idle_share": idle / total if total > 0 else 0.0}

    def _add(self, name: str, seconds: float) -> None:
        self._stages[name] = self._stages.get(name, 0.0) + seconds


def peak_memory() -> float:
    """Return the most memory used so far, in GiB: allocated on the GPU if there is one in use, else resident."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
