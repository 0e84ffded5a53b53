"""The losses of PPO over recorded calls: pure, tensor in, tensor out; no config, no logging.

Letters (DESIGN §5): B rows (calls), T response tokens, V vocabulary. Log-probabilities are at temperature τ
over the allowed set M. μ sampled the tokens, old is the trained model when the update starts, new is the
model now. Weights `w` are 0 where the response mask is 0 and sum to 1 over the whole batch; the loss of one
of K minibatches is K·Σ w·ℓ, so every function here returns Σ w·ℓ and the caller multiplies. Against the
paper (token-mean PPO): weights per trajectory by default, and a truncated importance weight ω for rows that
an older policy sampled.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Reduce = Callable[[Tensor], Tensor]
"""Adds a tensor over all ranks and returns it; `alone` on one process."""


def alone(tensor: Tensor) -> Tensor:
    """Return `tensor`: the sum over the ranks of a single process."""
    return tensor


def weighted_sum(values: Tensor, weights: Tensor) -> Tensor:
    """Return Σ w·x, reading x only where w > 0, so that padding may hold anything, NaN included.

    Args:
        values: Any shape.
        weights: The same shape, ≥ 0.

    Returns:
        A scalar; its gradient towards unread values is exactly 0.
    """
    return (torch.where(weights > 0, values, 0.0) * weights).sum()


def importance_weight(old: Tensor, mu: Tensor, cap: float = 2.0) -> Tensor:
    """Return ω = min(cap, exp(old − μ)) without gradient: it corrects for the older policy that sampled.

    Args:
        old: (B, T) log-probabilities of the model at the start of the update.
        mu: (B, T) recorded log-probabilities of the policy that sampled.
        cap: Truncation.
    """
    return (old - mu).detach().exp().clamp(max=cap)


def policy_loss(
    new: Tensor,
    old: Tensor,
    mu: Tensor,
    advantages: Tensor,
    weights: Tensor,
    clip: float = 0.2,
    cap: float = 2.0,
) -> Tensor:
    """Return Σ w·ℓ with ℓ = −ω·min(ρA, clip(ρ, 1 ± ε)A), ρ = exp(new − old) (arXiv 1707.06347 eq. 7).

    Args:
        new: (B, T) log-probabilities of the model now, with gradient.
        old: (B, T) of the model at the start of the update; ρ = 1 at the first step.
        mu: (B, T) as recorded while sampling; ω = min(cap, exp(old − μ)).
        advantages: (B, T), the same for all tokens of a call except under `broadcast`.
        weights: (B, T), 0 on padding, forced tokens and calls that are not trained.
        clip: ε.
        cap: Truncation of ω.

    Returns:
        A scalar.
    """
    on = weights > 0
    new, old, mu = (torch.where(on, logprobs, 0.0) for logprobs in (new, old, mu))
    ratio = (new - old.detach()).exp()
    gain = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return weighted_sum(-importance_weight(old, mu, cap) * gain, weights)


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, weights: Tensor, clip: float | None = 0.5
) -> Tensor:
    """Return Σ w·½·max((V − G)², (V_clip − G)²), V_clip = V_old + clip(V − V_old, ±c), summed over heads.

    Args:
        values: (B, H) of the critic now, H = 2 outputs (team, format), one value a call; or (B, T) under
            `broadcast`, whose one output has a value a token.
        old_values: The same shape: the values that the advantages were computed with.
        returns: The same shape: G and f, never whitened (R + f under `broadcast`).
        weights: (B,) per call, or the shape of `values`.
        clip: c; None = unclipped.

    Returns:
        A scalar.
    """
    weights = weights if weights.dim() == values.dim() else weights.unsqueeze(-1).expand_as(values)
    on = weights > 0
    values, old_values, returns = (torch.where(on, x, 0.0) for x in (values, old_values, returns))
    error = (values - returns).square()
    if clip is not None:
        near = old_values + (values - old_values).clamp(-clip, clip)
        error = torch.maximum(error, (near - returns).square())
    return weighted_sum(0.5 * error, weights)


def kl_penalty(new: Tensor, ref: Tensor) -> Tensor:
    """Return e^d − d − 1 with d = ref − new: an unbiased, non-negative estimate of KL(new ‖ ref) per token.

    Args:
        new: (B, T) log-probabilities of the model now (for KL in the loss) or at sampling (in the reward).
        ref: (B, T) of the frozen reference, under the same M and τ.

    Returns:
        (B, T), to be weighted with w (`weighted_sum`) or summed over m into the call's own reward.
    """
    difference = ref.detach() - new
    return difference.exp() - difference - 1


def entropy(logits: Tensor, temperature: float = 1.0, allowed: Tensor | None = None) -> Tensor:
    """Return the entropy in nats of softmax(z/τ) over the allowed set M, computed in fp32.

    Args:
        logits: (..., V).
        temperature: τ > 0.
        allowed: (..., V) bool, True on M; None = the whole vocabulary. M is never empty.

    Returns:
        (...): 0 where |M| = 1.
    """
    scaled = logits.float() / temperature
    if allowed is not None:
        scaled = scaled.masked_fill(~allowed, float("-inf"))
    logprobs = scaled.log_softmax(-1)
    if allowed is not None:
        logprobs = logprobs.masked_fill(~allowed, 0.0)
        return -(logprobs.exp().masked_fill(~allowed, 0.0) * logprobs).sum(-1)
    return -(logprobs.exp() * logprobs).sum(-1)


def per_token(counts: Tensor, all_sum: Reduce = alone) -> Tensor:
    """Return the weight of one token of each row when every token counts the same: 1/Σm.

    Args:
        counts: (B,) trained tokens of each row, Σ_t m_t (0 for calls that are not trained), whole batch.
        all_sum: Adds over ranks.

    Returns:
        (B,): multiply by the row's mask to get w; 0 for rows without tokens. With `counts` = 1 for every call
        these are the value loss's weights per call.
    """
    total = all_sum(counts.double().sum())
    return torch.where(counts > 0, 1.0 / total.clamp(min=1.0), 0.0).float()


def per_trajectory(counts: Tensor, trajectories: Tensor, all_sum: Reduce = alone) -> Tensor:
    """Return the weight of one token of each row when every trajectory counts the same: 1/(N·Σm of its own).

    Args:
        counts: (B,) trained tokens of each row (0 for calls that are not trained), whole batch.
        trajectories: (B,) index of each row's trajectory, 0 ≤ index; a trajectory lies on one rank.
        all_sum: Adds over ranks.

    Returns:
        (B,) as `per_token`. N counts trajectories that have at least one token, so the weights sum to 1.
    """
    if counts.numel() == 0:
        all_sum(torch.zeros((), dtype=torch.float64))
        return counts.float()
    own = torch.zeros(int(trajectories.max()) + 1, dtype=torch.float64, device=counts.device)
    own = own.index_add(0, trajectories, counts.double())
    number = all_sum((own > 0).double().sum()).clamp(min=1.0)
    return torch.where(counts > 0, 1.0 / (number * own[trajectories].clamp(min=1.0)), 0.0).float()


def whiten(advantages: Tensor, weights: Tensor, trained: Tensor, all_sum: Reduce = alone) -> Tensor:
    """Shift and scale to weighted mean 0 and variance 1 over the trained calls of the whole batch.

    Args:
        advantages: (B,) A_c + A^f_c per call, or (B, T) per token under `broadcast`.
        weights: The same shape: each entry's total weight Σ_t w (of a call: its token weight times its Σm).
        trained: The same shape, bool.
        all_sum: Adds over ranks.

    Returns:
        The same shape; 0 where not trained or without weight. All 0 where the advantages do not vary.
    """
    w = torch.where(trained, weights, 0.0).double()
    a = torch.where(w > 0, advantages, 0.0).double()
    mass, first = all_sum(torch.stack([w.sum(), (w * a).sum()])).unbind()
    mean = first / mass.clamp(min=torch.finfo(torch.float64).tiny)
    variance = all_sum((w * (a - mean).square()).sum()) / mass.clamp(min=torch.finfo(torch.float64).tiny)
    scale = torch.where(variance > 1e-12, variance.clamp(min=1e-12).rsqrt(), 0.0)
    return torch.where(w > 0, (a - mean) * scale, 0.0).to(advantages.dtype)


def clip_fraction(new: Tensor, old: Tensor, weights: Tensor, clip: float = 0.2) -> Tensor:
    """Return the weighted share of tokens with |ρ − 1| > ε, a scalar in [0, 1].

    Args:
        new: (B, T).
        old: (B, T).
        weights: (B, T).
        clip: ε.

    Shares are of the weights given, so a minibatch may be passed as it is.
    """
    outside = ((new - old).exp() - 1).abs() > clip
    return weighted_sum(outside.float(), weights) / weights.sum().clamp(min=1e-12)


def approx_kl(new: Tensor, old: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of (ρ − 1) − ln ρ: an estimate in nats a token of KL(old ‖ new), a scalar ≥ 0.

    Args:
        new: (B, T).
        old: (B, T).
        weights: (B, T).
    """
    difference = new - old
    return weighted_sum(difference.exp() - 1 - difference, weights) / weights.sum().clamp(min=1e-12)


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """Return 1 − Var(G − V)/Var(G): 1 = perfect critic, 0 = as good as a constant, below 0 = worse.

    Args:
        values: (N,) V, one head.
        returns: (N,) G.

    Returns:
        NaN where the returns do not vary: undefined, to be left out of a log rather than plotted as 0.
    """
    spread = returns.double().var(correction=0)
    if returns.numel() == 0 or float(spread) == 0.0:
        return float("nan")
    return float(1 - (returns.double() - values.double()).var(correction=0) / spread)
