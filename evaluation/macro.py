"""Means over sets in which every set counts the same, with intervals that resample questions within their sets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from evaluation.statistics import (
    Comparison,
    Interval,
    alpha_of,
    bootstrap_means,
    minimum_detectable_effect,
    permutation_p,
)

Floats = npt.NDArray[np.float64]


def macro_interval(sets: Sequence[Floats], level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Return the mean of the sets' means with its stratified bootstrap interval.

    Args:
        sets: For each set its scores per question (questions,).
        level: Coverage.
        resamples: Bootstrap samples, drawn within each set.
        seed: Key of the resampling.
    """
    means = np.mean([bootstrap_means(scores, resamples, (seed, place)) for place, scores in enumerate(sets)], axis=0)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    mean = float(np.mean([scores.mean() for scores in sets]))
    return Interval(mean, float(low), float(high), sum(len(scores) for scores in sets))


def macro_compare(
    system: Sequence[Floats],
    baseline: Sequence[Floats],
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare two systems by the mean of their sets' means; questions are paired within each set.

    The permutation flips signs of per-question differences weighted by 1/(sets · questions of the set); the
    detectable effect combines the sets' standard errors. Both are held to alpha = 1 − level.
    """
    differences = [a - b for a, b in zip(system, baseline, strict=True)]
    found = macro_interval(differences, level, resamples, seed)
    weighted = np.concatenate([d / (len(differences) * len(d)) for d in differences])
    reach = [minimum_detectable_effect(d, alpha_of(level)) for d in differences]
    return Comparison(
        n=found.n,
        mean=float(np.mean([a.mean() for a in system])),
        baseline=float(np.mean([b.mean() for b in baseline])),
        difference=found.mean,
        low=found.low,
        high=found.high,
        p=permutation_p(weighted, resamples, seed),
        detectable=float(np.sqrt(np.sum(np.square(reach))) / len(reach)),
        alpha=alpha_of(level),
    )
