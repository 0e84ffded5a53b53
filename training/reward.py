"""What a recorded execution is worth: one outcome reward for the team, one format penalty per call.

R = score − α·min(turns − 1, 3)/3 − β·min(retrievals, 3)/3 (paper eqs 6–8, DESIGN §5). The parts stay apart:
the format penalty f_c belongs to call c alone and never enters the return of another call. The score itself
(token F1, EM for yes/no golds, or the user's own) is the evaluation's business and comes in as a number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from agents.call import Call
from graphs.trajectory import Trajectory

CAP = 3
"""Turns beyond the first, and retrievals, that cost more than this many cost no more (paper: maximum of
3)."""


@dataclass(frozen=True)
class TrajectoryReward:
    """The reward of one trajectory, its parts apart. Costs are what is subtracted, so they are ≥ 0."""

    score: float
    """Correctness of the final answer, usually in [0, 1]."""
    turn_cost: float
    """α·min(turns − 1, 3)/3."""
    retrieval_cost: float
    """β·min(retrievals, 3)/3."""
    total: float
    """R = score − turn_cost − retrieval_cost: the team reward at the sink of the call DAG."""
    format: Mapping[str, float]
    """f_c by call id: 0 where the response was valid, −p where the grammar refused it."""


def charged_turns(turns: int) -> int:
    """Return 1 + min(turns − 1, 3): the turns that a run pays for, a single round being free.

    Raises:
        ValueError: `turns` is below 1.
    """
    if turns < 1:
        raise ValueError(f"turns={turns}: a run has at least one turn")
    return 1 + min(turns - 1, CAP)


def charged_retrievals(retrievals: int) -> int:
    """Return min(retrievals, 3): the retrievals that a run pays for.

    Raises:
        ValueError: `retrievals` is negative.
    """
    if retrievals < 0:
        raise ValueError(f"retrievals={retrievals}: cannot be negative")
    return min(retrievals, CAP)


def turn_cost(turns: int, alpha: float) -> float:
    """Return α·min(turns − 1, 3)/3 (paper eq. 7): 0 for a single round.

    Raises:
        ValueError: `turns` is below 1.
    """
    return alpha * (charged_turns(turns) - 1) / CAP


def retrieval_cost(retrievals: int, beta: float) -> float:
    """Return β·min(retrievals, 3)/3 (paper eq. 7), cache hits counted as retrievals.

    Raises:
        ValueError: `retrievals` is negative.
    """
    return beta * charged_retrievals(retrievals) / CAP


def outcome_reward(score: float, turns: int, retrievals: int, alpha: float, beta: float) -> float:
    """Return R = score − α·min(turns − 1, 3)/3 − β·min(retrievals, 3)/3 (paper eq. 6).

    Args:
        score: Correctness of the final answer.
        turns: turns(chain) = 1, turns(QDS) = 1 + Σ turns(child), turns(QDP) = 1 + max turns(child).
        retrievals: Executed R nodes, cache hits included.
        alpha: Price of three or more extra turns, in units of the score.
        beta: Price of three or more retrievals, in units of the score.

    Raises:
        ValueError: The score is not finite, `turns` is below 1, or `retrievals` is negative.
    """
    if not math.isfinite(score):
        raise ValueError(f"score={score}: must be a finite number")
    return score - turn_cost(turns, alpha) - retrieval_cost(retrievals, beta)


def format_penalty(call: Call, penalty: float = 1.0) -> float:
    """Return f_c: −`penalty` where the grammar refused the response, else 0 (paper eq. 8; its code: 2)."""
    return 0.0 if call.format_error is None else -penalty


def rewards(
    trajectory: Trajectory, score: float, *, alpha: float = 0.0, beta: float = 0.0, penalty: float = 1.0
) -> TrajectoryReward:
    """Return all reward parts of one recorded execution.

    Args:
        trajectory: What happened.
        score: Correctness of `trajectory.answer`.
        alpha: Weight of the turn cost.
        beta: Weight of the retrieval cost.
        penalty: p of the format penalty.

    Raises:
        ValueError: As `outcome_reward`; the message names the run.
    """
    retrievals = len(trajectory.retrievals)
    try:
        total = outcome_reward(score, trajectory.turns, retrievals, alpha, beta)
    except ValueError as error:
        raise ValueError(f"run {trajectory.run}: {error}") from None
    return TrajectoryReward(
        score=score,
        turn_cost=turn_cost(trajectory.turns, alpha),
        retrieval_cost=retrieval_cost(retrievals, beta),
        total=total,
        format={call.id: format_penalty(call, penalty) for call in trajectory.calls},
    )
