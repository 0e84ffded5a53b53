"""Spans of recorded executions: their nesting, and times that follow from the call DAG."""

from evaluation.traces import RunCredit, otel_span, spans_of, started_ns, trace_of
from graphs.trajectory import Trajectory
from tests.parallel_run import parallel_run


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
