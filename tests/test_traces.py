"""Spans of recorded executions: their nesting, and times that follow from the call DAG."""

from typing import Any

from agents.call import Call
from evaluation.traces import RunCredit, otel_span, spans_of, started_ns, trace_of
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


def test_spans_nest_by_path_and_follow_the_call_dag() -> None:
    credit = RunCredit({"total": 0.7}, {"root/AS": {"advantage": 0.2, "reward": 0.7}})
    spans = spans_of(parallel_run(), credit, decode=lambda ids: f"{len(ids)} tokens")
    shape = {
        (spans[span.parent].name if span.parent is not None else None, span.name, span.start, span.end)
        for span in spans
    }
    assert shape == {
        (None, "run", 0.0, 9.0),
        ("run", "root", 0.0, 8.5),
        ("root", "planner", 0.0, 2.0),
        ("root", "parallel_decomposer", 2.0, 4.0),
        ("root", "0", 4.0, 6.5),
        ("root", "1", 4.0, 6.5),
        ("0", "retrieve", 4.0, 4.5),
        ("1", "retrieve", 4.0, 4.5),
        ("0", "answer_generator", 4.5, 6.5),
        ("1", "answer_generator", 4.5, 6.5),
        ("root", "answer_summariser", 6.5, 8.5),
    }
    assert all(span.parent is None or span.parent < number for number, span in enumerate(spans))
    by_call = {span.attributes.get("call"): span for span in spans}
    assert by_call["root/AS"].attributes["advantage"] == 0.2
    assert by_call["root/AS"].inputs["prompt"] == "3 tokens"
    assert by_call["root/1/AG"].attributes["valid"] is False
    assert spans[0].attributes["reward.total"] == 0.7
    assert spans[0].outputs["answer"] == "the first"


def test_a_failed_run_is_an_error_span() -> None:
    crashed = Trajectory(run="r", question="q", answer="", outcome="crashed", calls=(), error="boom")
    assert spans_of(crashed)[0].error == "boom"


def test_exported_ids_depend_on_the_run_alone() -> None:
    trace = trace_of(parallel_run())
    spans = [otel_span("tr-1", trace, number) for number in range(len(trace["spans"]))]
    assert spans == [otel_span("tr-1", trace_of(parallel_run()), number) for number in range(len(spans))]
    ids = [span["span_id"] for span in spans]
    assert len(set(ids)) == len(ids)
    assert [span["parent_span_id"] for span in spans[1:]] == [ids[span["parent"]] for span in trace["spans"][1:]]
    assert (trace["prompt_tokens"], trace["response_tokens"]) == (15, 10)


def test_the_start_comes_from_the_record() -> None:
    assert started_ns(parallel_run()) == 1795341600 * 10**9
