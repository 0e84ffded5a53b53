"""All credit estimators on one recorded batch, side by side: does it matter who gets the credit?

    python -m training.credit_report --ledger runs/ppo/ledger --adapter runs/sft/adapter --answers gold.jsonl

Takes the options of `python -m training.ppo`. Per role: mean and variance of the unwhitened advantages; per pair of
estimators: how often their advantages have the same sign, and the cosine of the policy gradients they give. Values
are those of a fresh critic (the batch's mean), so differences come from the estimators alone.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from agents.errors import ConfigError, JadeError
from training.adapter import TRAINED
from training.buffer import Floats, RolloutBuffer
from training.config import read_config
from training.losses import policy_loss
from training.minibatch import collate
from training.players import Players
from training.ppo_config import PPOConfig
from training.ppo_setup import load_model, make_gold, prompts_of
from training.rollout import Rollout, prepare, replay
from training.scoring import parts
from training.session import Session, begin
from training.update import fill, start_critic

ESTIMATORS = ("tree_gae", "terminal_gae", "broadcast", "loo")


@dataclass(frozen=True)
class Comparison:
    """What the estimators made of one batch."""

    roles: tuple[str, ...]
    advantages: Mapping[str, Floats]
    """Estimator → (N,) mean unwhitened advantage of each trained call."""
    role_ids: Floats
    """(N,) index into `roles`."""
    gradients: Mapping[str, Tensor]
    """Estimator → flattened policy gradient."""

    def agreement(self, one: str, other: str) -> float:
        """Return the share of calls whose advantages have the same sign."""
        return float((np.sign(self.advantages[one]) == np.sign(self.advantages[other])).mean())

    def cosine(self, one: str, other: str) -> float:
        """Return the cosine of two policy gradients."""
        return float(torch.nn.functional.cosine_similarity(self.gradients[one], self.gradients[other], dim=0))

    def table(self) -> str:
        """Return the comparison as Markdown."""
        lines = ["| role | calls | " + " | ".join(f"{name}: mean, variance" for name in self.advantages) + " |"]
        lines.append("|---" * (len(self.advantages) + 2) + "|")
        for index, role in enumerate(self.roles):
            mine = self.role_ids == index
            if mine.any():
                cells = [f"{values[mine].mean():+.4f}, {values[mine].var():.4f}" for values in self.advantages.values()]
                lines.append(f"| {role} | {int(mine.sum())} | " + " | ".join(cells) + " |")
        lines += ["", "| pair | same sign | gradient cosine |", "|---|---|---|"]
        for one, other in combinations(self.advantages, 2):
            lines.append(f"| {one}, {other} | {self.agreement(one, other):.2f} | {self.cosine(one, other):+.3f} |")
        return "\n".join(lines)


def compare(session: Session, rollout: Rollout) -> Comparison:
    """Apply every estimator to a prepared batch (with values per token) and measure what it gives.

    `loo` is left out where no question has two runs.
    """
    questions = [run.question_id or run.question for run in rollout.buffer.trajectories]
    names = [name for name in ESTIMATORS if name != "loo" or len(set(questions)) < len(questions)]
    advantages, gradients = {}, {}
    trained = rollout.buffer.trained
    for name in names:
        config = replace(session.config, estimator=name, runs=max(2, session.config.runs))
        white, plain, _ = fill(rollout.buffer, rollout.scored, rollout.team, config)
        assert plain.advantages is not None
        means = np.array([part.mean() if len(part) else 0.0 for part in plain.advantages], dtype=np.float32)
        advantages[name] = means[trained]
        gradients[name] = policy_gradient(session.players, white, config)
    role_ids = rollout.buffer.role_ids[trained].astype(np.float32)
    return Comparison(rollout.buffer.roles, advantages, role_ids, gradients)


def policy_gradient(players: Players, buffer: RolloutBuffer, config: PPOConfig) -> Tensor:
    """Return the flattened gradient of the policy loss on a filled buffer at the trained adapter."""
    parameters = players.policy_parameters()
    for parameter in parameters:
        parameter.grad = None
    for rows in parts(buffer, 1, config.token_budget, (0,))[0]:
        if not buffer.rows[rows[0]].trained:
            continue
        batch = collate(buffer, rows, pad_id=0, device=players.learner.device)
        scores = players.score(batch, [buffer.rows[row].call for row in rows], TRAINED)
        assert batch.old is not None and batch.advantages is not None and batch.weights is not None
        loss = policy_loss(scores.logprobs, batch.old, batch.mu, batch.advantages, batch.weights, config.clip)
        loss.backward()  # type: ignore[no-untyped-call]
    found = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([gradient.detach().reshape(-1).clone() for gradient in found])
    for parameter in parameters:
        parameter.grad = None
    return flat


def report(config: PPOConfig) -> str:
    """Return the table for the first batch of a ledger.

    Raises:
        ConfigError: No ledger is given, or none of its runs can be used.
    """
    if config.ledger is None:
        raise ConfigError("no ledger is given; name a ledger file or folder with --ledger")
    prompts = prompts_of(config)
    shared = load_model(config, prompts)
    with tempfile.TemporaryDirectory() as scratch:
        own = replace(config, output=scratch, estimator="broadcast")
        session = begin(own, shared, [], make_gold(config, []), prompts.style)
        runs = next(replay(Path(config.ledger).expanduser(), config.questions * config.runs))
        rollout = prepare(runs, session.players, session.store, session.gold, own, version=session.state.version)
        start_critic(session.players, rollout.buffer, rollout.team, rollout.scored)
        return compare(session, rollout).table()


def main() -> int:
    """Print the report; a user's mistake is one line on standard error."""
    logging.basicConfig(level=logging.INFO)
    try:
        config, _ = read_config(PPOConfig, sys.argv[1:], "python -m training.credit_report")
        sys.stdout.write(report(config) + "\n")
    except JadeError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
