"""Which executions an iteration learns from: of the environment whose turn it is, or the next batch of a ledger."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from graphs.collection import Timing
from graphs.trajectory import Trajectory
from training.beforehand import refuse_idle
from training.clock import Clock
from training.dropped import NothingLeftError, counted
from training.duals import in_force
from training.ppo_config import PPOConfig
from training.replayed import note_batch, position
from training.rollout import Rollout, gather, prepare, replay
from training.rollout_metrics import tokens_of
from training.session import Session
from training.shares import segments
from training.speaker import speaker
from training.update import start_critic

_log = logging.getLogger("jade.ppo")


def next_rollout(
    session: Session,
    batches: Iterator[Sequence[Trajectory]] | None,
    clock: Clock,
    on_done: Callable[[Trajectory], None] | None = None,
) -> Rollout | None:
    """Return the next executions that can be learned from, scored; None at the end of a replayed ledger.

    A batch of the ledger of which nothing can be used is left out and counted.

    Args:
        session: Who learns.
        batches: As `ledger_batches` returned them; None = executions are collected.
        clock: Counts where the time goes.
        on_done: Called with each execution as it is recorded.

    Raises:
        NothingLeftError: Nothing of what was collected can be trained on.
        LedgerError: The segment cannot be written or sealed, or every run failed.
    """
    while (runs := _executions(session, batches, clock, on_done)) is not None:
        try:
            with clock.stage("score"):
                rollout = _prepared(session, runs)
        except NothingLeftError as error:
            if batches is None:
                raise
            if session.ranks.leads:
                number = position(session.state) + 1
                _log.warning("batch %d of the ledger is left out: %s", number, counted(error.counts))
            note_batch(session.state, 0, error.counts)
            continue
        if batches is not None:
            note_batch(session.state, len(rollout.buffer.trajectories), rollout.dropped.counts)
        return rollout
    return None


def _executions(
    session: Session,
    batches: Iterator[Sequence[Trajectory]] | None,
    clock: Clock,
    on_done: Callable[[Trajectory], None] | None,
) -> Sequence[Trajectory] | None:
    """Return what is learned from next; None where the replayed ledger is at its end."""
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


def _prepared(session: Session, runs: Sequence[Trajectory]) -> Rollout:
    """Check, reward and score a batch; the first one starts the critic."""
    state, players = session.state, session.players
    prices = in_force(session.config, state)
    rollout = prepare(runs, players, session.store, session.gold, session.config, version=state.version, prices=prices)
    if not state.critic_started:
        refuse_idle(rollout.buffer, session.config.train)
        start_critic(players, rollout.buffer, rollout.team, rollout.scored)
        state.critic_started = True
    session.name_roles({row.call.role for row in rollout.buffer.rows if row.trained})
    return rollout


def ledger_batches(session: Session) -> Iterator[Sequence[Trajectory]] | None:
    """Return the ledger's batches from where the run stands; None when executions are collected."""
    config = session.config
    if config.ledger is None:
        return None
    batches = replay(ledger_of(config), config.questions * config.runs)
    return islice(batches, position(session.state), None)


def ledger_of(config: PPOConfig) -> Path:
    """Return the ledger that is learned from: the one to replay, else the run's own."""
    return Path(config.output) / "ledger" if config.ledger is None else Path(config.ledger).expanduser()


def recorded_segments(session: Session) -> list[Path]:
    """Return the ledger segments that hold the runs of this iteration, one for each rank that recorded."""
    return [file for files in segments(session.output, session.state.iteration).values() for file in files]
