"""The adaptive controller: prices α and β that hold targets for turns and retrievals instead of being guessed.

To maximise E[score] subject to E[T] ≤ t and E[N] ≤ r has the Lagrangian

    L(π, α, β) = E[score] − α·(E[T] − t)/3 − β·(E[N] − r)/3,   α, β ≥ 0

with T = 1 + min(turns − 1, 3) and N = min(retrievals, 3): what the reward charges for. PPO ascends it in π, since the
reward R = score − α·(T − 1)/3 − β·N/3 differs from L by a constant only; after each iteration α and β descend it by a
projected gradient step, α ← clip(α + η·(mean T − t), 0, α_max) (the 3 is part of η), which is dual ascent.

Why T and N, and not the raw counts: a price can hold only what it is charged on. With raw counts one run of eight turns
would raise the price of every run, while it pays no more itself than one of four, and the fixed point would belong to
no Lagrangian. Up to four turns and three retrievals the two are the same number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from training.checkpoint import State
from training.ppo_config import PPOConfig

TURNS, RETRIEVALS = "rollout/charged_turns", "rollout/charged_retrievals"
"""Tracked means of T and N over the rewarded executions of an iteration."""


@dataclass(frozen=True)
class Prices:
    """α and β of one iteration's rewards, in units of the score."""

    alpha: float
    beta: float


def in_force(config: PPOConfig, state: State) -> Prices:
    """Return the prices of the iteration that `state` stands before; without a target, those of `config`."""
    alpha, beta = config.alpha, config.beta
    if config.target_turns is not None and state.alpha is not None:
        alpha = state.alpha
    if config.target_retrievals is not None and state.beta is not None:
        beta = state.beta
    return Prices(alpha, beta)


def ascend(price: float, excess: float, step: float, ceiling: float) -> float:
    """Return clip(price + step·excess, 0, ceiling).

    Args:
        price: In force, in units of the score.
        excess: Mean cost less its target, in turns or retrievals.
        step: η.
        ceiling: Highest price.
    """
    return min(max(price + step * excess, 0.0), ceiling)


def move(config: PPOConfig, state: State, metrics: Mapping[str, float]) -> None:
    """Take the dual step that follows an iteration; what has no target keeps the price of `config`.

    The step shrinks with the learning rate after a rollback, so that prices never outrun the policy they steer; for
    the same reason none is taken while only the critic learns.

    Args:
        config: Targets, step and ceilings.
        state: Holds the prices; changed.
        metrics: Of the iteration; holds `TURNS` and `RETRIEVALS`.
    """
    prices, step = in_force(config, state), config.dual_lr * state.factor
    if config.target_turns is not None:
        state.alpha = ascend(prices.alpha, metrics[TURNS] - config.target_turns, step, config.alpha_max)
    if config.target_retrievals is not None:
        state.beta = ascend(prices.beta, metrics[RETRIEVALS] - config.target_retrievals, step, config.beta_max)


def ease(config: PPOConfig, state: State, failed: Prices, metrics: Mapping[str, float]) -> None:
    """Lower the prices that drove a collapse, after the policy was rolled back to the time before it.

    The same price would lead to the same end. A price whose target was met when the policy collapsed pressed too hard:
    half of it is left, of what it was before or is now, whichever is less. One whose target was still missed is not to
    blame: it stays what it was when the restored policy acted.

    Args:
        config: Targets.
        state: As restored; changed.
        failed: Prices in force when the policy had collapsed.
        metrics: Of that iteration.
    """
    prices = in_force(config, state)
    if config.target_turns is not None and metrics.get(TURNS, config.target_turns) <= config.target_turns:
        state.alpha = min(prices.alpha, failed.alpha) / 2
    if (
        config.target_retrievals is not None
        and metrics.get(RETRIEVALS, config.target_retrievals) <= config.target_retrievals
    ):
        state.beta = min(prices.beta, failed.beta) / 2
