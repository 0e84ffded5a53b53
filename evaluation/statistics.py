"""How sure a difference between two systems is: paired statistics over questions.

The unit is the question: both systems answered the same ones, so only per-question differences enter. Every
comparison carries a bootstrap interval, a permutation p-value and the smallest effect that the sample could
have found; no sign is claimed inside the latter. Several seeds of one system are averaged per question first, so
an interval speaks of these seeds and of new questions.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from agents.errors import ConfigError

Floats = npt.NDArray[np.float64]
Values = Mapping[str, float] | Sequence[float] | Sequence[Sequence[float]] | Floats
"""Scores per question: by question id, in a shared order, or (seeds, questions)."""

_CELLS = 4_000_000
"""Random numbers held at once: 16–32 MB, whatever the sample."""
_REPEATED = 4
"""From so many questions a distinct value on, counts of values are drawn instead of questions."""
_EXACT = 14
"""Up to this many differing questions, all 2ⁿ sign patterns are tried."""


@dataclass(frozen=True)
class Interval:
    """A mean over n questions with a bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Comparison:
    """A system's mean against a baseline's on the same n questions."""

    n: int
    mean: float
    baseline: float
    difference: float
    """mean − baseline."""
    low: float
    """Lower end of the paired bootstrap interval of the difference."""
    high: float
    p: float
    """Two-sided paired permutation p-value."""
    detectable: float
    """Minimum detectable effect of this sample (absolute, in the metric's unit)."""
    p_corrected: float | None = None
    """p after Holm's correction over the comparisons made together; None: it stood alone."""
    alpha: float = 0.05
    """What p must be below for a sign: 1 − the interval's coverage."""

    @property
    def sign(self) -> int:
        """Return 1 (better), −1 (worse), or 0: not resolved by this sample.

        A sign needs an interval off zero, a difference no smaller than the detectable one, p (corrected) below alpha.
        """
        off_zero = self.low > 0 or self.high < 0
        large = abs(self.difference) >= self.detectable and self.difference != 0
        sure = (self.p if self.p_corrected is None else self.p_corrected) < self.alpha
        return int(np.sign(self.difference)) if off_zero and large and sure else 0

    @property
    def verdict(self) -> str:
        """Return the sign in words: "better", "worse" or "not resolved"."""
        return {1: "better", -1: "worse", 0: "not resolved"}[self.sign]


def interval(values: Values, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Return the mean over questions with its percentile bootstrap interval.

    Args:
        values: Scores per question; two axes are (seeds, questions).
        level: Coverage of the interval, between 0 and 1.
        resamples: Bootstrap samples of the questions.
        seed: Key of the resampling.

    Raises:
        ConfigError: No questions, or a score that is not a finite number.
    """
    scores = _per_question(values)
    low, high = paired_bootstrap(scores, level, resamples, seed)
    return Interval(float(scores.mean()), low, high, len(scores))


def paired_bootstrap(
    differences: Values, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean of per-question differences.

    Questions are drawn with replacement, `resamples` times; the interval holds the middle `level` of means.

    Raises:
        ConfigError: As `interval`.
    """
    if not 0 < level < 1 or resamples < 1:
        raise ConfigError(f"level={level}, resamples={resamples}: level lies in (0, 1), resamples is at least 1")
    means = bootstrap_means(_per_question(differences), resamples, seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def permutation_p(differences: Values, permutations: int = 10_000, seed: int = 0) -> float:
    """Return the two-sided p-value of a paired permutation (sign-flip) test of "the mean difference is 0".

    Questions without a difference cannot change the statistic. With up to 14 others all sign patterns are
    tried (exact); beyond, `permutations` random ones, and p = (1 + hits) / (1 + permutations), never 0.

    Raises:
        ConfigError: As `interval`.
    """
    moved = _per_question(differences)
    moved = moved[moved != 0]
    if not len(moved):
        return 1.0
    least = abs(moved.sum()) - 1e-12 * abs(moved).sum()  # ties up to rounding
    if len(moved) <= _EXACT:
        patterns = (np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved))) & 1
        return float(np.mean(abs((2 * patterns - 1) @ moved) >= least))
    generator = np.random.default_rng(seed)
    hits = 0
    sizes, counts = np.unique(abs(moved), return_counts=True)
    if len(sizes) * _REPEATED <= len(moved):  # equal sizes flip together: how many are positive is binomial
        for rows in _chunks(permutations, len(sizes)):
            sums = (2 * generator.binomial(counts, 0.5, size=(rows, len(sizes))) - counts) @ sizes
            hits += int(np.count_nonzero(abs(sums) >= least))
        return (1 + hits) / (1 + permutations)
    for rows in _chunks(permutations, len(moved)):
        signs = generator.integers(0, 2, size=(rows, len(moved)), dtype=np.int8)
        hits += int(np.count_nonzero(abs(2 * (signs @ moved) - moved.sum()) >= least))
    return (1 + hits) / (1 + permutations)


def alpha_of(level: float) -> float:
    """Return the share of errors that intervals of a coverage allow; rounded, since 1 − 0.95 > 0.05 in binary."""
    return round(1 - level, 12)


def minimum_detectable_effect(differences: Values, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the smallest true mean difference that a sample like this one finds with the given power.

    (z₁₋α⸝₂ + z_power) · s / √n, s the standard deviation of the differences: 2.80 standard errors at the
    defaults. Infinite for a single question.

    Raises:
        ConfigError: As `interval`.
    """
    from scipy.stats import norm

    values = _per_question(differences)
    if len(values) < 2:
        return float("inf")
    reach = norm.ppf(1 - alpha / 2) + norm.ppf(power)
    return float(reach * values.std(ddof=1) / np.sqrt(len(values)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down correction of p-values, in the given order.

    Raises:
        ConfigError: A value outside [0, 1].
    """
    if any(not 0 <= p <= 1 for p in p_values):
        raise ConfigError(f"p-values must lie between 0 and 1; given: {list(p_values)}")
    if not p_values:
        return []
    from statsmodels.stats.multitest import multipletests

    gc.freeze()  # multipletests ends with a full garbage collection: half a second beside a loaded model
    try:
        return [float(p) for p in multipletests(list(p_values), method="holm")[1]]
    finally:
        gc.unfreeze()


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return the comparisons of one family with Holm's correction of their p-values, in their order."""
    p_values = holm([comparison.p for comparison in comparisons])
    return [replace(comparison, p_corrected=p) for comparison, p in zip(comparisons, p_values, strict=True)]


def compare(
    system: Values, baseline: Values, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Comparison:
    """Compare a system with a baseline on the same questions.

    Args:
        system: Scores per question, by id or in the baseline's order; two axes are (seeds, questions).
        baseline: Likewise.
        level: Coverage of the interval; p and the detectable effect are held to alpha = 1 − level.
        resamples: Bootstrap samples, and permutations.
        seed: Key of both.

    Raises:
        ConfigError: Different questions, different counts, none at all, or a score that is no finite number.
    """
    a, b = _paired(system, baseline)
    differences = a - b
    low, high = paired_bootstrap(differences, level, resamples, seed)
    return Comparison(
        n=len(a),
        mean=float(a.mean()),
        baseline=float(b.mean()),
        difference=float(differences.mean()),
        low=low,
        high=high,
        p=permutation_p(differences, resamples, seed),
        detectable=minimum_detectable_effect(differences, alpha_of(level)),
        alpha=alpha_of(level),
    )


def compare_all(
    systems: Mapping[str, Values], baseline: str, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> dict[str, Comparison]:
    """Compare every system with the named baseline and correct the p-values together (Holm).

    Raises:
        ConfigError: The baseline is not among the systems, or as `compare`.
    """
    if baseline not in systems:
        raise ConfigError(f"baseline {baseline!r} is not among the systems: {', '.join(systems)}")
    reference = systems[baseline]
    found = {
        name: compare(values, reference, level, resamples, seed) for name, values in systems.items() if name != baseline
    }
    return dict(zip(found, corrected(list(found.values())), strict=True))


def bootstrap_means(scores: Floats, resamples: int, key: int | Sequence[int]) -> Floats:
    """Return the means of samples of the questions drawn with replacement, (resamples,).

    Where values repeat, as they do in most metrics, it is their counts that are drawn: the same distribution, faster.

    Args:
        scores: One a question, finite, (questions,).
        resamples: How many samples.
        key: Key of the generator.
    """
    generator, size = np.random.default_rng(key), len(scores)
    values, counts = np.unique(scores, return_counts=True)
    if len(values) * _REPEATED <= size:
        drawn = [
            generator.multinomial(size, counts / size, size=rows) @ values / size
            for rows in _chunks(resamples, len(values))
        ]
    else:
        drawn = [
            scores[generator.integers(0, size, size=(rows, size), dtype=np.int32)].mean(axis=1)
            for rows in _chunks(resamples, size)
        ]
    return np.concatenate(drawn)


def _chunks(total: int, width: int) -> Iterator[int]:
    """Yield row counts that add up to `total`, each at most `_CELLS` / `width`."""
    size = max(1, _CELLS // max(1, width))
    for start in range(0, total, size):
        yield min(size, total - start)


def _per_question(values: Values) -> Floats:
    scores = np.asarray(list(values.values()) if isinstance(values, Mapping) else values, dtype=np.float64)
    if scores.ndim == 2:
        scores = scores.mean(axis=0)
    if scores.ndim != 1 or not len(scores):
        raise ConfigError(
            f"scores of shape {scores.shape}: give one per question, or (seeds, questions), and at least one"
        )
    if not np.isfinite(scores).all():
        raise ConfigError("a score is not a finite number; score a failed question as 0, never as NaN")
    return scores


def _paired(system: Values, baseline: Values) -> tuple[Floats, Floats]:
    if isinstance(system, Mapping) != isinstance(baseline, Mapping):
        raise ConfigError("give both systems' scores by question id, or both as sequences in one order")
    if isinstance(system, Mapping) and isinstance(baseline, Mapping):
        odd = sorted(set(system) ^ set(baseline))
        if odd:
            raise ConfigError(
                f"{len(odd)} question(s) were answered by one system only, such as {odd[:3]}; "
                "score a failed question as 0 instead of leaving it out"
            )
        system = {key: system[key] for key in baseline}
    a, b = _per_question(system), _per_question(baseline)
    if len(a) != len(b):
        raise ConfigError(f"{len(a)} scores against {len(b)}: a paired comparison needs the same questions")
    return a, b
