"""Are the critic's values right? They are compared with Monte-Carlo values of the same states.

A state is what a call was shown. Its Monte-Carlo value is the mean return of runs that go on from there with the call
sampled anew (`evaluation.counterfactual`); the critic's is read at its last prompt token. Parallel branches that do not
depend on the call are as recorded, and a greedy run goes on greedily: both make samples less varied than a critic,
trained on whole sampled runs, speaks of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, stdev
from typing import Any

from agents.errors import ConfigError
from evaluation.counterfactual_result import Ending, Explanation
from graphs.trajectory import FAILED
from training.recorded_credit import Terms, recorded_credit


@dataclass(frozen=True)
class StateValue:
    """One state, valued twice."""

    run: str
    call: str
    role: str
    value: float
    """The critic's V."""
    monte_carlo: float
    """Mean return over fresh samples of the call."""
    error: float
    """Standard error of that mean; NaN for a single sample."""
    samples: int


@dataclass(frozen=True)
class Agreement:
    """How well two lists of values agree."""

    states: int
    bias: float
    """Mean of V less the Monte-Carlo value."""
    error: float
    """Root mean square of that difference."""
    noise: float
    """Root mean square of the Monte-Carlo values' own standard errors: no critic gets below."""
    correlation: float
    """Pearson's; NaN where one of the lists is constant."""

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object; what is not a number is null."""
        return {name: None if math.isnan(value) else value for name, value in asdict(self).items()}


def state_values(explanation: Explanation, values: Mapping[str, tuple[float, float]], terms: Terms) -> list[StateValue]:
    """Return both values of each state that was sampled anew; samples that failed are left out, as from training.

    Args:
        explanation: Of a run, with resampled calls.
        values: Call id → (V, V^f), as from `training.restored.values_of`.
        terms: Prices and γ that the critic was trained under.

    Raises:
        ConfigError: The scores were not taken against gold answers, so that no return is known.
    """
    if not explanation.golds:
        raise ConfigError(f"run {explanation.run} has no gold answer, so no return to compare the critic's values with")
    found = []
    for why in explanation.calls:
        for alternative in why.alternatives:
            if alternative.kind != "resampled" or why.call not in values:
                continue
            trained_on = [item for item in alternative.endings if item.trajectory.outcome not in FAILED]
            returns = [_return_at(why.call, ending, terms) for ending in trained_on]
            if returns:
                found.append(
                    StateValue(
                        run=explanation.run,
                        call=why.call,
                        role=why.role,
                        value=values[why.call][0],
                        monte_carlo=fmean(returns),
                        error=stdev(returns) / math.sqrt(len(returns)) if len(returns) > 1 else math.nan,
                        samples=len(returns),
                    )
                )
    return found


def _return_at(call: str, ending: Ending, terms: Terms) -> float:
    """Return G of a call at λ = 1: the reward, discounted along its way to the end."""
    whole = replace(terms, lam=1.0, estimator="tree_gae")
    return recorded_credit(ending.trajectory, ending.score, whole).calls[call].returns


def agreement(states: Sequence[StateValue]) -> Agreement:
    """Return how well the critic's values agree with the Monte-Carlo values.

    Raises:
        ConfigError: No state was valued.
    """
    if not states:
        raise ConfigError("no call was sampled anew, so there are no values to compare: give resamples of 2 or more")
    values, sampled = [state.value for state in states], [state.monte_carlo for state in states]
    differences = [value - other for value, other in zip(values, sampled, strict=True)]
    errors = [state.error for state in states if not math.isnan(state.error)]
    return Agreement(
        states=len(states),
        bias=fmean(differences),
        error=math.sqrt(fmean(item**2 for item in differences)),
        noise=math.sqrt(fmean(item**2 for item in errors)) if errors else math.nan,
        correlation=_pearson(values, sampled),
    )


def _pearson(one: Sequence[float], other: Sequence[float]) -> float:
    if min(one) == max(one) or min(other) == max(other):
        return math.nan
    mean, mean_other = fmean(one), fmean(other)
    across = math.fsum((a - mean) * (b - mean_other) for a, b in zip(one, other, strict=True))
    spread = math.sqrt(math.fsum((a - mean) ** 2 for a in one) * math.fsum((b - mean_other) ** 2 for b in other))
    return across / spread
