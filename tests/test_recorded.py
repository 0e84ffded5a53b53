"""A recorded graph: what may be given to it, what it streams, and what it refuses."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.graph import END, START, StateGraph

from agents.errors import ConfigError, JadeError, RetrieverError
from agents.role import quote
from graphs import Options, trainable
from graphs.jade import build_jade
from graphs.ledger import LedgerWriter, read_ledger
from graphs.recorded import MAX_QUESTION_CHARACTERS, RecordedGraph
from tests.mayor import ANSWER, QUESTION, SCRIPT
from tests.scripted import PASSAGES, ListRetriever, Recording, ScriptedPolicy, record, says


@pytest.fixture
def made(tmp_path: Path) -> Recording:
    return record(build_jade, SCRIPT, tmp_path / "ledger")


async def gathered(stream: Any) -> list[Any]:
    return [chunk async for chunk in stream]


# ---- every door


@pytest.mark.parametrize("question", [QUESTION, {"question": QUESTION}, {"question": f"  {QUESTION}\n"}])
def test_every_door_takes_a_text_or_a_mapping(made: Recording, question: Any) -> None:
    graph = made.graph
    results = [
        graph.invoke(question),
        asyncio.run(graph.ainvoke(question)),
        *graph.batch([question, question]),
        *asyncio.run(graph.abatch([question, question])),
        list(graph.stream(question, stream_mode="values"))[-1],
        asyncio.run(gathered(graph.astream(question, stream_mode="values")))[-1],
    ]
    assert len(results) == len(made.trajectories) == 8
    for result in results:
        assert result["answer"] == ANSWER and result["question"] == QUESTION
    assert {result["run"] for result in results} == {trajectory.run for trajectory in made.trajectories}
    assert {trajectory.question for trajectory in made.trajectories} == {QUESTION}


def test_options_are_keyword_arguments_of_every_door(made: Recording) -> None:
    graph = made.graph
    results = [
        graph.invoke(QUESTION, workflow="AG"),
        asyncio.run(graph.ainvoke(QUESTION, workflow="AG")),
        *graph.batch([QUESTION], workflow="AG"),
        *asyncio.run(graph.abatch([QUESTION], workflow="AG")),
        list(graph.stream(QUESTION, workflow="AG", stream_mode="values"))[-1],
        graph.invoke(QUESTION, context={"workflow": "AG"}),
        graph.invoke(QUESTION, context=Options(workflow="AG")),
        graph.invoke(QUESTION, context={"workflow": "R,AG"}, workflow="AG"),  # the nearer one wins
    ]
    assert [result["workflow"]["plan"] for result in results] == ["AG"] * 8
    assert {trajectory.options["workflow"] for trajectory in made.trajectories} == {"AG"}


def test_defaults_of_the_graph_yield_to_the_call(made: Recording) -> None:
    graph = made.graph.with_recorder(defaults=Options(workflow="AG", seed=7))
    assert graph.invoke(QUESTION)["workflow"]["plan"] == "AG"
    assert graph.invoke(QUESTION, workflow="R,AG")["workflow"]["plan"] == "R,AG"
    assert [trajectory.seed for trajectory in made.trajectories] == [7, 7]


def test_batches_are_merged_by_the_batcher(made: Recording) -> None:
    results = made.graph.batch([f"{QUESTION} {place}" for place in range(6)], workflow="R,AG")
    assert len(results) == 6 and max(len(batch) for batch in made.policy.batches) > 1


# ---- streaming


def tokens(chunks: list[Any]) -> str:
    return "".join(payload["token"] for mode, payload in chunks if mode == "custom")


@pytest.mark.parametrize("workflow", ["R,AG", "QDS/AG"])
def test_updates_and_tokens_come_from_both_streams(made: Recording, workflow: str) -> None:
    options: Any = {"stream_mode": ["custom", "updates"], "workflow": workflow}
    sync = list(made.graph.stream(QUESTION, **options))
    later = asyncio.run(gathered(made.graph.astream(QUESTION, **options)))
    for chunks in (sync, later):
        assert tokens(chunks) == made.trajectories[-1].answer == chunks[-1][1]["close"]["answer"]
        nodes = [next(iter(payload)) for mode, payload in chunks if mode == "updates"]
        assert nodes == ["open", "single_round" if workflow == "R,AG" else "serial", "close"]
    assert [chunk for chunk in sync if chunk[0] == "custom"] == [chunk for chunk in later if chunk[0] == "custom"]


def test_every_form_of_chunk(made: Recording) -> None:
    def custom(**options: Any) -> list[Any]:
        return list(made.graph.stream(QUESTION, workflow="R,AG", **options))

    plain = custom(stream_mode="custom")
    assert plain[0] == {"token": "Bern"} and len(plain) == 7
    tagged = custom(stream_mode=["custom"], version="v2")
    assert [(chunk["type"], chunk["ns"], chunk["data"]) for chunk in tagged] == [("custom", (), item) for item in plain]
    deep = custom(stream_mode=["custom", "updates"], subgraphs=True)
    assert {len(chunk) for chunk in deep} == {3} and any(chunk[0] and chunk[1] == "updates" for chunk in deep)
    assert tokens([chunk[1:] for chunk in deep]) == ANSWER


def test_a_stream_that_nobody_reads_to_its_end_is_recorded_as_crashed(made: Recording) -> None:
    stream = made.graph.stream(QUESTION, stream_mode="updates")
    next(stream)
    next(stream)
    stream.close()  # type: ignore[attr-defined]

    async def leave() -> None:
        later = made.graph.astream(QUESTION, stream_mode="updates")
        async for _ in later:
            break
        await later.aclose()  # type: ignore[attr-defined]

    asyncio.run(leave())
    assert [trajectory.outcome for trajectory in made.trajectories] == ["crashed", "crashed"]
    assert made.trajectories[0].error == "GeneratorExit: " and made.trajectories[0].answer == ""
    assert made.graph.invoke(QUESTION)["answer"]  # and the batcher waits for neither


# ---- bad input


@pytest.mark.parametrize(
    ("question", "options", "message"),
    [
        (QUESTION, {"max_turn": 3}, "unknown option 'max_turn'; allowed: max_turns, "),
        (QUESTION, {"context": {"maxturns": 3}}, "unknown option 'maxturns'; allowed: max_turns, "),
        (QUESTION, {"max_turns": 0}, "max_turns=0: .*greater than or equal to 1.*Most turns"),
        (QUESTION, {"temperature": "hot"}, "temperature='hot'"),
        (QUESTION, {"record": "maybe"}, "record='maybe': .*'off', 'on' or 'train'"),
        (QUESTION, {"record": "train", "temperature": 0}, "greedy runs cannot be trained on; drop one"),
        (QUESTION, {"workflow": "AG,R"}, "AG,R.*R,AG"),
        (QUESTION, {"workflow": "QDS/QDS/QDS"}, "QDS"),
        (QUESTION, {"workflow": "R,AG", "max_retrievals": 0}, "max_retrievals=0"),
        ("", {}, "the question is ''; give a text that is not blank"),
        (" \n\t", {}, "give a text that is not blank"),
        ({"question": None}, {}, "the question is None; give a text"),
        ({"query": QUESTION}, {}, "the input is a mapping without 'question'; give a question as str or {'question'"),
        (7, {}, "the input is int; give a question as str"),
        ({"question": QUESTION, "max_turns": 2}, {}, r"options \['max_turns'\] stand in the input .*as arguments"),
        (None, {}, "no input was given.*but no thread: give a question"),
        (7, {}, "the input is int; give a question"),
        ("x" * 100_000, {}, r"100,000 characters, 4,000 are allowed: ask it shorter.*jade index"),
    ],
)
def test_bad_input_is_told_apart_by_its_message(made: Recording, question: Any, options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made.graph.invoke(question, **options)
    with pytest.raises(ConfigError, match=message):
        asyncio.run(made.graph.ainvoke(question, **options))
    assert made.policy.asked == []


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=MAX_QUESTION_CHARACTERS + 5))
def test_no_question_crashes_the_graph(question: str) -> None:
    policy = ScriptedPolicy(SCRIPT)
    graph = trainable(build_jade(ListRetriever(PASSAGES)), policy=policy, ledger=LedgerWriter(Path("unused")))
    try:
        assert graph.invoke(question, record="off")["question"] == question.strip()
    except JadeError:
        assert not quote(question) or len(question) > MAX_QUESTION_CHARACTERS


def test_only_compiled_graphs_can_be_recorded() -> None:
    class State(TypedDict):
        question: str

    builder = StateGraph(State)
    builder.add_node("node", lambda state: state)
    builder.add_edge(START, "node")
    with pytest.raises(ConfigError, match=r"StateGraph; call \.compile\(\) on it first"):
        trainable(builder)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="function; give a compiled LangGraph state graph"):
        trainable(lambda state: state)  # type: ignore[arg-type]


# ---- records


def lines(folder: Path) -> Iterator[str]:
    for file in sorted(folder.glob("*.jsonl")):
        yield from file.read_text().splitlines()


def test_record_off_on_and_train(made: Recording, tmp_path: Path) -> None:
    folder = tmp_path / "ledger"
    result, _ = made.ask(QUESTION, record="off")
    assert result["run"] is None and not folder.exists()
    result, greedy = made.ask(QUESTION)
    assert [line[10:15].strip('",') for line in lines(folder)] == ["open", "close"]
    _, sampled = made.ask(QUESTION, record="train", question_id="q7")
    assert [item.run for item in read_ledger(folder)] == [result["run"], sampled.run]
    assert [item.trainable for item in read_ledger(folder)] == [False, True] == [greedy.trainable, sampled.trainable]
    stored = list(read_ledger(folder))[1]
    assert stored.question_id == "q7" and {call.temperature for call in stored.calls} == {1.0}
    assert stored.hashes == {"text": "toy", "policy": "script", "environment": made.retriever.identity["environment"]}
    assert stored.identity["retriever"] == {"collection": "list"} and stored.identity["base"] == "scripted"
    assert (stored.answer, stored.evidence, stored.turns) == (sampled.answer, sampled.evidence, 1)


def test_a_full_disk_costs_the_record_not_the_answer(made: Recording, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    graph = made.graph.with_recorder(ledger=LedgerWriter(tmp_path / "file" / "ledger"))
    for result in (graph.invoke(QUESTION), asyncio.run(graph.ainvoke(QUESTION))):
        assert result["answer"] == ANSWER
        assert result["run"] is None  # no id that `jade show` would not find
        assert len(result["warnings"]) == 1
        assert re.search(r"the run was not recorded in .*; make room, or choose another", result["warnings"][0])


def test_a_disk_that_fills_up_during_the_run_is_told_as_well(made: Recording, tmp_path: Path) -> None:
    class FillsUp(LedgerWriter):
        def close(self, trajectory: Any) -> str:
            return "the run was not recorded: No space left"

    result = made.graph.with_recorder(ledger=FillsUp(tmp_path / "other")).invoke(QUESTION)
    assert result["answer"] and result["warnings"] == ["the run was not recorded: No space left"]


def test_a_crash_is_recorded_and_raised(tmp_path: Path) -> None:
    class Broken(ListRetriever):
        def search(self, queries: Any, k: int) -> Any:
            raise self.error

        error: Exception = OSError("cable cut")

    retriever = Broken(PASSAGES)
    made = record(build_jade, SCRIPT, tmp_path, retriever=retriever)
    for error, outcome in (
        (OSError("cable cut"), "crashed"),
        (RetrieverError("x"), "retriever-error"),
        (TimeoutError(), "timeout"),
    ):
        retriever.error = error
        with pytest.raises(type(error)):
            made.ask(QUESTION)
        with pytest.raises(type(error)):
            asyncio.run(made.graph.ainvoke(QUESTION))
        for stored in list(read_ledger(tmp_path))[-2:]:
            assert stored.outcome == outcome and stored.error == f"{type(error).__name__}: {error}"
            assert [call.role for call in stored.calls] == ["planner"] and stored.answer == ""


def test_outcomes_speak_of_the_final_call(tmp_path: Path) -> None:
    answers = iter(["no tag at <all", "<answer>" + "long " * 99, "<answer>good</answer>"])
    made = record(build_jade, says(planner="<nonsense>", answer_generator=lambda user: next(answers)), tmp_path)
    outcomes = [made.ask(QUESTION, max_depth=0)[1].outcome for _ in range(3)]
    assert outcomes == ["invalid", "truncated", "ok"]


def test_copies_stay_recorded(made: Recording) -> None:
    copy = made.graph.with_config({"tags": ["mine"]})
    assert isinstance(copy, RecordedGraph) and copy.recorder is made.graph.recorder
    assert copy.invoke(QUESTION)["run"] == made.trajectories[-1].run
    with pytest.raises(ConfigError, match="unknown option"):
        copy.invoke(QUESTION, nonsense=1)
    assert END in made.graph.get_graph().nodes
