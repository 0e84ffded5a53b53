"""How far a training run is: a bar with time left and the moving reward on a terminal, plain log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

WINDOW = 10
"""Iterations of the moving reward."""
SHOWN = ("rollout/reward", "rollout/score", "update/kl", "update/entropy", "update/clip_fraction")
"""Metrics of an iteration's log line."""
_log = logging.getLogger("jade.ppo")


class Following:
    """What is told of a training run while it goes on."""

    def __init__(self, first: int, total: int, runs: int, bar: Progress | None = None) -> None:
        """Start the clock.

        Args:
            first: Iterations that were done before.
            total: Iterations in all.
            runs: Executions of one iteration; 0 = none are made, a ledger is replayed.
            bar: Where bars are drawn; None = nowhere.
        """
        self._first, self._done, self._total, self._runs = first, first, total, runs
        self._begun = time.monotonic()
        self._rewards: deque[float] = deque(maxlen=WINDOW)
        self._bar = bar
        self._iterations = None if bar is None else bar.add_task("iterations", total=total, completed=first, note="")
        self._executions: TaskID | None = None
        if bar is not None and runs:
            self._executions = bar.add_task("executions", total=runs, note="")

    @property
    def moving_reward(self) -> float | None:
        """Return the mean reward of the last iterations; None before the first."""
        return sum(self._rewards) / len(self._rewards) if self._rewards else None

    def minutes_left(self) -> float | None:
        """Return the minutes that the remaining iterations take at the pace so far; None before the first is done."""
        done = self._done - self._first
        if done <= 0:
            return None
        return (time.monotonic() - self._begun) / done * max(0, self._total - self._done) / 60

    def recorded(self, run: object = None) -> None:
        """Count one execution of the iteration under way."""
        if self._bar is not None and self._executions is not None:
            self._bar.advance(self._executions)

    def finished(self, done: int, metrics: Mapping[str, float]) -> None:
        """Tell what an iteration brought.

        Args:
            done: Iterations done.
            metrics: Of the last one.
        """
        self._done = done
        if "rollout/reward" in metrics:
            self._rewards.append(metrics["rollout/reward"])
        reward, left = self.moving_reward, self.minutes_left() or 0.0
        if self._bar is not None and self._iterations is not None:
            moving = "" if reward is None else f"reward {reward:+.3f} (mean of {len(self._rewards)})  "
            self._bar.update(self._iterations, completed=done, note=f"{moving}{duration(left)} left")
        if self._bar is not None and self._executions is not None:
            self._bar.reset(self._executions, total=self._runs)
        numbers = [f"{name.split('/')[1]} {metrics[name]:.3f}" for name in SHOWN if name in metrics]
        if reward is not None:
            numbers.insert(1, f"(moving {reward:.3f})")
        spent = (time.monotonic() - self._begun) / 60
        _log.info("%d/%d  %s  %s, %s left", done, self._total, "  ".join(numbers), duration(spent), duration(left))


@contextmanager
def following(
    first: int, total: int, runs: int, console: Console | None = None, *, shown: bool = True
) -> Iterator[Following]:
    """Follow a training run; draws bars on standard error if that is a terminal.

    Args:
        first: Iterations that were done before.
        total: Iterations in all.
        runs: Executions of one iteration; 0 = none are made.
        console: Where to draw, for tests.
        shown: Whether this process draws; of several ranks the first one does.
    """
    console = console or Console(stderr=True)
    if not shown or not console.is_terminal:
        yield Following(first, total, runs)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    below = sys.stderr
    with Progress(*columns, console=console, refresh_per_second=2) as bar, _above_the_bar(below):
        yield Following(first, total, runs, bar)


@contextmanager
def _above_the_bar(below: TextIO) -> Iterator[None]:
    """Let log lines that went to `below` go through today's standard error, which writes them above the bar."""
    handlers = [item for item in logging.getLogger().handlers if isinstance(item, logging.StreamHandler)]
    moved = [handler for handler in handlers if handler.stream is below]
    for handler in moved:
        handler.setStream(sys.stderr)
    try:
        yield
    finally:
        for handler in moved:
            handler.setStream(below)


def duration(minutes: float) -> str:
    """Return minutes in words, such as "40 s", "12 min", "3 h 05 min"."""
    if minutes < 1:
        return f"{minutes * 60:.0f} s"
    hours, rest = divmod(round(minutes), 60)
    return f"{hours} h {rest:02d} min" if hours else f"{rest} min"
