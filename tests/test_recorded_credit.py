"""The credit of one recorded run, worked out by hand: a fork without a model, and values that change it."""

from dataclasses import replace

import pytest

from agents.errors import ConfigError
from evaluation.dataset import Example
from graphs.trajectory import Retrieval, Trajectory
from tests.test_buffer import call
from training.gold import Gold
from training.ppo_config import PPOConfig
from training.recorded_credit import Terms, baseline_of, recorded_credit

SPLIT, LEFT, RIGHT, JOIN = "root/QDP", "root/0/AG", "root/1/AG", "root/AS"
FORK = (
    call(SPLIT, (), 0),
    call(LEFT, (SPLIT,), 1),
    call(RIGHT, (SPLIT,), 2, format_error="no tag"),
    call(JOIN, (LEFT, RIGHT), 3, greedy=True),
)
RUN = Trajectory("r1", "q", "Salzburg", "ok", FORK, turns=2, retrievals=(Retrieval("root/0/R", "q", (), (), 0.0),))


def test_a_fork_by_hand_without_a_critic() -> None:
    found = recorded_credit(RUN, 0.8, Terms(alpha=0.3, beta=0.3, penalty=2.0, lam=0.5))
    # R = 0.8 − 0.3·1/3 − 0.3·1/3; V = 0, so G halves at each step up
    assert found.reward.total == pytest.approx(0.6)
    assert list(found.calls) == [SPLIT, LEFT, RIGHT, JOIN]
    returns = {name: item.returns for name, item in found.calls.items()}
    assert returns == pytest.approx({JOIN: 0.6, LEFT: 0.3, RIGHT: 0.3, SPLIT: 0.15})
    assert all(item.value == 0.0 and item.advantage == item.returns for item in found.calls.values())
    assert found.calls[RIGHT].format == -2.0 and found.calls[RIGHT].total == pytest.approx(0.3 - 2.0)
    assert found.calls[LEFT].format == 0.0 and found.calls[LEFT].role == "AG"
    assert found.to_json()["calls"][JOIN]["returns"] == pytest.approx(0.6)


def test_the_same_fork_with_values() -> None:
    values = {SPLIT: (0.5, -0.1), LEFT: (0.2, 0.0), RIGHT: (0.4, -0.5), JOIN: (0.9, 0.0)}
    found = recorded_credit(RUN, 0.6, Terms(lam=0.5), values).calls
    # G_JOIN = 0.6; G of both branches = 0.5·0.9 + 0.5·0.6 = 0.75; G_SPLIT = mean(0.5·V + 0.5·0.75)
    assert found[LEFT].returns == found[RIGHT].returns == pytest.approx(0.75)
    assert found[SPLIT].returns == pytest.approx(0.5 * 0.3 + 0.5 * 0.75)
    assert found[SPLIT].advantage == pytest.approx(0.525 - 0.5)
    assert found[RIGHT].advantage == pytest.approx(0.35)
    assert found[RIGHT].total == pytest.approx(0.35 + (-1.0 + 0.5)) and found[SPLIT].format_value == -0.1
    chain = recorded_credit(RUN, 0.6, Terms(lam=0.5, estimator="terminal_gae"), values).calls
    assert chain[LEFT].returns == pytest.approx(0.5 * 0.4 + 0.5 * 0.75)  # its sibling's value leaks in


def test_the_defaults_are_those_of_ppo() -> None:
    config, terms = PPOConfig(), Terms()
    pairs = {"alpha": "alpha", "beta": "beta", "penalty": "format_penalty", "gamma": "gamma", "lam": "lam"}
    assert {name: getattr(terms, name) for name in pairs} == {n: getattr(config, field) for n, field in pairs.items()}


@pytest.mark.parametrize(
    ("run", "terms", "message"),
    [
        (replace(RUN, outcome="crashed"), Terms(), "run r1 ended as crashed.*has no credit"),
        (replace(RUN, calls=()), Terms(), "no calls"),
        (replace(RUN, calls=FORK[:3]), Terms(), "2 calls are followed by none"),
        (RUN, Terms(estimator="broadcast"), "'broadcast' needs a value of each token"),
    ],
)
def test_what_has_no_credit_is_refused(run: Trajectory, terms: Terms, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recorded_credit(run, 1.0, terms)


def test_a_leave_one_out_baseline_by_hand() -> None:
    terms = Terms(alpha=0.3, beta=0.3, estimator="loo")
    calls = tuple(replace(one, greedy=False) for one in FORK)
    mine = replace(RUN, calls=calls)
    gold = Gold([Example(id="q1", question="q", answers=("Salzburg castle",))])
    beside = [
        mine,
        replace(mine, run="r2"),  # F1 2/3, R = 2/3 − 0.3·1/3 − 0.3·1/3
        replace(mine, run="r3", answer="Linz", turns=1, retrievals=()),  # R = 0
        replace(mine, run="r4", outcome="crashed"),
        replace(RUN, run="r5"),  # greedy
        replace(mine, run="r6", question="another"),
        replace(mine, run="r7", calls=()),
    ]
    found = baseline_of(mine, 1.0, beside, gold, terms)
    assert found == (pytest.approx((2 / 3 - 0.2) / 2), 2)
    assert found == baseline_of(mine, 1.0, beside[1:], gold, terms)  # its own line is no company
    assert baseline_of(mine, 1.0, beside[:1], gold, terms) is None
    assert baseline_of(mine, 1.0, beside, Gold([]), terms) is None  # nobody else has a score
    shown = recorded_credit(mine, 1.0, terms, {call.id: (found[0], 0.0) for call in calls}).calls
    assert [item.returns for item in shown.values()] == [pytest.approx(0.8)] * 4  # R = 1 − 0.2, for every call
    assert all(item.value == found[0] and item.advantage == item.returns - found[0] for item in shown.values())
    assert shown[RIGHT].total == pytest.approx(0.8 - found[0] - 1.0) and shown[RIGHT].format_value == 0.0
    with pytest.raises(ConfigError, match=r"run r2: turns=0.*no baseline to show"):
        baseline_of(mine, 1.0, [replace(beside[1], turns=0)], gold, terms)
