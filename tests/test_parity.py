import math

import pytest

from training.parity import (
    BF16,
    FP32,
    Gap,
    gap,
    hash_problem,
    joined,
    parity_problem,
    refused,
    staleness_problem,
)


def test_gap_by_hand() -> None:
    # Δ = (0.2, −0.1) on sampled tokens; the forced one (−9) does not count: mean |Δ| 0.15, |ΣΔ| 0.1.
    got = gap([-1.0, 0.0, -2.0], [-0.8, -9.0, -2.1], [1, 0, 1])
    assert got.tokens == 2
    assert [got.mean, got.total] == pytest.approx([0.15, 0.1])
    assert gap([0.0], [-1.0], [0]) == Gap(0, 0.0, 0.0)
    with pytest.raises(ValueError):
        gap([0.0], [0.0, 0.0], [1])


def test_parity_limits() -> None:
    assert parity_problem([Gap(9, 1e-4, 0.5)], FP32) is None
    assert parity_problem([Gap(9, 0.0, 0.0), Gap(9, 1.1e-4, 0.0)], FP32) == "parity-mean"
    assert parity_problem([Gap(9, 1.1e-4, 0.0)], BF16) is None
    assert parity_problem([Gap(60, 0.03, 1.49)], BF16) is None
    assert parity_problem([Gap(60, 0.03, 1.51)], BF16) == "parity-sum"
    assert parity_problem([Gap(60, 0.061, 0.1)], BF16) == "parity-mean"
    assert parity_problem([Gap(60, 1e-5, 0.51)], FP32) == "parity-sum"
    assert parity_problem([Gap(1, math.nan, 0.0)], BF16) == "parity-mean"
    assert parity_problem([], FP32) is None


def test_staleness_is_its_own_refusal() -> None:
    fine, drifted = Gap(50, 0.3, 9.0), Gap(50, 0.31, 0.0)
    assert staleness_problem(3, 7, fine) is None
    assert staleness_problem(2, 7, fine) == "stale-versions"
    assert staleness_problem(7, 7, drifted) == "stale-drift"
    assert staleness_problem(8, 7, fine) == "newer-policy"
    assert staleness_problem(7, 7, Gap(1, math.nan, 0.0)) == "stale-drift"


def test_hashes() -> None:
    hashes = {"text": "t", "policy": "p", "environment": "e"}
    assert hash_problem(hashes, "t") is None
    assert hash_problem(hashes, "t", "e") is None
    assert hash_problem(hashes, "u", "e") == "other-text"
    assert hash_problem(hashes, "t", "f") == "other-environment"
    assert hash_problem({}, "t") == "other-text"


def test_run_gap_and_counters() -> None:
    # Token-weighted: (2·0.1 + 6·0.5)/8 = 0.4.
    got = joined([Gap(2, 0.1, 0.2), Gap(6, 0.5, 0.1)])
    assert got.tokens == 8
    assert [got.mean, got.total] == pytest.approx([0.4, 0.2])
    assert joined([]) == Gap(0, 0.0, 0.0)
    dropped = refused([("r1", None), ("r2", "stale-drift"), ("r3", "parity-mean"), ("r4", "stale-drift")])
    assert dropped.runs == {"stale-drift": ("r2", "r4"), "parity-mean": ("r3",)}
