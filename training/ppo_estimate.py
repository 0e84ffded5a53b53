"""`--dry-run`: what a training run would process and take, measured on a few executions and extrapolated."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

from training.clock import peak_memory
from training.packing import units
from training.rollout import gather, prepare
from training.session import Session
from training.update import fill, start_critic

SAMPLE = 4
"""Questions that are really run."""


def estimate(session: Session) -> str:
    """Return a table of rows, tokens, memory and minutes to expect; changes the session's weights, so drop it then.

    Collects a few questions into a scratch folder and takes one update on them.
    """
    config, players = session.config, session.players
    world = session.worlds[0]
    few = min(SAMPLE, config.questions)
    with tempfile.TemporaryDirectory() as scratch:
        small = replace(config, output=str(Path(scratch)), questions=few)
        started = time.perf_counter()
        runs = gather(world, players, small, 0, 0)
        collected = time.perf_counter()
        rollout = prepare(runs, players, session.store, session.gold, small, version=session.state.version)
        start_critic(players, rollout.buffer, rollout.team, rollout.scored)
        buffer, _, _ = fill(rollout.buffer, rollout.scored, rollout.team, small)
        session.optimiser.update(buffer, 0, 0.0)
        ended = time.perf_counter()
    share = config.questions / few
    tokens = int(units([row.call for row in buffer.rows])[1].sum())
    minutes = (ended - started) * share * config.iterations / 60
    lines = [
        f"questions: {len(world.train)} to train on in {world.name}, {len(world.dev)} held out",
        f"one iteration: {config.questions} questions x {config.runs} runs, about {len(buffer) * share:.0f} calls, "
        f"{tokens * share:,.0f} tokens with equal prompts counted once "
        f"({int(buffer.counts.sum()) * share:,.0f} sampled by who is trained)",
        f"collecting {(collected - started) * share:.0f} s, checks and update {(ended - collected) * share:.0f} s",
        f"trained parameters: {sum(p.numel() for p in session.optimiser.policy):,}",
        f"peak memory so far: {peak_memory():.1f} GiB",
        f"{config.iterations} iterations: about {minutes:.0f} minutes, evaluations not counted "
        f"(measured on {few} questions)",
    ]
    return "\n".join(lines)
