"""Which executions an iteration learns from: of the environment whose turn it is, or the next batch of a ledger."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from graphs.collection import Timing
from graphs.trajectory import Trajectory
from training.clock import Clock
from training.ppo_config import PPOConfig
from training.rollout import gather, replay
from training.rollout_metrics import tokens_of
from training.session import Session
from training.shares import segments
from training.speaker import speaker


def executions(
    session: Session,
    batches: Iterator[Sequence[Trajectory]] | None,
    clock: Clock,
    on_done: Callable[[Trajectory], None] | None = None,
) -> Sequence[Trajectory] | None:
    """Return what is learned from next; None where the replayed ledger is at its end.

    Args:
        session: Who learns.
        batches: As `ledger_batches` returned them; None = executions are collected.
        clock: Counts where the time goes.
        on_done: Called with each execution as it is recorded.

    Raises:
        LedgerError: The segment cannot be written or sealed, or every run failed.
    """
    if batches is not None:
        with clock.stage("ledger"):
            return next(batches, None)
    iteration, worlds, timing = session.state.iteration, session.worlds, Timing()
    world = worlds[iteration % len(worlds)]  # one environment an update
    started = time.perf_counter()
    visit, policy = iteration // len(worlds), speaker(session)
    runs = gather(
        world, session.players, session.config, iteration, visit, policy=policy, timing=timing, on_done=on_done
    )
    clock.collected(timing, time.perf_counter() - started, tokens_of(runs) if timing.total else 0)
    return runs


def ledger_batches(session: Session) -> Iterator[Sequence[Trajectory]] | None:
    """Return the ledger's batches from where the run stands; None when executions are collected."""
    config = session.config
    if config.ledger is None:
        return None
    batches = replay(ledger_of(config), config.questions * config.runs)
    return islice(batches, session.state.iteration, None)


def ledger_of(config: PPOConfig) -> Path:
    """Return the ledger that is learned from: the one to replay, else the run's own."""
    return Path(config.output) / "ledger" if config.ledger is None else Path(config.ledger).expanduser()


def recorded_segments(session: Session) -> list[Path]:
    """Return the ledger segments that hold the runs of this iteration, one for each rank that recorded."""
    return [file for files in segments(session.output, session.state.iteration).values() for file in files]
