"""Graphs that are not ours: fan-outs within fan-outs, loops, subgraphs, sync and async; recorded all the same."""

from __future__ import annotations

import asyncio
import operator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from agents.errors import ConfigError
from agents.role import Role, quote
from graphs import aact, act, collect, trainable
from graphs.ledger import read_ledger
from graphs.trajectory import Trajectory
from tests.scripted import Recording, ScriptedPolicy, record

SPEAKER: Role[str] = Role(
    name="speaker",
    instruction="Say it again.",
    user=lambda inputs: quote(inputs["text"]),
    parse=lambda text, inputs: text,
    fallback=lambda inputs, text: "",
    max_new_tokens=99,
)


class Said(TypedDict):
    said: Annotated[list[str], operator.add]


class State(Said):
    text: str


def speaker(name: str, *, prefix: str = "") -> Any:
    """Return a node with both faces that says its name and its text."""

    def said(state: State, value: str) -> dict[str, Any]:
        return {"said": [value]}

    def now(state: State, config: RunnableConfig) -> dict[str, Any]:
        return said(state, act(SPEAKER, {"text": f"{prefix}{name} {state['text']}"}, config))

    async def later(state: State, config: RunnableConfig) -> dict[str, Any]:
        if state["text"].startswith("slow"):
            await asyncio.sleep(0.001 * (hash(state["text"]) % 7))  # ends in any order
        return said(state, await aact(SPEAKER, {"text": f"{prefix}{name} {state['text']}"}, config))

    return RunnableLambda(now, later, name=name)


def fan(node: str, width: int) -> Any:
    return lambda state: [Send(node, {"text": f"{state['text']}{place}", "said": []}) for place in range(width)]


def inner_graph() -> Any:
    """first → two leaves at once → last."""
    graph = StateGraph(State, output_schema=Said)
    for name in ("first", "leaf", "last"):
        graph.add_node(name, speaker(name))
    graph.add_edge(START, "first")
    graph.add_conditional_edges("first", fan("leaf", 2), ["leaf"])
    graph.add_edge("leaf", "last")
    return graph.compile()


def two_levels(_: Any = None) -> Any:
    """Begin → three inner graphs at once → end."""
    graph = StateGraph(State)
    graph.add_node("begin", speaker("begin"))
    graph.add_node("inner", inner_graph())
    graph.add_node("end", speaker("end"))
    graph.add_edge(START, "begin")
    graph.add_conditional_edges("begin", fan("inner", 3), ["inner"])
    graph.add_edge("inner", "end")
    graph.add_edge("end", END)
    return graph.compile()


def made_from(build: Any, folder: Path, **extra: Any) -> Recording:
    return record(build, lambda role, user: user, folder, input="text", output="said", **extra)


def shape(trajectory: Trajectory) -> list[Any]:
    return [(call.id, call.parents, call.text) for call in trajectory.calls]


def inner_calls(send: int) -> dict[str, tuple[str, ...]]:
    at = f"inner[{send}]"
    leaves = (f"{at}/leaf[0]", f"{at}/leaf[1]")
    return {f"{at}/first": ("begin",), leaves[0]: (f"{at}/first",), leaves[1]: (f"{at}/first",), f"{at}/last": leaves}


def test_two_levels_of_sends_make_the_same_dag_in_every_way_of_running(tmp_path: Path) -> None:
    made = made_from(two_levels, tmp_path)
    made.graph.invoke("slow")
    first = made.trajectories[0]
    assert {call.id: call.parents for call in first.calls} == {
        "begin": (),
        **inner_calls(0),
        **inner_calls(1),
        **inner_calls(2),
        "end": ("inner[0]/last", "inner[1]/last", "inner[2]/last"),
    }
    assert first.outcome == "ok" and first.question == "slow"
    for _ in range(3):
        asyncio.run(made.graph.ainvoke("slow"))
        made.graph.invoke({"text": "slow", "said": []})
    asyncio.run(made.graph.abatch(["slow", "slow"]))
    collect(made.graph, ["slow"])
    assert len(made.trajectories) == 9
    assert {str(shape(trajectory)) for trajectory in made.trajectories} == {str(shape(first))}
    assert [shape(trajectory) for trajectory in read_ledger(tmp_path)] == [shape(first)] * 10


def test_parallel_branches_share_batches(tmp_path: Path) -> None:
    made = made_from(two_levels, tmp_path)
    collect(made.graph, ["x"])
    assert [len(batch) for batch in made.policy.batches] == [1, 3, 6, 3, 1]


def test_a_loop_with_a_branch(tmp_path: Path) -> None:
    def build(_: Any) -> Any:
        graph = StateGraph(State)
        graph.add_node("draft", speaker("draft"))
        graph.add_node("check", speaker("check"))
        graph.add_edge(START, "draft")
        graph.add_edge("draft", "check")
        graph.add_conditional_edges("check", lambda state: END if len(state["said"]) > 4 else "draft")
        return graph.compile()

    made = made_from(build, tmp_path)
    made.graph.invoke("x")
    ids = ["draft", "check", "draft#1", "check#1", "draft#2", "check#2"]
    assert [call.id for call in made.trajectories[0].calls] == ids
    assert [call.parents for call in made.trajectories[0].calls] == [(), *((name,) for name in ids[:-1])]
    keys = [request.key for batch in made.policy.batches for request in batch]
    assert len(set(keys)) == 6  # so that every call draws its own random numbers


def test_a_node_that_speaks_and_runs_subgraphs_in_between(tmp_path: Path) -> None:
    inner = inner_graph()

    def node(state: State, config: RunnableConfig) -> dict[str, Any]:
        before = act(SPEAKER, {"text": "before"}, config)
        inner.invoke({"text": "one", "said": []}, config)
        between = act(SPEAKER, {"text": "between"}, config)
        inner.invoke({"text": "two", "said": []})  # LangGraph knows the node's config by itself
        return {"said": [before, between]}

    def build(_: Any) -> Any:
        graph = StateGraph(State)
        graph.add_node("node", node)
        graph.add_edge(START, "node")
        return graph.compile()

    made = made_from(build, tmp_path)
    assert made.graph.invoke("x")["said"] == ["before", "between"]
    calls = {call.text: call for call in made.trajectories[0].calls}
    parents = {text: [other for other in calls if calls[other].id in call.parents] for text, call in calls.items()}
    assert parents == {
        "before": [],
        "first one": ["before"],
        "leaf one0": ["first one"],
        "leaf one1": ["first one"],
        "last one": ["leaf one0", "leaf one1"],
        "between": ["last one"],
        "first two": ["between"],
        "leaf two0": ["first two"],
        "leaf two1": ["first two"],
        "last two": ["leaf two0", "leaf two1"],
    }


@pytest.mark.parametrize("hand_on", [True, False])
def test_a_recorded_graph_inside_a_recorded_graph_is_part_of_its_run(hand_on: bool, tmp_path: Path) -> None:
    unasked = ScriptedPolicy(lambda role, user: "never")
    inner = trainable(inner_graph(), "said", input="text", policy=unasked)

    def node(state: State, config: RunnableConfig) -> dict[str, Any]:
        result = inner.invoke("inside", config) if hand_on else inner.invoke("inside")
        with pytest.raises(ConfigError, match=r"\['seed'\].*outer graph"):
            inner.invoke("inside", config, seed=3)
        return {"said": result["said"]}

    def build(_: Any) -> Any:
        graph = StateGraph(State)
        graph.add_node("called", node)
        graph.add_node("inner", inner)
        graph.add_edge(START, "called")
        graph.add_edge("called", "inner")
        return graph.compile()

    made = made_from(build, tmp_path)
    made.graph.invoke("x")
    asyncio.run(made.graph.ainvoke("x"))
    assert unasked.asked == [] and len(made.trajectories) == 2
    for trajectory in made.trajectories:
        calls = [f"{name}/{leaf}" for name in ("called", "inner") for leaf in ("first", "leaf[0]", "leaf[1]", "last")]
        assert [call.id for call in trajectory.calls] == calls
        assert trajectory.calls[4].parents == ("called/last",)


def test_a_graph_without_a_question_is_recorded_under_its_whole_input(tmp_path: Path) -> None:
    made = record(two_levels, lambda role, user: user, tmp_path, output="said")
    made.graph.invoke({"text": "x", "said": []})
    assert made.trajectories[0].question == '{"text": "x", "said": []}'


def test_a_graph_may_have_a_context_of_its_own(tmp_path: Path) -> None:
    class Context(TypedDict):
        suffix: str

    def build(_: Any) -> Any:
        graph = StateGraph(State, context_schema=Context)
        graph.add_node("node", lambda state, runtime: {"said": [runtime.context["suffix"]]})
        graph.add_edge(START, "node")
        return graph.compile()

    made = made_from(build, tmp_path)
    assert made.graph.invoke("x", context={"suffix": "mine"}, seed=4)["said"] == ["mine"]
    assert made.trajectories[0].seed == 4 and made.trajectories[0].calls == ()
