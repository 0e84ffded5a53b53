"""Collecting in lock-step: reproducible batches and ledgers, failures as records, no deadlock."""

from __future__ import annotations

import asyncio
import json
import operator
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.types import Send

from agents.call import Completion, Request
from agents.errors import ConfigError, RetrieverError
from graphs import act, collect
from graphs.collection import Timing
from graphs.jade import build_jade
from graphs.ledger import LedgerWriter, read_ledger
from tests.scripted import PASSAGES, ListRetriever, Recording, ScriptedPolicy, record, says
from tests.test_foreign import SPEAKER
from tests.test_resume import SCRIPT, essence

QUESTIONS = [f"Question number {place}?" for place in range(7)]
TIMINGS = {"at", "started", "seconds"}


def jade(folder: Path, **extra: Any) -> Recording:
    return record(build_jade, extra.pop("script", SCRIPT), folder, **extra)


def bare(value: Any) -> Any:
    """Return a ledger line without what the clock made."""
    if isinstance(value, dict):
        return {key: bare(item) for key, item in value.items() if key not in TIMINGS}
    return [bare(item) for item in value] if isinstance(value, list) else value


def ledger_lines(folder: Path) -> list[Any]:
    (file,) = folder.glob("*.jsonl")
    return [bare(json.loads(line)) for line in file.read_text().splitlines()]


def keys(made: Recording) -> list[list[Any]]:
    return [[request.key for request in batch] for batch in made.policy.batches]


def test_the_same_collection_writes_the_same_ledger(tmp_path: Path) -> None:
    mixed = {**dict.fromkeys(QUESTIONS[::2], "QDP"), **dict.fromkeys(QUESTIONS[1::2], "R,AG")}

    def script(role: str, user: str) -> str:
        if role == "planner":
            plans = [plan for question, plan in mixed.items() if question in user]
            return f"<workflow>{plans[0] if plans else 'QR,R,AG'}</workflow>"
        return SCRIPT(role, user)

    runs = []
    for name in ("first", "second", "third"):
        made = jade(tmp_path / name, script=script)
        trajectories = collect(made.graph, QUESTIONS, in_flight=4, record="train", seed=5)
        runs.append((ledger_lines(tmp_path / name), keys(made), [essence(item) for item in trajectories]))
    assert runs[0] == runs[1] == runs[2]
    assert len(runs[0][0]) == 2 * len(QUESTIONS) and {len(batch) for batch in runs[0][1]} > {1, 4}


def test_every_batch_holds_every_run_in_flight(tmp_path: Path) -> None:
    made = jade(tmp_path)
    collect(made.graph, QUESTIONS, in_flight=3, workflow="R,AG")
    assert [len(batch) for batch in made.policy.batches] == [3, 3, 1]
    made = jade(tmp_path)
    collect(made.graph, QUESTIONS, workflow="QDP/R,AG")
    assert [len(batch) for batch in made.policy.batches] == [7, 14, 7]  # decompose, both hops of all, summarise
    for batch in made.policy.batches:
        places = [(len(request.prompt.ids), tuple(map(str, request.key))) for request in batch]
        assert places == sorted(places)


def test_results_come_in_order_with_ids_and_seeds(tmp_path: Path) -> None:
    made = jade(tmp_path)
    done: list[str] = []
    asked = [{"question": "A?", "id": "a"}, "B?", {"question": "A?", "id": "a"}]
    trajectories = collect(
        made.graph, asked, runs=2, seed=10, workflow="AG", on_done=lambda item: done.append(item.run)
    )
    assert [(item.question, item.question_id, item.seed) for item in trajectories] == [
        ("A?", "a", 10),
        ("A?", "a", 11),
        ("B?", None, 10),
        ("B?", None, 11),
        ("A?", "a", 10),
        ("A?", "a", 11),
    ]
    assert len({item.run for item in trajectories}) == 6 and sorted(done) == sorted(item.run for item in trajectories)
    again = collect(jade(tmp_path / "again").graph, asked, runs=2, seed=10, workflow="AG")
    assert [item.run for item in again] == [item.run for item in trajectories]


def test_ids_are_text_and_unreadable_questions_are_refused(tmp_path: Path) -> None:
    (run,) = collect(jade(tmp_path).graph, [{"question": "A?", "id": 7}], workflow="AG")
    assert run.question_id == "7"
    with pytest.raises(ConfigError, match="question"):
        collect(jade(tmp_path).graph, ["half a character: \ud800"], workflow="AG")


def test_policy_ledger_defaults_and_timing(tmp_path: Path) -> None:
    class Slow(ScriptedPolicy):
        def sample(self, requests: Sequence[Request]) -> list[Completion]:
            time.sleep(0.05)
            return super().sample(requests)

    made, other, timing = jade(tmp_path / "own"), Slow(SCRIPT), Timing()
    graph = made.graph.with_recorder(defaults=made.graph.recorder.defaults.model_copy(update={"workflow": "R,AG"}))
    collect(graph, QUESTIONS, policy=other, ledger=LedgerWriter(tmp_path / "other", "segment"), timing=timing)
    assert made.policy.asked == [] and set(other.roles) == {"answer_generator"}
    assert len(list(read_ledger(tmp_path / "other" / "segment.jsonl"))) == 7 and not (tmp_path / "own").exists()
    assert 0.05 <= timing.model < timing.total and timing.graph == timing.total - timing.model - timing.retrieval
    assert made.trajectories == []  # its own listener is not the collection's


# ---- failures


class Moody(ListRetriever):
    def search(self, queries: Sequence[str], k: int) -> Any:
        if any("number 3" in query for query in queries):
            raise RetrieverError("no such shard")
        return super().search(queries, k)


def test_one_failure_is_a_record_and_harms_only_its_batch_of_queries(tmp_path: Path) -> None:
    made = jade(tmp_path, retriever=Moody(PASSAGES))
    trajectories = collect(made.graph, QUESTIONS, in_flight=1, workflow="R,AG")
    assert [item.outcome for item in trajectories] == ["ok"] * 3 + ["retriever-error"] + ["ok"] * 3
    assert trajectories[3].error == "RetrieverError: no such shard"
    assert [item.outcome for item in read_ledger(tmp_path)] == [item.outcome for item in trajectories]


def test_when_everything_fails_the_first_error_is_raised_and_all_is_recorded(tmp_path: Path) -> None:
    def script(role: str, user: str) -> str:
        raise OSError("the model is gone")

    with pytest.raises(OSError, match="the model is gone"):
        collect(jade(tmp_path, script=script).graph, QUESTIONS)
    assert [item.outcome for item in read_ledger(tmp_path)] == ["crashed"] * 7


@pytest.mark.parametrize(
    ("questions", "options", "message"),
    [
        ([], {}, "no questions"),
        ([*QUESTIONS, " "], {}, "not blank"),
        ([*QUESTIONS, "x" * 5000], {}, "5,000 characters"),
        (QUESTIONS, {"wokflow": "R,AG"}, "unknown option 'wokflow'"),
        (QUESTIONS, {"temperature": -1}, "temperature=-1"),
        (QUESTIONS, {"workflow": "R"}, "R,AG"),
    ],
)
def test_a_mistake_is_refused_before_the_model_is_asked(
    questions: Any, options: Any, message: str, tmp_path: Path
) -> None:
    made = jade(tmp_path)
    with pytest.raises(ConfigError, match=message):
        collect(made.graph, questions, **options)
    assert made.policy.asked == []


def test_a_breakpoint_is_a_record_too(tmp_path: Path) -> None:
    made = jade(tmp_path)
    made.graph.interrupt_before_nodes = ["close"]
    (trajectory,) = collect(made.graph, ["A?"], workflow="AG")
    assert trajectory.outcome == "crashed" and "breakpoint" in str(trajectory.error)


def test_an_interrupt_ends_the_collection_and_closes_its_runs(tmp_path: Path) -> None:
    calls = iter(range(100))

    def script(role: str, user: str) -> str:
        if next(calls) == 4:
            raise KeyboardInterrupt
        return SCRIPT(role, user)

    with pytest.raises(KeyboardInterrupt):
        collect(jade(tmp_path, script=script).graph, QUESTIONS, in_flight=2, workflow="R,AG")
    assert {item.outcome for item in read_ledger(tmp_path)} <= {"ok", "crashed"}


# ---- where it runs


def test_inside_a_running_event_loop(tmp_path: Path) -> None:
    async def notebook() -> list[Any]:
        return collect(jade(tmp_path).graph, QUESTIONS, workflow="R,AG")

    assert len(asyncio.run(notebook())) == 7

    async def mistaken() -> None:
        collect(jade(tmp_path).graph, [""])

    with pytest.raises(ConfigError, match="not blank"):
        asyncio.run(mistaken())


class State(TypedDict):
    text: str
    said: Annotated[list[str], operator.add]


def sync_only(_: Any) -> Any:
    """begin → forty branches at once → end, without any async face."""

    def node(state: State, config: RunnableConfig) -> dict[str, Any]:
        time.sleep(0.0005 * (len(state["text"]) % 5))
        return {"said": [act(SPEAKER, state, config)]}

    graph = StateGraph(State)
    for name in ("begin", "branch", "end"):
        graph.add_node(name, node)
    graph.add_edge(START, "begin")
    sends = [{"text": "x" * place, "said": []} for place in range(40)]
    graph.add_conditional_edges("begin", lambda state: [Send("branch", item) for item in sends], ["branch"])
    graph.add_edge("branch", "end")
    return graph.compile()


def test_sync_only_nodes_neither_deadlock_nor_miss_their_batch(tmp_path: Path) -> None:
    sizes = []
    for name in ("first", "second"):
        made = record(sync_only, lambda role, user: user, tmp_path / name, input="text", output="said")
        trajectories = collect(made.graph, ["a", "b", "c", "d"])
        assert [len(item.calls) for item in trajectories] == [42] * 4
        sizes.append([len(batch) for batch in made.policy.batches])
    assert sizes == [[4, 160, 4]] * 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("jade-node")]


def test_a_collected_run_is_the_run_that_invoke_makes(tmp_path: Path) -> None:
    made = jade(
        tmp_path, script=says(planner="QR,R,DS,AG", query_rewriter="K2", document_selector="", answer_generator="A")
    )
    made.graph.invoke(QUESTIONS[0], seed=2)
    (collected,) = collect(made.graph, QUESTIONS[:1], seed=2)
    assert essence(collected) == essence(made.trajectories[0])
