"""Counterfactuals summed over a ledger, by role: on how many questions did a role help, and on how many did it hurt?

The unit is the question: changes of a role's calls in all its runs are averaged first, so a question that was asked
eight times, or whose run has three selectors, counts once. Helped: without it the score is lower. Shares are of the
questions in which the role spoke, and of all.
"""

from __future__ import annotations

from collections import Counter
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
    total: int
    """Questions with gold answers of all explained runs, whether the role spoke or not."""
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
        return {**asdict(self), "helped_of_all": self.of_all(self.helped), "hurt_of_all": self.of_all(self.hurt)}

    def of_all(self, share: float) -> float:
        """Return a share of the graded questions as one of all: where the role did not speak, it did nothing."""
        return share * self.graded / self.total if self.total else 0.0

    @property
    def sentence(self) -> str:
        """Return the finding in words."""
        name = self.role.replace("_", " ")
        if not self.graded:
            return f"{name}: the answer changed on {self.answer:.0%} of {self.questions} questions when it " + (
                f"{_WITHOUT[self.kind]}; without gold answers nobody knows for better or worse"
            )
        return (
            f"{name} helped on {self.helped:.0%} and hurt on {self.hurt:.0%} of the {self.graded} questions in which "
            f"it spoke ({self.of_all(self.helped):.0%} and {self.of_all(self.hurt):.0%} of all {self.total}), against "
            f"runs in which it {_WITHOUT[self.kind]}"
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
    ungraded = {explanation.key for explanation in explanations if not explanation.golds}
    total = len({explanation.key for explanation in explanations} - ungraded)
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
    return [_effect(role, kind, changes, total) for (role, kind), changes in grouped.items()]


def remarks_of(explanations: Sequence[Explanation]) -> dict[str, int]:
    """Return remark → how many runs it was made of, the commonest first."""
    return dict(Counter(remark for item in explanations for remark in item.remarks).most_common())


def _effect(role: str, kind: Kind, changes: Sequence[_Change], total: int) -> RoleEffect:
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
        total=total,
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
