"""What one recorded run and each of its calls was worth: reward parts, and V, G, A and f of each call.

Needs no model: the reward comes from a score, f from the record, and values from whoever has a critic. Without values
every V counts as 0, so that G and A show how a reward would spread, not what the run was trained on. Estimator loo has
no critic: V is the mean reward of the other runs of the question that were recorded beside the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from agents.errors import ConfigError
from graphs.trajectory import FAILED, Trajectory
from training.calldag import CallDag, trajectory_dag
from training.credit import Credit, leave_one_out, loo, terminal_gae, tree_gae
from training.gold import Gold
from training.reward import TrajectoryReward, rewards


def _loo(
    dag: CallDag,
    reward: float,
    values: Mapping[str, float],
    format_rewards: Mapping[str, float],
    format_values: Mapping[str, float],
    *,
    gamma: float,
    lam: float,
) -> Credit:
    """Give credit by `loo`; every value is the run's baseline."""
    return loo(dag, reward, values[dag.sink], format_rewards)


ESTIMATORS = {"tree_gae": tree_gae, "terminal_gae": terminal_gae, "loo": _loo}
"""Estimators that need nothing but the run itself and a value of each call."""


@dataclass(frozen=True)
class Terms:
    """Prices and discounts; the defaults are those of `python -m training.ppo`."""

    alpha: float = 0.0
    """α, the price of three or more extra turns."""
    beta: float = 0.0
    """β, the price of three or more retrievals."""
    penalty: float = 1.0
    """p, the price of an invalid response."""
    gamma: float = 1.0
    lam: float = 0.95
    estimator: str = "tree_gae"
    """One of `ESTIMATORS`."""


@dataclass(frozen=True)
class CallCredit:
    """What one call was worth, before whitening."""

    role: str
    value: float
    """V_c."""
    returns: float
    """G_c."""
    advantage: float
    """A_c = G_c − V_c."""
    format: float
    """f_c ∈ {0, −p}."""
    format_value: float
    """V^f_c."""
    total: float
    """A_c + f_c − V^f_c: the advantage in the policy loss."""


@dataclass(frozen=True)
class RecordedCredit:
    """What one run was worth."""

    reward: TrajectoryReward
    terms: Terms
    calls: Mapping[str, CallCredit]
    """By call id, in depth-first send order."""

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        parts = {name: getattr(self.reward, name) for name in ("total", "score", "turn_cost", "retrieval_cost")}
        calls = {name: asdict(item) for name, item in self.calls.items()}
        return {"reward": parts, "terms": asdict(self.terms), "calls": calls}


def baseline_of(
    run: Trajectory, score: float, beside: Iterable[Trajectory], gold: Gold, terms: Terms
) -> tuple[float, int] | None:
    """Return the leave-one-out baseline of a run, and over how many other runs of its question it is the mean.

    Args:
        run: The run.
        score: Correctness of its answer.
        beside: The runs that were recorded with it, itself included or not.
        gold: Scores of the others; runs without one do not count, as in training.
        terms: Prices.

    Returns:
        None where no other run of the question can be trained on: training leaves such a run out.

    Raises:
        ConfigError: A run's record is corrupt, or the score function gave no finite number.
    """
    question = run.question_id or run.question
    scores = {
        other.run: (other, value)
        for other in beside
        if (other.question_id or other.question) == question
        and other.run != run.run
        and other.trainable
        and (value := gold(other)) is not None
    }
    if not scores:
        return None
    pairs = [(run, score), *scores.values()]
    try:
        totals = [rewards(one, value, alpha=terms.alpha, beta=terms.beta).total for one, value in pairs]
    except ValueError as error:
        raise ConfigError(f"{error}; there is no baseline to show") from None
    return leave_one_out(totals)[0], len(scores)


def recorded_credit(
    run: Trajectory, score: float, terms: Terms, values: Mapping[str, tuple[float, float]] | None = None
) -> RecordedCredit:
    """Return what a recorded run and its calls were worth.

    Args:
        run: The run; greedy ones too, though PPO would not learn from them.
        score: Correctness of its answer.
        terms: Prices, discounts and estimator.
        values: Call id → (V, V^f); None = unknown, taken as 0. For loo every V is the run's baseline.

    Raises:
        ConfigError: The run failed, holds no usable call DAG, or the estimator needs values of each token.
    """
    if run.outcome in FAILED:
        raise ConfigError(f"run {run.run} ended as {run.outcome}: it is left out of training and has no credit")
    if terms.estimator not in ESTIMATORS:
        raise ConfigError(
            f"estimator {terms.estimator!r} needs a value of each token; allowed: {', '.join(ESTIMATORS)}"
        )
    try:
        dag = trajectory_dag(run)
        paid = rewards(run, score, alpha=terms.alpha, beta=terms.beta, penalty=terms.penalty)
    except ValueError as error:
        raise ConfigError(f"{error}; there is no credit to show") from None
    known = dict.fromkeys(dag.order, (0.0, 0.0)) if values is None else values
    team, own = ({call: known[call][i] for call in dag.order} for i in range(2))
    estimate = ESTIMATORS[terms.estimator]
    credit = estimate(dag, paid.total, team, paid.format, own, gamma=terms.gamma, lam=terms.lam)
    roles = {call.id: call.role for call in run.calls}
    calls = {
        call: CallCredit(
            role=roles[call],
            value=team[call],
            returns=credit.returns[call],
            advantage=credit.advantages[call],
            format=paid.format[call],
            format_value=own[call],
            total=credit.total[call],
        )
        for call in dag.order
    }
    return RecordedCredit(paid, terms, calls)
