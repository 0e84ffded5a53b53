"""A small recorded world for counterfactuals: a policy that may answer by seed, temperature and adapter, and gold."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.batcher import TimedBatcher
from agents.call import Completion, Request
from graphs.jade import build_jade
from graphs.ledger import LedgerWriter
from graphs.recorded import RecordedGraph, trainable
from graphs.trajectory import Trajectory
from tests.scripted import END, PASSAGES, ListRetriever, ScriptedPolicy, encode_text, says

BORN = "Where was Mozart born?"
SPLIT = "Which is taller, K2 or Mont Blanc?"


@dataclass
class Actor(ScriptedPolicy):
    """A scripted policy whose script may be overruled by who asks how: (request) → text, or None for the script."""

    overrule: Callable[[Request], str | None] = lambda request: None

    def _say(self, request: Request, batch: int) -> Completion:
        usual = super()._say(request, batch)
        text = self.overrule(request)
        if text is None:
            return usual
        ids = (*encode_text(text), END)
        return Completion(ids, (-0.5,) * len(ids), (1,) * len(ids), text, False, 0.0, 0.0, batch)

    @property
    def places(self) -> list[str]:
        """Return where it was asked, in order."""
        return [str(request.key[2]) for requests in self.batches for request in requests]


def read_mozart(user: str) -> str:
    """Answer from the documents shown."""
    return "Salzburg" if "born in Salzburg" in user else "K2"


def play(
    folder: Path,
    *,
    build: Callable[[ListRetriever], Any] = build_jade,
    passages: Any = PASSAGES,
    overrule: Callable[[Request], str | None] = lambda request: None,
    adapters: dict[str, str | None] | None = None,
    **responses: Any,
) -> tuple[RecordedGraph, Actor]:
    """Return a recorded graph and the policy that plays it."""
    script = {
        "planner": lambda user: "QDP" if SPLIT in user and "depth 2" in user else "R,DS,AG",
        "parallel_decomposer": "<q1>How tall is K2?</q1><q2>How tall is Mont Blanc?</q2>",
        "document_selector": "Document2",
        "answer_generator": read_mozart,
        "answer_summariser": "K2",
        "query_rewriter": "K2 tall",
        **responses,
    }
    policy, retriever = Actor(says(**script), overrule=overrule), ListRetriever(passages)
    graph = trainable(
        build(retriever), policy=policy, retriever=retriever, ledger=LedgerWriter(folder), adapters=adapters
    )
    return graph, policy


def ask(graph: RecordedGraph, question: str = BORN, **options: Any) -> Trajectory:
    """Ask a question and return its record as a ledger would give it back."""
    made: list[Trajectory] = []
    graph.with_recorder(on_close=made.append).invoke(question, **options)
    return Trajectory.from_json(json.loads(json.dumps(made[0].to_json(), default=dict)))


def played_by(graph: RecordedGraph, policy: Any) -> RecordedGraph:
    """Return the graph with another policy."""
    return graph.with_recorder(batcher=TimedBatcher(policy))
