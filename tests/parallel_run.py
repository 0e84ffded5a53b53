"""One recorded QDP run with known times, for the tests of traces and of tracking."""

from __future__ import annotations

from typing import Any

from agents.call import Call
from graphs.trajectory import Retrieval, Trajectory


def call(path: str, role: str, order: int, *parents: str, **more: Any) -> Call:
    fields: dict[str, Any] = {
        "id": path, "role": role, "path": path, "parents": parents, "prompt_ids": (1, 2, 3), "response_ids": (4, 5),
        "logprobs": (-0.5, -0.25), "mask": (1, 1), "temperature": 1.0, "greedy": False, "text": f"<{role}>",
        "value": role, "format_error": None, "truncated": False, "order": order,
        "seconds": {"wait": 0.0, "prefill": 1.0, "decode": 1.0},
    }  # fmt: skip
    return Call(**{**fields, **more})


def parallel_run(run: str = "run-1") -> Trajectory:
    """QDP with two children that retrieve and answer, and a summary: 2 s a call, 0.5 s a retrieval."""
    calls = [
        call("root/PLAN", "planner", 0),
        call("root/QDP", "parallel_decomposer", 1, "root/PLAN"),
        call("root/0/AG", "answer_generator", 2, "root/QDP"),
        call("root/1/AG", "answer_generator", 3, "root/QDP", format_error="no <answer> at the start"),
        call("root/AS", "answer_summariser", 4, "root/0/AG", "root/1/AG"),
    ]
    searches = [Retrieval(f"root/{n}/R", f"query {n}", (f"p{n}",), (0.5,), 0.5) for n in (0, 1)]
    return Trajectory(
        run=run, question="Which is older?", answer="the first", outcome="ok", calls=tuple(calls),
        retrievals=tuple(searches), workflow={"plan": "QDP"}, turns=2, started="2026-11-22T10:00:00.000+00:00",
        seconds={"total": 9.0}, hashes={"text": "t", "policy": "p", "environment": "e"},
    )  # fmt: skip
