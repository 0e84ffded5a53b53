"""Do the roles pull the shared adapter the same way? Policy gradients of each role, and the cosines between them.

Positive: what one role learns helps the other; negative: they undo each other. The gradients are those of the policy
loss alone, at the start of an update (ρ = 1), on a bounded sample of each role's calls; nothing is changed by them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from training.adapter import TRAINED
from training.buffer import RolloutBuffer
from training.losses import policy_loss
from training.minibatch import collate
from training.packing import shared_minibatches
from training.players import Players
from training.ppo_config import PPOConfig


def role_rows(buffer: RolloutBuffer, most: int | None, seed: Sequence[int]) -> dict[str, list[int]]:
    """Return the trained rows of each role that has any, at most `most` of each, drawn from `seed`; sorted."""
    found: dict[str, list[int]] = {}
    for index, role in enumerate(buffer.roles):
        rows = np.flatnonzero(buffer.trained & (buffer.role_ids == index))
        if most is not None and len(rows) > most:
            rows = np.random.default_rng([*seed, index]).choice(rows, most, replace=False)
        if len(rows):
            found[role] = sorted(int(row) for row in rows)
    return found


def policy_gradient(players: Players, buffer: RolloutBuffer, rows: Sequence[int], config: PPOConfig) -> Tensor:
    """Return the flattened gradient of Σ w·ℓ over some rows at the trained adapter; the rows' sum is the batch's.

    Args:
        players: Whose trained adapter; its gradients are empty on return.
        buffer: Filled by `training.update.fill`.
        rows: Trained rows.
        config: Clip, ω cap and token budget.
    """
    parameters, learner = players.policy_parameters(), players.learner
    for parameter in parameters:
        parameter.grad = None
    calls = [buffer.rows[row].call for row in rows]
    for places in shared_minibatches(calls, 1, config.token_budget, (0,), learner.shares)[0]:
        batch = collate(buffer, [rows[place] for place in places], pad_id=0, device=learner.device)
        scores = players.score(batch, [calls[place] for place in places], TRAINED)
        assert batch.old is not None and batch.advantages is not None and batch.weights is not None
        loss = policy_loss(
            scores.logprobs, batch.old, batch.mu, batch.advantages, batch.weights, config.clip, config.omega_cap
        )
        loss.backward()  # type: ignore[no-untyped-call]
    found = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([gradient.detach().reshape(-1) for gradient in found])
    for parameter in parameters:
        parameter.grad = None
    return flat


def cosines(vectors: Mapping[str, Tensor]) -> dict[tuple[str, str], float]:
    """Return the cosine of every two vectors by their names; pairs with a zero vector are undefined, and left out."""
    found = {}
    for (one, a), (other, b) in combinations(vectors.items(), 2):
        norms = float(a.double().norm() * b.double().norm())
        if norms > 0:
            found[one, other] = float(a.double() @ b.double()) / norms
    return found


def interference(players: Players, buffer: RolloutBuffer, config: PPOConfig, iteration: int) -> dict[str, float]:
    """Return the cosine between every two trained roles' policy gradients, under their tracked names.

    Args:
        players: Whose trained adapter.
        buffer: Filled by `training.update.fill`.
        config: `interference_rows` bounds the calls of each role; 0 = measure nothing.
        iteration: Key of the sample.
    """
    if not config.interference_rows:
        return {}
    chosen = role_rows(buffer, config.interference_rows, (config.seed, iteration))
    gradients = {role: policy_gradient(players, buffer, rows, config) for role, rows in chosen.items()}
    return {f"update/interference/{one}/{other}": value for (one, other), value in cosines(gradients).items()}
