"""The critic's values beside Monte-Carlo values of the same states, worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from agents.errors import ConfigError
from evaluation.counterfactual_result import Alternative, CallWhy, Ending, Explanation
from tests.test_recorded_credit import FORK, JOIN, LEFT, RUN, SPLIT
from training.recorded_credit import Terms
from training.value_check import agreement, state_values


def ending(score: float) -> Ending:
    """Return an ending of a fork with two turns and one retrieval."""
    return Ending("a", score, 2, 1, 4, RUN)


def explained(gold: bool = True) -> Explanation:
    drawn = {SPLIT: (0.0, 1.0), LEFT: (0.5, 0.5), JOIN: (1.0,)}
    calls = tuple(
        CallWhy(
            call, "r", "", (Alternative("skipped", (ending(0.0),)), Alternative("resampled", tuple(map(ending, d))))
        )
        for call, d in drawn.items()
    )
    return Explanation("r1", "k", "q", ("g",) if gold else (), ending(1.0), calls)


VALUES = {call.id: (0.4, 0.0) for call in FORK}


def test_values_by_hand() -> None:
    terms = Terms(alpha=0.3, beta=0.3)  # two turns and one retrieval cost 0.1 each; λ and the skipped call do not enter
    found = {state.call: state for state in state_values(explained(), VALUES, terms)}
    assert {call: state.monte_carlo for call, state in found.items()} == pytest.approx(
        {SPLIT: 0.3, LEFT: 0.3, JOIN: 0.8}
    )
    assert found[SPLIT].error == pytest.approx(math.sqrt(0.5) / math.sqrt(2)) and found[LEFT].error == 0.0
    assert found[SPLIT].samples == 2 and found[JOIN].samples == 1 and math.isnan(found[JOIN].error)
    discounted = state_values(explained(), VALUES, replace(terms, gamma=0.5))
    assert [state.monte_carlo for state in discounted] == pytest.approx([0.3 / 4, 0.3 / 2, 0.8])


def test_agreement_by_hand() -> None:
    states = state_values(explained(), {**VALUES, JOIN: (1.0, 0.0)}, Terms())  # V 0.4, 0.4, 1.0; sampled 0.5, 0.5, 1.0
    found = agreement(states)
    assert (found.states, found.bias) == (3, pytest.approx(-0.2 / 3))
    assert found.error == pytest.approx(math.sqrt(0.02 / 3)) and found.noise == pytest.approx(0.5 / math.sqrt(2))
    assert found.correlation == pytest.approx(1.0)
    constant = agreement(state_values(explained(), VALUES, Terms()))
    assert math.isnan(constant.correlation) and constant.to_json()["correlation"] is None


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ConfigError, match="run r1 has no gold answer"):
        state_values(explained(gold=False), VALUES, Terms())
    with pytest.raises(ConfigError, match="give resamples of 2 or more"):
        agreement([])
    assert [state.call for state in state_values(explained(), {LEFT: (0.0, 0.0)}, Terms())] == [LEFT]
