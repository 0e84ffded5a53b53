"""The players of a PPO run as its checkpoint left them, loaded to be looked at and never to go on.

What a checkpoint knows of its run (all options) is read without loading weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from agents.errors import ConfigError
from evaluation.config import merge_config
from graphs.trajectory import Trajectory
from training.buffer import RolloutBuffer
from training.checkpoint import State, find_checkpoint, load_checkpoint, read_state
from training.players import Players, make_players
from training.ppo_config import PPOConfig
from training.ppo_setup import load_model, prompts_of
from training.scoring import score_buffer
from training.update import Optimiser


@dataclass(frozen=True)
class Past:
    """What a checkpoint says of its run."""

    folder: Path
    """The checkpoint."""
    state: State
    config: PPOConfig
    """Options that the run was made with."""


def options_of(state: State) -> dict[str, Any]:
    """Return the options that a run was made with, as far as this version knows them."""
    known = {item.name for item in fields(PPOConfig)}
    return {name: value for name, value in state.config.items() if name in known}


def read_past(run: Path) -> Past:
    """Read the newest checkpoint of a training run.

    Args:
        run: The output folder of `python -m training.ppo`, or a checkpoint folder.

    Raises:
        ConfigError: There is no checkpoint, or it is damaged.
    """
    folder = run if (run / "state.json").is_file() else find_checkpoint(run)
    if folder is None:
        raise ConfigError(f"{run} holds no checkpoint; give the output folder of `python -m training.ppo`")
    state = read_state(folder)
    return Past(folder, state, merge_config(PPOConfig, options_of(state)))


def load_critic(past: Past) -> Players:
    """Load the base model with the trained adapter and the critic of a checkpoint.

    Raises:
        ConfigError: The run has no critic that has learned, or the checkpoint fits no model at hand.
        SetupError: The base model is missing.
    """
    if past.config.estimator == "loo":
        raise ConfigError(f"{past.folder}: estimator loo trains no critic; give a run with another estimator")
    if not past.state.critic_started:
        raise ConfigError(f"{past.folder} stands before the first update, so its critic knows nothing yet")
    config = replace(past.config, adapter=str(past.folder / "adapter"))
    shared = load_model(config, prompts_of(config))
    players, _ = make_players(shared, config)
    load_checkpoint(past.folder, players, Optimiser(players, config))
    return players


def values_of(players: Players, run: Trajectory, token_budget: int) -> Mapping[str, tuple[float, float]]:
    """Return the critic's V and V^f of each call of a recorded run, by call id.

    Args:
        players: Whose critic.
        run: The run; whether it was sampled or greedy does not matter to its values.
        token_budget: Most tokens of a forward pass.

    Raises:
        ConfigError: The run was recorded under another text hash: its tokens mean something else.
        LedgerError: A call's fields do not fit together.
    """
    text = players.shared.identity["text"]
    if run.hashes.get("text") != text:
        raise ConfigError(
            f"run {run.run} was recorded under text hash {run.hashes.get('text')}, the critic's is {text}: another "
            "model, tokenizer or prompt set; choose a critic trained on such runs"
        )
    calls = tuple(replace(call, greedy=False) for call in run.calls)
    buffer = RolloutBuffer.of([replace(run, calls=calls)])
    values = score_buffer(players, buffer, token_budget).values
    return {row.call.id: (float(v), float(f)) for row, (v, f) in zip(buffer.rows, values, strict=True)}
