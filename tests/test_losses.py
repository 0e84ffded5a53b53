import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from training.losses import (
    approx_kl,
    clip_fraction,
    entropy,
    explained_variance,
    importance_weight,
    kl_penalty,
    per_token,
    per_trajectory,
    policy_loss,
    value_loss,
    weighted_sum,
    whiten,
)

LN = math.log


def row(*numbers: float) -> Tensor:
    return torch.tensor([numbers])


def test_policy_loss_by_hand() -> None:
    # ρ = (1.5, 0.5, 1.5, 0.5), A = (1, 1, −1, −1), ε = 0.2, μ = old so ω = 1. min(ρA, clip(ρ)A):
    # min(1.5, 1.2) = 1.2; min(0.5, 0.8) = 0.5; min(−1.5, −1.2) = −1.5; min(−0.5, −0.8) = −0.8.
    # w = 1/4 each: loss = −(1.2 + 0.5 − 1.5 − 0.8)/4 = 0.15.
    old = row(-1.0, -2.0, -3.0, -0.5)
    new = old + row(LN(1.5), LN(0.5), LN(1.5), LN(0.5))
    new.requires_grad_()
    loss = policy_loss(new, old, old, row(1, 1, -1, -1), torch.full((1, 4), 0.25))
    assert float(loss.detach()) == pytest.approx(0.15, abs=1e-6)
    # Gradient −w·ρ·A where the unclipped side is the minimum, 0 where the clip binds: (0, −0.125, 0.375, 0).
    (gradient,) = torch.autograd.grad(loss, new)
    assert gradient[0].tolist() == pytest.approx([0.0, -0.125, 0.375, 0.0], abs=1e-6)


def test_importance_weight_is_truncated_and_constant() -> None:
    # exp(old − μ) = (0.5, 1, 4) → ω = (0.5, 1, 2); ρ = 1, A = 1, w = 1/3: loss = −3.5/3.
    mu = row(-1.0, -1.0, -3.0)
    old = mu + row(LN(0.5), 0.0, LN(4.0))
    assert importance_weight(old, mu)[0].tolist() == pytest.approx([0.5, 1.0, 2.0])
    new = old.clone().requires_grad_()
    loss = policy_loss(new, old, mu, torch.ones(1, 3), torch.full((1, 3), 1 / 3))
    assert float(loss.detach()) == pytest.approx(-3.5 / 3)
    (gradient,) = torch.autograd.grad(loss, new)
    assert gradient[0].tolist() == pytest.approx([-0.5 / 3, -1 / 3, -2 / 3])  # −w·ω·A, nothing through ω


def test_no_gradient_reaches_what_was_recorded() -> None:
    old = row(-1.0, -2.0).requires_grad_()
    mu = row(-1.2, -2.1).requires_grad_()
    assert not importance_weight(old, mu).requires_grad
    new = row(-1.1, -1.9).requires_grad_()
    loss = policy_loss(new, old, mu, torch.ones(1, 2), torch.full((1, 2), 0.5))
    gradients = torch.autograd.grad(loss, (new, old, mu), allow_unused=True)
    assert gradients[0] is not None and gradients[1] is None and gradients[2] is None


def test_padding_may_hold_anything() -> None:
    nan, weights = float("nan"), torch.tensor([[0.5, 0.0], [0.5, 0.0]])
    new = torch.tensor([[-1.0, nan], [-2.0, float("-inf")]], requires_grad=True)
    clean = new.detach().clone().nan_to_num(0.0, neginf=0.0)
    loss = policy_loss(new, clean, torch.full_like(clean, nan).where(weights == 0, clean), clean, weights)
    (gradient,) = torch.autograd.grad(loss, new)
    assert torch.isfinite(loss) and gradient[:, 1].tolist() == [0.0, 0.0]
    assert float(loss.detach()) == pytest.approx(1.5)  # −½(−1) − ½(−2)
    values = torch.tensor([[nan, 1.0]], requires_grad=True)
    own = value_loss(values, torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]), None)
    (gradient,) = torch.autograd.grad(own, values)
    assert gradient[0].tolist() == [0.0, 1.0]
    assert float(weighted_sum(row(nan, 2.0), row(0.0, 0.5))) == 1.0


def test_value_loss_by_hand() -> None:
    # Two calls, two heads, c = 0.5, w = ½ a call. Call 1 team: V = 1, V_old = 0, G = 2: V_clip = 0.5;
    # max(1, 2.25) = 2.25. Format: V = V_old = 0, f = −1: 1. Call 2 team: V = 0.3, V_old = 0, G = 0: clip
    # does not bind, 0.09. Format: 0. Σ = ½·½·(2.25 + 1 + 0.09) = 0.835.
    values = torch.tensor([[1.0, 0.0], [0.3, 0.0]])
    old, returns = torch.zeros(2, 2), torch.tensor([[2.0, -1.0], [0.0, 0.0]])
    half = torch.tensor([0.5, 0.5])
    assert float(value_loss(values, old, returns, half)) == pytest.approx(0.835)
    # Unclipped: ½·½·(1 + 1 + 0.09) = 0.5225.
    assert float(value_loss(values, old, returns, half, None)) == pytest.approx(0.5225)
    # Per token: one output, weights of the same shape; ½·0.25·(1² + 0²).
    assert float(value_loss(row(1, 0), row(1, 0), row(0, 0), row(0.25, 0.25))) == pytest.approx(0.125)


def test_kl_by_hand_and_zero_at_the_reference() -> None:
    # d = ref − new = ln 2: 2 − ln 2 − 1 = 0.306853; gradient towards new is 1 − e^d = −1.
    new = row(-1.0).requires_grad_()
    kl = kl_penalty(new, row(-1.0 + LN(2)))
    assert float(kl.detach()) == pytest.approx(0.306853, abs=1e-6)
    (gradient,) = torch.autograd.grad(kl.sum(), new)
    assert float(gradient) == pytest.approx(-1.0)
    assert float(kl_penalty(row(-2.5), row(-2.5))) == 0.0


def test_entropy_over_the_allowed_set() -> None:
    logits = torch.tensor([[0.0, 0.0, LN(3.0), 9.0]])
    everything = entropy(torch.zeros(1, 4))
    assert float(everything) == pytest.approx(LN(4))
    # M = {0, 2}: p = (1/4, 3/4), H = ln 4 − ¾ ln 3 = 0.562335; τ = 0.5 squares the odds: p = (0.1, 0.9),
    # 0.325083.
    allowed = torch.tensor([[True, False, True, False]])
    assert float(entropy(logits, allowed=allowed)) == pytest.approx(0.562335, abs=1e-6)
    assert float(entropy(logits, 0.5, allowed)) == pytest.approx(0.325083, abs=1e-6)
    single = torch.tensor([[False, False, False, True]])
    assert float(entropy(logits, allowed=single)) == 0.0
    leaf = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(entropy(leaf, allowed=allowed).sum(), leaf)
    assert torch.isfinite(gradient).all() and gradient[0, 3] == 0.0


def test_weights_by_hand() -> None:
    # Trajectory 0: rows of 3 and 1 tokens; trajectory 1: a row of 2; trajectory 2: none trained.
    counts, owner = torch.tensor([3, 1, 2, 0]), torch.tensor([0, 0, 1, 2])
    assert per_token(counts).tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 0.0])
    # N = 2 trajectories with tokens: 1/(2·4) for the first, 1/(2·2) for the second.
    assert per_trajectory(counts, owner).tolist() == pytest.approx([1 / 8, 1 / 8, 1 / 4, 0.0])
    # Per call: every call once.
    assert per_token(torch.ones(4)).tolist() == pytest.approx([0.25] * 4)
    assert per_trajectory(torch.zeros(0), torch.zeros(0, dtype=torch.long)).tolist() == []


class Scripted:
    """An all-reduce that answers with given sums, in order."""

    def __init__(self, *sums: Tensor) -> None:
        self.sums = list(sums)

    def __call__(self, local: Tensor) -> Tensor:
        return self.sums.pop(0)


def test_weights_and_whitening_over_two_ranks_equal_one_process() -> None:
    counts, owner = torch.tensor([3, 1, 2, 4]), torch.tensor([0, 0, 1, 2])
    advantages, parts = torch.tensor([1.0, -1.0, 0.5, 2.0]), [slice(0, 2), slice(2, 4)]
    whole = per_trajectory(counts, owner)
    sums = [torch.tensor(1.0).double(), torch.tensor(2.0).double()]  # trajectories on rank 0 and 1
    for part in parts:
        got = per_trajectory(counts[part], owner[part] - owner[part].min(), lambda _: sum(sums, torch.tensor(0.0)))
        assert torch.equal(got, whole[part])
    mass = whole * counts
    expected = whiten(advantages, mass, torch.ones(4, dtype=torch.bool))
    first = torch.stack([mass.double().sum(), (mass * advantages).double().sum()])
    mean = first[1] / first[0]
    second = (mass.double() * (advantages.double() - mean).square()).sum()
    for part in parts:
        got = whiten(advantages[part], mass[part], torch.ones(2, dtype=torch.bool), Scripted(first, second))
        assert got.tolist() == pytest.approx(expected[part].tolist(), abs=1e-6)


def test_whiten_by_hand() -> None:
    # Trained A = (1, 3) with weights (¾, ¼): mean 1.5, variance ¾·¼ + ¼·2.25 = 0.75, σ = 0.866025.
    # The untrained 100 is not seen, and becomes 0.
    advantages, weights = torch.tensor([1.0, 3.0, 100.0]), torch.tensor([0.75, 0.25, 0.5])
    trained = torch.tensor([True, True, False])
    got = whiten(advantages, weights, trained)
    assert got.tolist() == pytest.approx([-0.5 / 0.8660254, 1.5 / 0.8660254, 0.0], abs=1e-5)
    assert whiten(torch.full((3,), 7.0), weights, trained).tolist() == [0.0, 0.0, 0.0]
    assert whiten(advantages, weights, torch.zeros(3, dtype=torch.bool)).tolist() == [0.0, 0.0, 0.0]


@given(st.lists(st.tuples(st.floats(-5, 5), st.integers(1, 9)), min_size=2, max_size=12))
def test_whitened_advantages_have_mean_0_and_variance_1(rows: list[tuple[float, int]]) -> None:
    advantages = torch.tensor([a for a, _ in rows])
    counts = torch.tensor([n for _, n in rows])
    mass = per_token(counts) * counts
    if float((mass * (advantages - (mass * advantages).sum()).square()).sum()) < 1e-3:
        return
    got = whiten(advantages, mass, torch.ones(len(rows), dtype=torch.bool))
    assert float((mass * got).sum()) == pytest.approx(0.0, abs=1e-4)
    assert float((mass * got.square()).sum()) == pytest.approx(1.0, abs=1e-3)


def test_statistics_by_hand() -> None:
    old = row(-1.0, -1.0, -1.0)
    new = old + row(LN(1.5), LN(1.1), 0.0)
    weights = row(0.1, 0.3, 0.0)  # a minibatch holds part of the weight: shares are of its own
    assert float(clip_fraction(new, old, weights)) == pytest.approx(0.25)
    # (0.5 − ln 1.5)·¼ + (0.1 − ln 1.1)·¾ = 0.0236337 + 0.0035174.
    assert float(approx_kl(new, old, weights)) == pytest.approx(0.0271511, abs=1e-6)
    # G = (0, 2), V = (0, 1): residuals (0, 1), Var 0.25 against 1.
    assert explained_variance(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 2.0])) == pytest.approx(0.75)
    assert math.isnan(explained_variance(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 2.0])))
