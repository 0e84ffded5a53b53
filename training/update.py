"""One PPO update over a filled buffer: credit, weights, whitening, minibatch epochs.

DESIGN §5 to the letter: old log-probabilities are recomputed at the start, ρ = 1 at the first step up to rounding, a
minibatch's loss is K·Σ w·ℓ, the format penalty and a KL in the reward stay in their own call's channel. Against the
released code: an update that would leave the trust region (target KL) or has a gradient that is not a number is
not made, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from training.adapter import TRAINED
from training.buffer import Floats, RolloutBuffer
from training.credit import Credit, broadcast, leave_one_out, loo, terminal_gae, tree_gae
from training.gradients import shared_gradients
from training.learner import Scores
from training.losses import approx_kl, importance_weight, kl_penalty, policy_loss, value_loss, weighted_sum
from training.minibatch import Microbatch, collate
from training.players import Players
from training.ppo_config import PPOConfig
from training.reward import TrajectoryReward
from training.scoring import Scored, parts
from training.tally import Tally

OF_THE_CRITIC = ("update/value_loss", "update/format_value_loss", "update/critic_learning_rate")
"""Metrics of an update that are not said of `loo`, where no critic learns."""


def local_rewards(buffer: RolloutBuffer, rewards: Sequence[TrajectoryReward], kl: float) -> list[dict[str, float]]:
    """Return what belongs to each call alone, per trajectory by call id: f_c − `kl`·Σ_t m·(e^d − d − 1).

    Args:
        buffer: With old and reference log-probabilities where `kl` > 0.
        rewards: One per trajectory.
        kl: Coefficient of the KL in the reward; 0 = none.
    """
    local = [dict(reward.format) for reward in rewards]
    if kl > 0 and buffer.old is not None and buffer.ref is not None:
        for place, row in enumerate(buffer.rows):
            if row.trained:
                distance = kl_penalty(torch.from_numpy(buffer.old[place]), torch.from_numpy(buffer.ref[place]))
                local[row.trajectory][row.call.id] -= kl * float((distance * torch.tensor(row.call.mask)).sum())
    return local


def give_credit(
    buffer: RolloutBuffer,
    rewards: Sequence[TrajectoryReward],
    local: Sequence[Mapping[str, float]],
    *,
    estimator: str,
    gamma: float,
    lam: float,
) -> list[Credit]:
    """Apply a credit estimator to every trajectory of a buffer with values.

    Raises:
        ValueError: Values are missing.
    """
    totals = [reward.total for reward in rewards]
    if estimator == "loo":
        baselines = _baselines([run.question_id or run.question for run in buffer.trajectories], totals)
        cases = zip(buffer.dags, totals, baselines, local, strict=True)
        return [loo(dag, total, baseline, own) for dag, total, baseline, own in cases]
    if estimator == "broadcast":
        tokens = _token_values(buffer)
        cases_b = zip(buffer.dags, totals, tokens, local, strict=True)
        return [broadcast(dag, total, values, own) for dag, total, values, own in cases_b]
    estimate = {"tree_gae": tree_gae, "terminal_gae": terminal_gae}[estimator]
    credits = []
    for index, (dag, total, own) in enumerate(zip(buffer.dags, totals, local, strict=True)):
        team, format_values = buffer.call_values(index)
        credits.append(estimate(dag, total, team, own, format_values, gamma=gamma, lam=lam))
    return credits


def _baselines(questions: Sequence[str], totals: Sequence[float]) -> list[float]:
    """Return each run's leave-one-out baseline among the runs of its question; a single run's own R (no credit)."""
    groups: dict[str, list[int]] = {}
    for index, question in enumerate(questions):
        groups.setdefault(question, []).append(index)
    baselines = [0.0] * len(totals)
    for places in groups.values():
        own = [totals[i] for i in places]
        for place, value in zip(places, leave_one_out(own) if len(own) > 1 else own, strict=True):
            baselines[place] = value
    return baselines


def _token_values(buffer: RolloutBuffer) -> list[dict[str, list[float]]]:
    if buffer.token_values is None:
        raise ValueError("broadcast needs values per token")
    values: list[dict[str, list[float]]] = [{} for _ in buffer.trajectories]
    for place, row in enumerate(buffer.rows):
        values[row.trajectory][row.call.id] = buffer.token_values[place].tolist()
    return values


def start_critic(players: Players, buffer: RolloutBuffer, rewards: Sequence[TrajectoryReward], scored: Scored) -> None:
    """Set the value head's bias to the first batch's mean targets, and the values that follow from it.

    The targets are R and f; with values per token (`broadcast`) the first is R + f.
    """
    kinds = [(rewards[row.trajectory].total, rewards[row.trajectory].format[row.call.id]) for row in buffer.rows]
    means = torch.tensor(kinds, dtype=torch.float64).mean(0).float()
    if scored.token_values is not None:
        means[0] += means[1]
    players.head.start_at(means.to(players.learner.device))
    scored.values[:] = means.numpy()
    for values in scored.token_values or []:
        values[:] = float(means[0])


def fill(
    buffer: RolloutBuffer, scored: Scored, rewards: Sequence[TrajectoryReward], config: PPOConfig
) -> tuple[RolloutBuffer, RolloutBuffer, list[Credit]]:
    """Fill in log-probabilities, values, credit, weights and whitened advantages.

    Returns:
        The buffer to learn from, the same before whitening (for statistics), and the credit of each trajectory.
    """
    buffer = buffer.with_logprobs(scored.current, scored.ref).with_values(scored.values, scored.token_values)
    local = local_rewards(buffer, rewards, config.kl if config.kl_in == "reward" else 0.0)
    credits = give_credit(buffer, rewards, local, estimator=config.estimator, gamma=config.gamma, lam=config.lam)
    plain = buffer.with_credit(list(zip(credits, local, strict=True)))
    plain = plain.weighed("token" if config.weights == "token" else "trajectory")
    return (plain.whitened() if config.whiten == "batch" else plain), plain, credits


@dataclass
class Outcome:
    """What one update did."""

    metrics: dict[str, float] = field(default_factory=dict)
    finite: bool = True
    """False when a loss or gradient was not a number; that step and all after it were not made."""


class Optimiser:
    """AdamW over adapter and critic, and the minibatch steps of PPO."""

    def __init__(self, players: Players, config: PPOConfig) -> None:
        """Make the fp32 optimiser; adapter and critic are separate groups."""
        self.players, self.config = players, config
        players.learner.checkpointing = config.gradient_checkpointing
        self.policy = players.policy_parameters()
        self.critic = players.critic_parameters()
        groups = [{"params": self.policy, "lr": config.lr}, {"params": self.critic, "lr": config.critic_lr}]
        self.adam = torch.optim.AdamW(groups, weight_decay=config.weight_decay)

    def update(self, buffer: RolloutBuffer, iteration: int, factor: float, *, critic_only: bool = False) -> Outcome:
        """Run the minibatch epochs of one update.

        Args:
            buffer: Filled by `fill`.
            iteration: Key of the minibatches' order.
            factor: On both learning rates' peak for the policy; the critic's is constant.
            critic_only: Leave the policy as it is.
        """
        config = self.config
        self.adam.param_groups[0]["lr"] = config.lr * factor
        tally, outcome, done = Tally(buffer.roles, config.clip), Outcome(), 0
        share = self.players.learner.shares
        for epoch in range(config.epochs):
            tally.start_epoch()
            seed = (config.seed, iteration, epoch)
            for batches in parts(buffer, config.minibatches, config.token_budget, seed, share=share):
                if not self._step(buffer, batches, tally, outcome, critic_only):
                    return self._close(outcome, tally, done)
            done += 1
        return self._close(outcome, tally, done)

    def _close(self, outcome: Outcome, tally: Tally, epochs: int) -> Outcome:
        self.adam.zero_grad(set_to_none=True)
        self.players.learner.forget()
        tally.over(self.players.ranks)
        outcome.metrics |= self._with_total(tally.metrics())
        outcome.metrics["update/epochs"] = float(epochs)
        outcome.metrics["update/learning_rate"] = float(self.adam.param_groups[0]["lr"])
        outcome.metrics["update/critic_learning_rate"] = float(self.adam.param_groups[1]["lr"])
        if self.config.estimator == "loo":
            outcome.metrics = {name: value for name, value in outcome.metrics.items() if name not in OF_THE_CRITIC}
        return outcome

    def _with_total(self, found: dict[str, float]) -> dict[str, float]:
        """Add the total loss of the last epoch, put together from its parts."""
        config = self.config
        values = found["update/value_loss"] + found["update/format_value_loss"]
        total = 0.0 if config.estimator == "loo" else config.value_coefficient * values
        if "update/policy_loss" in found:
            kl = config.kl * found["update/kl"] if config.kl_in == "loss" else 0.0
            total += found["update/policy_loss"] + kl - config.entropy * found["update/entropy"]
        return {**found, "update/total_loss": total}

    def _step(
        self,
        buffer: RolloutBuffer,
        batches: Sequence[Sequence[int]],
        tally: Tally,
        outcome: Outcome,
        critic_only: bool,
    ) -> bool:
        """Take one optimiser step, each rank over its share of the micro-batches; return whether to go on."""
        config, divergence, mass = self.config, 0.0, 0.0
        self.adam.zero_grad(set_to_none=True)
        for rows in self.players.ranks.mine(batches):
            batch = collate(buffer, rows, pad_id=0, device=self.players.learner.device)
            trained = buffer.rows[rows[0]].trained and not critic_only
            scores = self._scores(buffer, rows, batch) if trained else None
            loss = self._loss(batch, scores, tally)
            if loss.requires_grad:
                (config.minibatches * loss).backward()  # type: ignore[no-untyped-call]
            if scores is not None and batch.weights is not None and batch.old is not None:
                share = float(batch.weights.sum())
                divergence += float(approx_kl(scores.logprobs.detach(), batch.old, batch.weights)) * share
                mass += share
        learning = [*self.policy, *self.critic]
        divergence, mass = shared_gradients(self.players.ranks, learning, [divergence, mass])
        if mass > 0 and config.target_kl is not None and divergence / mass > config.target_kl:
            return False
        return self._apply(outcome, tally, critic_only)

    def _scores(self, buffer: RolloutBuffer, rows: Sequence[int], batch: Microbatch) -> Scores:
        calls = [buffer.rows[row].call for row in rows]
        return self.players.score(batch, calls, TRAINED, self.config.entropy > 0)

    def _loss(self, batch: Microbatch, scores: Scores | None, tally: Tally) -> Tensor:
        """Return Σ w·ℓ of one micro-batch: policy, KL and entropy of trained rows, value of all rows."""
        config = self.config
        total = torch.zeros((), device=batch.input_ids.device)
        if scores is not None:
            assert batch.old is not None and batch.ref is not None
            assert batch.advantages is not None and batch.weights is not None
            new, weights = scores.logprobs, batch.weights
            policy = policy_loss(new, batch.old, batch.mu, batch.advantages, weights, config.clip, config.omega_cap)
            kl = kl_penalty(torch.where(weights > 0, new, 0.0), torch.where(weights > 0, batch.ref, 0.0))
            total = total + policy - config.entropy * weighted_sum(scores.entropy, weights)
            if config.kl_in == "loss" and config.kl > 0:
                total = total + config.kl * weighted_sum(kl, weights)
            omega = importance_weight(batch.old, batch.mu, config.omega_cap)
            tally.policy(batch, new.detach(), kl.detach(), scores.entropy.detach(), omega, float(policy.detach()))
        if config.estimator == "loo":
            return total
        return total + config.value_coefficient * self._value_loss(batch, scores, tally)

    def _value_loss(self, batch: Microbatch, scores: Scores | None, tally: Tally) -> Tensor:
        by_token = self.config.estimator == "broadcast"
        hidden = None if scores is None else scores.hidden
        values = self.players.value(batch, hidden, tokens=by_token, keep=True)
        assert batch.returns is not None and batch.value_weights is not None and batch.values is not None
        clip = self.config.value_clip
        if by_token:
            assert batch.token_values is not None
            sizes = batch.response.sum(1, keepdim=True).clamp(min=1)
            weights = batch.response.float() / sizes * batch.value_weights[:, None]
            targets = batch.returns[:, :1].expand_as(values)
            loss = value_loss(values, batch.token_values, targets, weights, clip)
            tally.value(float(loss.detach()), 0.0)
            return loss
        each = [
            value_loss(values[:, [i]], batch.values[:, [i]], batch.returns[:, [i]], batch.value_weights, clip)
            for i in range(2)
        ]
        tally.value(float(each[0].detach()), float(each[1].detach()))
        return each[0] + each[1]

    def _apply(self, outcome: Outcome, tally: Tally, critic_only: bool) -> bool:
        limit = self.config.max_grad_norm
        norms = [_clip(group, limit) for group in ([] if critic_only else self.policy, self.critic)]
        if not all(math.isfinite(norm) for norm in norms):
            outcome.finite = False
            return False
        tally.norm(norms[0])
        self.adam.step()
        return True


def _clip(parameters: Sequence[nn.Parameter], limit: float) -> float:
    """Scale gradients down to a norm and return the norm before."""
    return float(nn.utils.clip_grad_norm_(parameters, limit)) if parameters else 0.0


def returns_of(buffer: RolloutBuffer) -> tuple[Floats, Floats]:
    """Return (N, 2) values and (N, 2) value targets of a filled buffer."""
    assert buffer.values is not None and buffer.returns is not None
    if buffer.token_values is None:
        return buffer.values, buffer.returns
    mean = np.array([part.mean() if len(part) else 0.0 for part in buffer.token_values], dtype=np.float32)
    return np.stack([mean, buffer.values[:, 1]], axis=1), buffer.returns
