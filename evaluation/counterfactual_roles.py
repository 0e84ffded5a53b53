"""Counterfactuals summed over a ledger, by role: on how many questions did a role help, and on how many did it hurt?

The unit is the question: changes of a role's calls in all its runs are averaged first, so a question that was asked
eight times, or whose run has three selectors, counts once. Helped: without it the score is lower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from evaluation.counterfactual_result import COSTS, MEASURES, Explanation, Kind
from evaluation.metrics import normalize_squad
from evaluation.statistics import Interval, interval

_ROUNDING = 1e-9
_WITHOUT = {
    "skipped": "was skipped",
    "resampled": "was sampled anew",
    "untuned": "was played by the untuned model",
}


@dataclass(frozen=True)
class RoleEffect:
    """What changing the calls of one role in one way did, over a ledger."""

    role: str
    kind: Kind
    questions: int
    """In whose runs the role spoke and could be changed so."""
    graded: int
    """Those of them with gold answers; what follows about scores speaks of these alone."""
    calls: int
    helped: float
    """Share of the graded questions whose score falls when the role's calls are changed; 0 without any."""
    hurt: float
    """Share of them whose score rises."""
    answer: float
    """Share of all questions in which a change altered an answer (case, punctuation and articles aside)."""
    score: Interval | None
    """Mean change of the score with its 95 % bootstrap interval; None without gold answers."""
    turns: float
    """Mean change, as of the other costs."""
    retrievals: float
    tokens: float

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return asdict(self)

    @property
    def sentence(self) -> str:
        """Return the finding in words."""
        name = self.role.replace("_", " ")
        if not self.graded:
            return f"{name}: the answer changed on {self.answer:.0%} of {self.questions} questions when it " + (
                f"{_WITHOUT[self.kind]}; without gold answers nobody knows for better or worse"
            )
        return (
            f"{name} helped on {self.helped:.0%} of the questions and hurt on {self.hurt:.0%} "
            f"(n = {self.graded}, against runs in which it {_WITHOUT[self.kind]})"
        )


@dataclass(frozen=True)
class _Change:
    """One call changed in one way."""

    key: str
    graded: bool
    answer: bool
    changes: tuple[float, ...]
    """One a measure of `MEASURES`."""


def role_effects(explanations: Sequence[Explanation]) -> list[RoleEffect]:
    """Return the effect of each role that spoke, for each way of changing it, in order of appearance."""
    grouped: dict[tuple[str, Kind], list[_Change]] = {}
    for explanation in explanations:
        for why in explanation.calls:
            for alternative in why.alternatives:
                changes = explanation.changes(alternative)
                if changes:
                    recorded = normalize_squad(explanation.recorded.answer)
                    altered = any(normalize_squad(ending.answer) != recorded for ending in alternative.endings)
                    found = tuple(changes[name] for name in MEASURES)
                    change = _Change(explanation.key, bool(explanation.golds), altered, found)
                    grouped.setdefault((why.role, alternative.kind), []).append(change)
    return [_effect(role, kind, changes) for (role, kind), changes in grouped.items()]


def _effect(role: str, kind: Kind, changes: Sequence[_Change]) -> RoleEffect:
    by_question: dict[str, list[_Change]] = {}
    for change in changes:
        by_question.setdefault(change.key, []).append(change)
    scores = [
        fmean(change.changes[0] for change in mine) for mine in by_question.values() if all(one.graded for one in mine)
    ]
    costs = [
        fmean(fmean(change.changes[place] for change in mine) for mine in by_question.values())
        for place in range(1, 1 + len(COSTS))
    ]
    return RoleEffect(
        role=role,
        kind=kind,
        questions=len(by_question),
        graded=len(scores),
        calls=len(changes),
        helped=_share([score < -_ROUNDING for score in scores]),
        hurt=_share([score > _ROUNDING for score in scores]),
        answer=_share([any(change.answer for change in mine) for mine in by_question.values()]),
        score=interval(scores) if scores else None,
        turns=costs[0],
        retrievals=costs[1],
        tokens=costs[2],
    )


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits) if hits else 0.0
