"""Paired statistics against closed forms, hand-counted permutations, and known error rates."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.errors import ConfigError
from evaluation.macro import macro_compare
from evaluation.statistics import (
    Comparison,
    compare,
    compare_all,
    holm,
    interval,
    minimum_detectable_effect,
    paired_bootstrap,
    permutation_p,
)


def test_permutation_p_by_hand() -> None:
    # sums of ±1 ±2 ±3: 6 4 2 0 0 -2 -4 -6; observed 6; |sum| >= 6 for 2 of 8
    assert permutation_p([1.0, 2.0, 3.0]) == 0.25
    # observed |1+2-3| = 0: every pattern is as extreme
    assert permutation_p([1.0, 2.0, -3.0]) == 1.0
    # questions without a difference change nothing
    assert permutation_p([0.0, 1.0, 0.0, 2.0, 3.0]) == 0.25
    assert permutation_p([0.0, 0.0]) == 1.0


@given(st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=8))
def test_permutation_p_equals_enumeration(differences: list[float]) -> None:
    observed = abs(sum(differences))
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    assert permutation_p(differences) == pytest.approx(np.mean([total >= observed for total in sums]))


def test_random_permutations_agree_with_exact_ones() -> None:
    generator = np.random.default_rng(3)
    differences = generator.normal(0.5, 1.0, size=14)
    exact = permutation_p(differences)
    padded = np.concatenate([differences, [1e-15]])  # 15 moved questions: the random branch
    assert 0.01 < exact < 0.5
    assert permutation_p(padded, 40_000) == pytest.approx(exact, abs=0.01)


def test_bootstrap_interval_matches_the_normal_one() -> None:
    differences = np.random.default_rng(0).normal(0.2, 1.0, size=2000)
    low, high = paired_bootstrap(differences)
    error = differences.std(ddof=1) / np.sqrt(2000)
    assert low == pytest.approx(differences.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(differences.mean() + 1.96 * error, abs=0.1 * error)
    assert (low, high) == paired_bootstrap(differences), "seeded"
    assert (low, high) != paired_bootstrap(differences, seed=1)


def test_bootstrap_does_not_depend_on_chunking(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(40.0)
    whole = paired_bootstrap(values, resamples=500)
    monkeypatch.setattr("evaluation.statistics._CELLS", 41)
    assert paired_bootstrap(values, resamples=500) == whole


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(5)
    hits = 0
    for trial in range(200):
        found = interval(generator.integers(0, 2, size=100).astype(float), resamples=400, seed=trial)
        hits += found.low <= 0.5 <= found.high
    assert 175 <= hits <= 199  # 190 ± 3.1 expected


def test_minimum_detectable_effect_by_hand() -> None:
    # s = 1 by construction, n = 4: (1.95996 + 0.84162) / 2
    scale = np.sqrt(3 / 4)
    differences = scale * np.array([1.0, -1.0, 1.0, -1.0])
    assert minimum_detectable_effect(differences) == pytest.approx(2.80158 / 2, abs=1e-4)
    assert minimum_detectable_effect([0.3]) == float("inf")


def test_the_detectable_effect_is_found_four_times_in_five() -> None:
    generator = np.random.default_rng(11)
    effect = 2.80158 / np.sqrt(200)
    found = 0
    for _ in range(300):
        sample = generator.normal(effect, 1.0, size=200)
        found += abs(sample.mean() / (sample.std(ddof=1) / np.sqrt(200))) > 1.96
    assert 0.72 < found / 300 < 0.88


def test_holm_by_hand() -> None:
    # sorted .01 .02 .04: ×3, ×2, ×1, then running maximum: .03 .04 .04
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([]) == []
    with pytest.raises(ConfigError, match="between 0 and 1"):
        holm([1.2])


def test_compare_by_question_id() -> None:
    system = {"q2": 1.0, "q1": 0.5, "q3": 0.0}
    baseline = {"q1": 0.0, "q2": 0.5, "q3": 0.0}
    found = compare(system, baseline)
    assert (found.n, found.mean, found.difference) == (3, 0.5, pytest.approx(1 / 3))
    assert found.baseline == pytest.approx(1 / 6)
    assert found.p == 0.5, "signs of two equal differences: 2 of 4 patterns"
    assert found.sign == 0 and found.verdict == "not resolved"


def test_compare_averages_seeds_per_question() -> None:
    found = compare([[1.0, 0.0], [0.0, 1.0]], [0.5, 0.5])
    assert found.n == 2 and found.difference == 0.0 and (found.low, found.high) == (0.0, 0.0)


def test_a_sign_is_claimed_only_outside_the_detectable_effect() -> None:
    clear = Comparison(100, 0.5, 0.3, 0.2, 0.1, 0.3, 0.001, 0.15)
    assert clear.sign == 1 and clear.verdict == "better"
    assert Comparison(100, 0.5, 0.4, 0.1, 0.01, 0.2, 0.04, 0.15).sign == 0, "inside the detectable effect"
    assert Comparison(100, 0.5, 0.3, 0.2, -0.1, 0.4, 0.06, 0.15).sign == 0, "the interval holds 0"
    assert Comparison(100, 0.3, 0.5, -0.2, -0.3, -0.1, 0.001, 0.15).verdict == "worse"
    assert Comparison(100, 0.5, 0.3, 0.2, 0.1, 0.3, 0.02, 0.15, p_corrected=0.08).sign == 0
    assert Comparison(100, 0.5, 0.3, 0.2, 0.1, 0.3, 0.06, 0.15).sign == 0, "it stood alone: p itself counts"
    assert Comparison(100, 0.5, 0.3, 0.2, 0.1, 0.3, 0.06, 0.15, alpha=0.1).sign == 1


def test_two_questions_resolve_nothing() -> None:
    # both differences are 1: no spread, so any difference is "detectable"; 2 of the 4 sign patterns are as extreme
    found = compare([1.0, 1.0], [0.0, 0.0])
    assert (found.p, found.detectable, found.low, found.high) == (0.5, 0.0, 1.0, 1.0)
    assert found.sign == 0 and found.verdict == "not resolved"
    assert macro_compare([np.ones(2)], [np.zeros(2)]).sign == 0


def test_the_level_moves_interval_alpha_and_detectable_effect_together() -> None:
    # 5 equal differences: p = 2/32; s = 0, so the interval and the detectable effect claim a sign at once
    strict, loose = (compare([1.0] * 5, [0.0] * 5, level=level) for level in (0.95, 0.9))
    assert (strict.p, strict.alpha, loose.alpha) == (0.0625, 0.05, 0.1)
    assert (strict.sign, loose.sign) == (0, 1)
    scale = np.sqrt(3 / 4)  # s = 1, n = 4: (z of 1 − α/2, plus 0.84162) / 2
    spread = scale * np.array([1.0, -1.0, 1.0, -1.0])
    for level, reach in ((0.95, 1.95996), (0.9, 1.64485), (0.99, 2.57583)):
        for found in (compare(spread, np.zeros(4), level), macro_compare([spread], [np.zeros(4)], level)):
            assert found.detectable == pytest.approx((reach + 0.84162) / 2, abs=1e-4)
            assert found.alpha == pytest.approx(1 - level)


def test_compare_all_corrects_together() -> None:
    generator = np.random.default_rng(2)
    base = generator.random(200)
    systems = {"base": base, "same": base + generator.normal(0, 0.1, 200), "up": base + 0.2}
    found = compare_all(systems, "base")
    assert set(found) == {"same", "up"}
    assert [found[name].p_corrected for name in found] == holm([found[name].p for name in found])
    assert found["up"].verdict == "better"
    with pytest.raises(ConfigError, match=r"baseline 'gone'.*base, same, up"):
        compare_all(systems, "gone")


def test_bad_scores_are_refused() -> None:
    with pytest.raises(ConfigError, match="finite"):
        interval([0.5, float("nan")])
    with pytest.raises(ConfigError, match="at least one"):
        interval([])
    with pytest.raises(ConfigError, match=r"one system only.*'b'"):
        compare({"a": 1.0, "b": 0.0}, {"a": 1.0})
    with pytest.raises(ConfigError, match="2 scores against 1"):
        compare([1.0, 0.0], [1.0])
    with pytest.raises(ConfigError, match="by question id"):
        compare({"a": 1.0}, [1.0])
    with pytest.raises(ConfigError, match="level"):
        interval([1.0], level=1.0)


@settings(max_examples=20)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_swapping_the_sides_mirrors_the_result(scores: list[float]) -> None:
    other = list(reversed(scores))
    there, back = compare(scores, other, resamples=200), compare(other, scores, resamples=200)
    assert there.difference == pytest.approx(-back.difference)
    assert there.detectable == pytest.approx(back.detectable)
