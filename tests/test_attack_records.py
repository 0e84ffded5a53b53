"""What an attacker tried on records and threads, each found broken once: who spoke, what was said, what is resumed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph

from agents.errors import ConfigError
from agents.role import Prompts
from agents.roster import ROLES, role_digest
from agents.tagged import tagged
from graphs import collect, trainable
from graphs.jade import build_jade
from graphs.ledger import LedgerWriter, read_ledger
from graphs.recorded import RecordedGraph
from graphs.state import union
from tests.mayor import ANSWER, QUESTION, SCRIPT
from tests.one_node import WRITER, State, one_node, write
from tests.scripted import Recording, ScriptedPolicy, record

THREAD: RunnableConfig = {"configurable": {"thread_id": "t"}}


@pytest.fixture
def made(tmp_path: Path) -> Recording:
    return record(build_jade, SCRIPT, tmp_path / "ledger")


@pytest.mark.parametrize("keys", ["answer", ["citations"]])
def test_output_keys_cannot_empty_the_record(made: Recording, keys: Any) -> None:
    with pytest.raises(ConfigError, match=r"output_keys.*record='off'"):
        made.graph.invoke(QUESTION, output_keys=keys)
    assert made.trajectories == []
    assert made.graph.invoke(QUESTION, output_keys="answer", record="off") == ANSWER


def test_a_second_question_on_a_thread_starts_anew(tmp_path: Path) -> None:
    saver = InMemorySaver()
    made = record(lambda retriever: build_jade(retriever).copy({"checkpointer": saver}), SCRIPT, tmp_path)
    first = made.graph.invoke(QUESTION, THREAD, workflow="QDS/R,AG")
    second = made.graph.invoke("Is Paris in France?", THREAD, workflow="AG")
    assert first["calls"] == ["root/QDS", "root/0/AG", "root/1/AG", "root/AS"]
    assert second["calls"] == ["root/AG"] == [call.id for call in made.trajectories[1].calls]
    assert union(["a", "b"], ["b", "c"]) == ["a", "b", "c"] and union(["a"], []) == []


def test_a_checkpointer_needs_a_thread_except_for_collections(tmp_path: Path) -> None:
    saver = InMemorySaver()
    made = record(lambda retriever: build_jade(retriever).copy({"checkpointer": saver}), SCRIPT, tmp_path)
    with pytest.raises(ConfigError, match=r"has a checkpointer.*thread_id"):
        made.graph.invoke(QUESTION)
    assert [run.outcome for run in collect(made.graph, [QUESTION])] == ["ok"] and made.trajectories == []
    named = made.graph.with_config(THREAD)
    assert isinstance(named, RecordedGraph) and named.invoke(QUESTION)["answer"] == ANSWER


@pytest.mark.parametrize("saver", [None, InMemorySaver()])
def test_nothing_to_resume_is_a_message(saver: Any, tmp_path: Path) -> None:
    made = record(lambda retriever: build_jade(retriever).copy({"checkpointer": saver}), SCRIPT, tmp_path)
    with pytest.raises(ConfigError, match=r"resume.*give a question"):
        made.graph.invoke(None, THREAD)
    with pytest.raises(ConfigError, match=r"resume.*give a question"):
        asyncio.run(made.graph.ainvoke(None, THREAD))


def test_a_thread_without_a_checkpointer_writes_no_pauses(made: Recording, tmp_path: Path) -> None:
    made.ask(QUESTION)
    made.graph.invoke(QUESTION, THREAD)
    (file,) = (tmp_path / "ledger").glob("*.jsonl")
    assert [line.split('"')[3] for line in file.read_text().splitlines()] == ["open", "close"] * 2


def test_the_record_says_what_roles_of_ones_own_stood_for(made: Recording, tmp_path: Path) -> None:
    one_node(write, tmp_path / "own").invoke("q")
    (run,) = read_ledger(tmp_path / "own")
    assert run.identity["roles"] == {"writer": role_digest(WRITER, Prompts())}
    made.ask(QUESTION)
    assert "roles" not in made.trajectories[0].identity  # the text hash covers JADE's own


def test_a_roles_digest_moves_with_all_that_it_is_told_and_may_answer() -> None:
    plain: dict[str, Any] = {"name": "writer", "instruction": "Answer.", "sees": ["question"], "tag": "answer"}
    changes: list[dict[str, Any]] = [
        {}, {"name": "poet"}, {"instruction": "Reply."}, {"sees": ["question", "answer"]}, {"tag": "reply"},
        {"choices": ["yes", "no"]}, {"max_words": 3}, {"max_new_tokens": 5}, {"examples": "Question: a\nb"},
    ]  # fmt: skip
    digests = {role_digest(tagged(**{**plain, **change}), Prompts()) for change in changes}
    assert len(digests) == len(changes)
    assert role_digest(tagged(**plain), Prompts()) in digests
    replaced = Prompts("bare", (("writer", "Write."),))
    assert role_digest(tagged(**plain), replaced) not in digests
    assert len({role_digest(role, Prompts()) for role in ROLES.values()}) == len(ROLES)  # documents or not


def test_a_resumed_run_keeps_the_digests_of_what_spoke_before(tmp_path: Path) -> None:
    saver = InMemorySaver()
    builder: Any = StateGraph(State)
    builder.add_node("write", write)
    builder.add_node("after", lambda state: {"answer": state["answer"] + "!"})
    builder.add_edge(START, "write")
    builder.add_edge("write", "after")
    compiled = builder.compile(checkpointer=saver)

    def fresh() -> RecordedGraph:
        policy = ScriptedPolicy(lambda role, user: "<answer>x</answer>")
        return trainable(compiled, policy=policy, ledger=LedgerWriter(tmp_path))

    fresh().invoke("q", THREAD, interrupt_before=["after"])
    assert fresh().invoke(None, THREAD)["answer"] == "x!"
    (run,) = read_ledger(tmp_path)
    assert run.identity["roles"] == {"writer": role_digest(WRITER, Prompts())} and len(run.calls) == 1
