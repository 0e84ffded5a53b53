"""What counterfactuals of a recorded run came out as: endings, and how they differ from the recorded one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from graphs.trajectory import Trajectory

Kind = Literal["skipped", "resampled", "untuned"]
COSTS = ("turns", "retrievals", "tokens")
MEASURES = ("score", *COSTS)
"""What is compared; tokens are generated ones."""


@dataclass(frozen=True)
class Ending:
    """How a run ended, and what it cost."""

    answer: str
    score: float
    """Against the gold answers, or against the recorded answer where there is none; usually in [0, 1]; failed: 0."""
    turns: int
    retrievals: int
    tokens: int
    """Generated tokens; a skipped call generates none."""
    trajectory: Trajectory = field(repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object, without the trajectory."""
        return {"answer": self.answer, **{name: getattr(self, name) for name in MEASURES}}


@dataclass(frozen=True)
class Alternative:
    """One call changed in one way."""

    kind: Kind
    endings: tuple[Ending, ...]
    """One, or one a sample; empty where it could not be tried."""
    remark: str = ""
    """Why there is no ending, or how many runs failed."""

    def mean(self, measure: str) -> float:
        """Return the mean of a measure over the endings, of which there must be one."""
        return sum(float(getattr(ending, measure)) for ending in self.endings) / len(self.endings)


@dataclass(frozen=True)
class CallWhy:
    """One call of the run and what came of changing it."""

    call: str
    role: str
    text: str
    """What it said."""
    alternatives: tuple[Alternative, ...]


@dataclass(frozen=True)
class Explanation:
    """What each call of a recorded run changed."""

    run: str
    key: str
    """The question's id, else the question: runs of one question share it."""
    question: str
    golds: tuple[str, ...]
    """Empty: scores are the agreement with the recorded answer."""
    recorded: Ending
    calls: tuple[CallWhy, ...]
    remarks: tuple[str, ...] = ()

    @property
    def measure(self) -> str:
        """Return what scores are taken against: "gold", or "agreement" with the recorded answer."""
        return "gold" if self.golds else "agreement"

    def changes(self, alternative: Alternative) -> Mapping[str, float]:
        """Return measure → mean over the endings less what was recorded; empty without an ending."""
        if not alternative.endings:
            return {}
        return {name: alternative.mean(name) - float(getattr(self.recorded, name)) for name in MEASURES}

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        calls = []
        for why in self.calls:
            tried = {
                item.kind: {
                    "endings": [ending.to_json() for ending in item.endings],
                    "change": dict(self.changes(item)),
                    "remark": item.remark,
                }
                for item in why.alternatives
            }
            calls.append({"call": why.call, "role": why.role, "text": why.text, "instead": tried})
        return {
            "run": self.run,
            "question": self.question,
            "golds": list(self.golds),
            "measure": self.measure,
            "recorded": self.recorded.to_json(),
            "calls": calls,
            "remarks": list(self.remarks),
        }
