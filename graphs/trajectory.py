"""What one graph run leaves behind: a trajectory, that is, a DAG of calls with one outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from agents.call import Call
from agents.recorded_fields import check_fields, flag, many, mapping, number, or_none, text, whole

Outcome = Literal["ok", "invalid", "truncated", "retriever-error", "timeout", "crashed"]
FAILED: tuple[Outcome, ...] = ("crashed", "timeout", "retriever-error")
"""Outcomes that score 0 in evaluation and are left out of PPO, by name and counted (DESIGN §6)."""
SCHEMA = 1
"""Version of the record layout; part of the `text` hash."""


@dataclass(frozen=True)
class Retrieval:
    """One executed R node, cache hits included."""

    path: str
    query: str
    ids: tuple[str, ...]
    scores: tuple[float, ...]
    seconds: float

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Retrieval:
        """Rebuild a retrieval from its JSON object.

        Raises:
            KeyError: A field is missing; TypeError where one has another type.
        """
        check_fields("retrieval", data, _RETRIEVAL)
        return Retrieval(data["path"], data["query"], tuple(data["ids"]), tuple(data["scores"]), data["seconds"])


@dataclass(frozen=True)
class Trajectory:
    """One recorded graph execution. Holds no gold answer and no reward."""

    run: str
    """Id of the run in the ledger."""
    question: str
    answer: str
    outcome: Outcome
    calls: tuple[Call, ...]
    """Depth-first, send order; `Call.parents` makes the DAG."""
    retrievals: tuple[Retrieval, ...] = ()
    question_id: str | None = None
    evidence: tuple[str, ...] = ()
    """Ids of the passages shown to the answering AG."""
    citations: tuple[str, ...] = ()
    workflow: Mapping[str, Any] | None = None
    """The plan that ran, as a tree: {"path", "question", "plan", "children": […]}; None for graphs
    without a planner."""
    hops: tuple[Mapping[str, Any], ...] = ()
    """Sub-questions with their answers, in order."""
    turns: int = 1
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    """"text", "policy" and "environment" (DESIGN §6)."""
    identity: Mapping[str, Any] = field(default_factory=dict)
    """Names behind the hashes: base, adapter, version, collection, embedder, code; and "roles", the digests of the
    roles that spoke and are not JADE's own."""
    budget_hit: bool = False
    warnings: tuple[str, ...] = ()
    error: str | None = None
    started: str = ""
    """ISO 8601, UTC."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall seconds: "total", "prefill", "decode", "wait", "retrieval", "graph" (the rest)."""

    @property
    def trainable(self) -> bool:
        """Return whether PPO may use the run: sampled, not greedy, and not failed."""
        return self.outcome not in FAILED and bool(self.calls) and not any(call.greedy for call in self.calls)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the ledger's close line."""
        data = dict(self.__dict__)
        data["calls"] = [call.to_json() for call in self.calls]
        data["retrievals"] = [dict(item.__dict__) for item in self.retrievals]
        return data

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Trajectory:
        """Rebuild a trajectory; unknown keys are ignored.

        Raises:
            KeyError: A required field is missing; TypeError where one has another type.
            ValueError: Token lists of a call differ in length.
        """
        check_fields("run", data, _FIELDS)
        fields = {name: data[name] for name in Trajectory.__dataclass_fields__ if name in data}
        fields["calls"] = tuple(Call.from_json(call) for call in data["calls"])
        fields["retrievals"] = tuple(Retrieval.from_json(item) for item in data.get("retrievals", ()))
        for name in ("evidence", "citations", "hops", "warnings"):
            fields[name] = tuple(data.get(name, ()))
        return Trajectory(**fields)


_RETRIEVAL = {"path": text, "query": text, "ids": many(text), "scores": many(number), "seconds": number}
_FIELDS = {
    **dict.fromkeys(("run", "question", "answer", "outcome", "started"), text),
    **dict.fromkeys(("question_id", "error"), or_none(text)),
    **dict.fromkeys(("calls", "retrievals", "hops"), many(mapping)),
    **dict.fromkeys(("evidence", "citations", "warnings"), many(text)),
    **dict.fromkeys(("turns", "seed"), whole),
    **dict.fromkeys(("options", "hashes", "identity", "seconds"), mapping),
    "workflow": or_none(mapping),
    "budget_hit": flag,
}
"""The type of every field of a recorded run."""
