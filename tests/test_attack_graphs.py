"""What an attacker tried on the graphs, each found broken once: questions, options, async nodes, many at once."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig

from agents.batcher import TimedBatcher
from agents.embedder import HashEmbedder
from agents.errors import ConfigError
from agents.index import build_index
from agents.lazy import LazyPolicy
from agents.passage import Passage
from agents.retriever import open_retriever
from graphs import collect, trainable
from graphs.jade import build_jade
from graphs.ledger import LedgerWriter, read_ledger
from graphs.recorded import RecordedGraph
from tests.mayor import ANSWER, QUESTION, SCRIPT
from tests.one_node import State, one_node, write
from tests.scripted import PASSAGES, Recording, ScriptedPolicy, record, says
from tests.toy_model import toy_model


@pytest.fixture
def made(tmp_path: Path) -> Recording:
    return record(build_jade, SCRIPT, tmp_path / "ledger")


@pytest.mark.parametrize(
    ("question", "says"),
    [
        ("Wer ist M\udcfcller?", "bytes that are not UTF-8"),
        ("\u200b\u2060\ufeff", "not blank"),
        ("\x00\x01", "not blank"),
    ],
)
def test_text_that_no_tokenizer_takes_or_nobody_sees_is_refused(made: Recording, question: str, says: str) -> None:
    for attempt in (lambda: made.graph.invoke(question), lambda: asyncio.run(made.graph.ainvoke(question))):
        with pytest.raises(ConfigError, match=says):
            attempt()
    assert made.policy.asked == [] and made.trajectories == []


def test_half_characters_from_elsewhere_do_not_reach_the_tokenizer(tmp_path: Path) -> None:
    graph = one_node(write, tmp_path, input="id", policy=toy_model())  # so "question" is any field, and unchecked
    graph.invoke({"question": "M\udcfcller"})
    (run,) = read_ledger(tmp_path)
    assert run.calls and run.outcome in ("ok", "truncated", "invalid")


def test_an_impossible_plan_is_refused_before_a_run_begins(made: Recording) -> None:
    for options in (
        {"workflow": "DS,AG"},
        {"workflow": "QDS", "max_turns": 2},
        {"workflow": "R,AG", "max_retrievals": 0},
    ):
        with pytest.raises(ConfigError, match="workflow="):
            made.graph.invoke(QUESTION, **options)
        with pytest.raises(ConfigError, match="workflow="):
            collect(made.graph, [QUESTION], **options)
    assert made.trajectories == []  # not a crashed run in the ledger


def test_an_empty_workflow_is_planned_and_numbers_are_ids(made: Recording) -> None:
    made.ask(QUESTION, workflow="", question_id=7)
    assert made.policy.roles[0] == "planner" and made.trajectories[0].question_id == "7"


def test_an_output_that_the_graph_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no output 'anser' to be scored; it has question, answer"):
        one_node(write, tmp_path, output="anser")


def test_a_run_that_is_given_up_while_the_model_loads_is_closed(made: Recording) -> None:
    loading, go = threading.Event(), threading.Event()

    def load() -> ScriptedPolicy:
        loading.set()
        assert go.wait(10)
        return made.policy

    batcher = TimedBatcher(LazyPolicy(load))
    graph = made.graph.with_recorder(batcher=batcher)

    async def leave() -> None:
        task = asyncio.create_task(graph.ainvoke(QUESTION))
        await asyncio.to_thread(loading.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go.set()

    asyncio.run(leave())
    deadline = time.monotonic() + 5
    while not made.trajectories and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [run.outcome for run in made.trajectories] == ["crashed"] and batcher._runs == {}
    assert graph.invoke(QUESTION)["answer"] == ANSWER


def test_act_in_an_async_node_is_refused_while_collecting_instead_of_waiting_for_ever(tmp_path: Path) -> None:
    async def node(state: State, config: RunnableConfig) -> State:
        return write(state, config)

    graph = one_node(node, tmp_path)
    with pytest.raises(ConfigError, match=r"act\(\) blocks.*await aact\(\)"):
        collect(graph, ["q"])
    assert asyncio.run(graph.ainvoke("q"))["answer"] == "x"  # served runs have a thread that answers


def test_one_bad_call_fails_alone_in_a_collection(tmp_path: Path) -> None:
    def script(role: str, user: str) -> str:
        if "bad" in user:
            raise ConfigError("a constraint that does not compile")
        return "<answer>x</answer>"

    graph = one_node(write, tmp_path, policy=ScriptedPolicy(script))
    runs = collect(graph, ["good", "bad", "fine", "well"])
    assert [run.outcome for run in runs] == ["ok", "crashed", "ok", "ok"]
    assert runs[1].error == "ConfigError: a constraint that does not compile"


def test_loading_is_not_counted_as_the_graphs_time(made: Recording) -> None:
    def load() -> ScriptedPolicy:
        time.sleep(0.3)
        return made.policy

    made.graph.with_recorder(batcher=TimedBatcher(LazyPolicy(load))).invoke(QUESTION)
    assert made.trajectories[0].seconds["total"] < 0.3


def test_streamed_tokens_are_the_answer_even_where_it_holds_brackets(tmp_path: Path) -> None:
    made = record(build_jade, says(planner="AG", answer_generator="x‹y›"), tmp_path)
    chunks = list(made.graph.stream(QUESTION, stream_mode=["custom", "updates"]))
    assert "".join(item["token"] for mode, item in chunks if mode == "custom") == "x<y>"
    assert chunks[-1][1]["close"]["answer"] == "x<y>"


def test_threads_tasks_batches_and_loops_on_one_graph_give_what_one_after_the_other_gives(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    for name, _, text in PASSAGES:
        (tmp_path / "notes" / f"{name}.txt").write_text(text)
    build_index(tmp_path / "notes", collection="notes", embedder=HashEmbedder(), folder=tmp_path / "index")
    retriever = open_retriever("notes", embedder=HashEmbedder(), folder=tmp_path / "index", mode="hybrid")
    questions = [f"Who is number {number}?" for number in range(6)]

    def fresh() -> RecordedGraph:
        graph = trainable(
            build_jade(retriever), policy=toy_model(), retriever=retriever, ledger=LedgerWriter(tmp_path / "ledger")
        )
        options: Any = {"decoding": "constrained", "max_new_tokens": 12, "temperature": 1.0, "max_depth": 1}
        return graph.with_recorder(defaults=graph.recorder.defaults.model_copy(update=options))

    def essence(result: Any) -> Any:
        return result["question"], result["answer"], str(result["workflow"]), result["calls"]

    alone = fresh()
    expected = {question: essence(alone.invoke(question)) for question in questions}
    graph, found = fresh(), {}

    def sync(part: list[str]) -> None:
        found.update({question: essence(graph.invoke(question)) for question in part})

    def loop(part: list[str]) -> None:
        async def together() -> list[Any]:
            return await asyncio.gather(*(graph.ainvoke(question) for question in part))

        found.update({item["question"]: essence(item) for item in asyncio.run(together())})

    workers = [
        threading.Thread(target=work, args=(questions[start::3],)) for start, work in enumerate((sync, loop, loop))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert found == expected
    assert [essence(item) for item in fresh().batch(questions)] == list(expected.values())


def test_an_index_that_is_updated_before_the_first_search_is_read_and_named_as_it_is_now(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("Mozart was born in Salzburg.")

    def build() -> None:
        build_index(tmp_path / "notes", collection="notes", embedder=HashEmbedder(), folder=tmp_path / "index")

    build()
    opened = open_retriever("notes", embedder=HashEmbedder(), folder=tmp_path / "index")
    before = opened.identity["environment"]
    (tmp_path / "notes" / "b.txt").write_text("K2 is 8611 m tall.")
    build()
    found: list[list[Passage]] = opened.search(["K2"], 2)
    again = open_retriever("notes", embedder=HashEmbedder(), folder=tmp_path / "index")
    assert {passage["id"] for passage in found[0]} == {"a.txt#0", "b.txt#0"}
    assert opened.identity["environment"] == again.identity["environment"] != before
