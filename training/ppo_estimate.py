"""`--dry-run`: what a training run would process and take, measured on a few executions and extrapolated."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agents.errors import LedgerError
from graphs.trajectory import Trajectory
from training.beforehand import refuse_idle
from training.clock import peak_memory
from training.packing import units
from training.ppo_config import PPOConfig
from training.rollout import gather, prepare, replay
from training.session import Session
from training.speaker import speaker
from training.update import fill, start_critic

SAMPLE = 4
"""Questions that are really run, or whose runs are replayed."""


def estimate(session: Session) -> str:
    """Return a table of rows, tokens, memory and minutes to expect; changes the session's weights, so drop it then.

    Collects a few questions into a scratch folder, or replays as many runs of the ledger, and takes one update on them.

    Raises:
        ConfigError: Nothing of these runs can be trained on.
        LedgerError: There is no ledger, or no run in it.
    """
    config, players = session.config, session.players
    few = min(SAMPLE, config.questions)
    with tempfile.TemporaryDirectory() as scratch:
        small = replace(config, output=str(Path(scratch)), questions=few)
        begun, started = peak_memory(), time.perf_counter()
        runs = _runs(session, small)
        collecting, collected = peak_memory(), time.perf_counter()
        rollout = prepare(runs, players, session.store, session.gold, small, version=session.state.version)
        kept = players.learner.kept_bytes() / 2**30
        refuse_idle(rollout.buffer, config.train)
        start_critic(players, rollout.buffer, rollout.team, rollout.scored)
        buffer, _, _ = fill(rollout.buffer, rollout.scored, rollout.team, small)
        session.optimiser.update(buffer, 0, 0.0)
        ended = time.perf_counter()
    share = config.questions / few
    at_once = min(config.in_flight, config.questions * config.runs) / min(config.in_flight, few * config.runs)
    memory = expected_memory(begun, collecting, peak_memory(), kept, share, at_once)
    tokens = int(units([row.call for row in buffer.rows])[1].sum())
    minutes = (ended - started) * share * config.iterations / 60
    known = [world for world in session.worlds if world.train]
    asked = [f"{len(world.train)} to train on in {world.name}, {len(world.dev)} held out" for world in known]
    got = "collecting" if config.ledger is None else "reading"
    lines = [
        *(f"questions: {line}" for line in asked),
        f"one iteration: {config.questions} questions x {config.runs} runs, about {len(buffer) * share:.0f} calls, "
        f"{tokens * share:,.0f} tokens with equal prompts counted once "
        f"({int(buffer.counts.sum()) * share:,.0f} sampled by who is trained)",
        f"{got} {(collected - started) * share:.0f} s, checks and update {(ended - collected) * share:.0f} s",
        f"trained parameters: {sum(p.numel() for p in session.optimiser.policy):,}",
        f"peak memory to expect: about {memory:.1f} GiB ({peak_memory():.1f} GiB on {few} questions, "
        f"{kept:.2f} GiB of them states of frozen layers, which grow with the batch)",
        f"{config.iterations} iterations: about {minutes:.0f} minutes, evaluations not counted "
        f"(measured on {few} questions)",
    ]
    return "\n".join(lines)


def expected_memory(begun: float, collected: float, ended: float, kept: float, share: float, at_once: float) -> float:
    """Return the peak memory to expect, in the unit of the peaks that were measured on a few questions.

    What collecting took grows with the executions that run at once, until `in_flight` caps them; the frozen layers'
    states, kept from scoring to the update's end, grow with the batch. The model, the optimiser and a forward pass do
    not: `token_budget` bounds the latter.

    Args:
        begun: Peak before collecting.
        collected: Peak after it.
        ended: Peak after the update.
        kept: Size of the kept states.
        share: Questions of an iteration for each that was measured.
        at_once: Executions at once, for each that was measured.
    """
    return max(begun + (collected - begun) * at_once, ended + kept * (share - 1))


def _runs(session: Session, small: PPOConfig) -> Sequence[Trajectory]:
    if small.ledger is None:
        return gather(session.worlds[0], session.players, small, 0, 0, policy=speaker(session))
    path = Path(small.ledger).expanduser()
    runs = next(replay(path, small.questions * small.runs), None)
    if runs is None:
        raise LedgerError(f"ledger {path} holds no run; record some with `python -m training.collect`")
    return runs
