"""The whole graph: planning, depth 2, budgets, forced plans, fallbacks, and its shape as a declared graph."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langgraph.checkpoint.memory import InMemorySaver

from agents.errors import ConfigError, RetrieverError
from agents.workflow import Topology
from graphs.jade import NODES, build_jade, build_topology
from graphs.nodes import Graph
from tests.scripted import PASSAGES, ListRetriever, Recording, record, says

QUESTION = "Who is older, the mayor of Salzburg or of Linz?"
EVERYTHING: dict[str, Any] = {
    "planner": "R,AG",
    "serial_decomposer": lambda user: two(user, "#1 "),
    "parallel_decomposer": lambda user: two(user, ""),
    "query_rewriter": "words",
    "document_selector": "Document0",
    "answer_generator": "A",
    "answer_summariser": "S",
}


def two(user: str, reference: str) -> str:
    """Return two items made from the question."""
    question = re.search("Question: (.*)", user)
    assert question is not None
    return f"<q1>{question[1]} left</q1><q2>{reference}{question[1]} right</q2>"


def jade(folder: Path, *, build: Any = build_jade, **responses: Any) -> Recording:
    return record(build, says(**{**EVERYTHING, **responses}), folder)


def test_depth_two(tmp_path: Path) -> None:
    """QDP at the root, QDS below, chains below that: one summariser per decomposed node."""

    def plan(user: str) -> str:
        return {"depth 2": "QDP", "depth 1": "QDS", "depth 0": "AG"}[user.split("Left: ")[1]]

    recording = jade(tmp_path, planner=plan)
    result, trajectory = recording.ask(QUESTION)
    paths = {call.path: call.parents for call in trajectory.calls}
    assert paths["root/AS"] == ("root/0/AS", "root/1/AS")
    assert paths["root/1/1/PLAN"] == ("root/1/0/AG",) and paths["root/1/QDS"] == ("root/1/PLAN",)
    assert paths["root/0/PLAN"] == paths["root/1/PLAN"] == ("root/QDP",)
    assert paths["root/0/AS"] == ("root/0/1/AG",)
    assert result["turns"] == 1 + max(1 + 1 + 1, 1 + 1 + 1) == 4
    assert [hop["path"] for hop in result["hops"]] == [
        "root/0",
        "root/0/0",
        "root/0/1",
        "root/1",
        "root/1/0",
        "root/1/1",
    ]
    assert result["hops"][2]["question"].startswith("A ")  # "#1" of the inner node is its own first hop
    tree = result["workflow"]
    assert [child["plan"] for child in tree["children"]] == ["QDS", "QDS"]
    assert [leaf["plan"] for leaf in tree["children"][0]["children"]] == ["AG", "AG"]
    assert len(trajectory.calls) == result["model_calls"] == len(set(result["calls"]))


@pytest.mark.parametrize(("depth", "offered"), [(0, False), (1, True)])
def test_a_call_may_ask_for_less_depth(depth: int, offered: bool, tmp_path: Path) -> None:
    recording = jade(tmp_path, planner=lambda user: "QDS" if "depth 1" in user else "AG")
    result, _ = recording.ask(QUESTION, max_depth=depth)
    assert bool(result["hops"]) is offered
    assert "Left: depth" in recording.policy.seen("planner")[0]


def test_an_invalid_plan_falls_back_to_serial_decomposition(tmp_path: Path) -> None:
    recording = jade(tmp_path, planner=lambda user: "nonsense" if "depth 2" in user else "AG")
    result, trajectory = recording.ask(QUESTION)
    assert result["workflow"]["plan"] == "QDS"
    assert trajectory.calls[0].format_error == "not a plan" and trajectory.calls[0].value == "QDS"


def test_an_invalid_plan_without_depth_falls_back_to_a_chain(tmp_path: Path) -> None:
    result, _ = jade(tmp_path, planner="QDS").ask(QUESTION, max_depth=0)
    assert result["workflow"]["plan"] == "R,AG"
    closed, _ = jade(tmp_path, planner="R,AG").ask(QUESTION, max_depth=0, max_retrievals=0)
    assert closed["workflow"]["plan"] == "AG" and closed["retrievals"] == 0


@pytest.mark.parametrize(
    ("forced", "roles"),
    [
        ("QDS/AG", ["serial_decomposer", "answer_generator", "answer_generator", "answer_summariser"]),
        ("QDS", ["serial_decomposer", *(["planner", "answer_generator"] * 2), "answer_summariser"]),
        (
            "QDS/QDP/AG",
            [
                "serial_decomposer",
                *(["parallel_decomposer", "answer_generator", "answer_generator", "answer_summariser"] * 2),
                "answer_summariser",
            ],
        ),
    ],
)
def test_forced_nodes_make_no_planner_call(forced: str, roles: list[str], tmp_path: Path) -> None:
    recording = jade(tmp_path)
    result, _ = recording.ask(QUESTION, workflow=forced)
    assert recording.policy.roles == roles
    assert result["workflow"]["plan"] == forced.split("/")[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workflow": "DS,AG"}, "'DS,AG' is no plan"),
        ({"workflow": "QDS/AG", "max_depth": 0}, "max_depth"),
        ({"workflow": "QDS/AG", "max_turns": 2}, "max_turns"),
        ({"workflow": "R,AG", "max_retrievals": 0}, "max_retrievals"),
    ],
)
def test_impossible_workflows_are_refused_before_anybody_speaks(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    recording = jade(tmp_path)
    with pytest.raises(ConfigError, match=message):
        recording.ask(QUESTION, **options)
    assert recording.policy.asked == []


def test_a_plan_deeper_than_the_graph_is_refused(tmp_path: Path) -> None:
    shallow = jade(tmp_path, build=lambda retriever: build_jade(retriever, max_depth=1))
    with pytest.raises(ConfigError, match="max_depth of at least 2, but max_depth=1"):
        shallow.ask(QUESTION, workflow="QDS/QDP")


PLANS = st.sampled_from(["AG", "R,AG", "QR,R,DS,AG", "QDS", "QDP", "junk"])


@given(
    plans=st.lists(PLANS, min_size=1, max_size=8),
    turns=st.none() | st.integers(1, 7),
    retrievals=st.none() | st.integers(0, 4),
    items=st.integers(1, 4),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_budgets_hold_whatever_is_planned(
    plans: list[str], turns: int | None, retrievals: int | None, items: int, tmp_path: Path
) -> None:
    """Turns and retrievals stay inside their budgets, the run answers, and the tree gives the same turns."""

    def plan(user: str) -> str:
        return plans[sum(map(ord, user)) % len(plans)]

    def split(user: str) -> str:
        return "".join(f"<q{number}>part {number} of {len(user)}</q{number}>" for number in range(1, items + 1))

    recording = jade(tmp_path, planner=plan, serial_decomposer=split, parallel_decomposer=split)
    result, trajectory = recording.ask(QUESTION, max_turns=turns, max_retrievals=retrievals, record="off")
    assert turns is None or result["turns"] <= turns
    assert retrievals is None or result["retrievals"] <= retrievals
    assert result["answer"] and result["retrievals"] == len(recording.retriever.queries)
    assert result["turns"] == turns_of(result["workflow"])
    skipped = [hop for hop in result["hops"] if "skipped" in hop]
    assert result["budget_hit"] or not skipped
    assert len(result["hops"]) - len(skipped) == len(list(nodes_of(result["workflow"]))) - 1
    sinks = {call.id for call in trajectory.calls} - {name for call in trajectory.calls for name in call.parents}
    assert sinks == {trajectory.calls[-1].id}


def turns_of(tree: dict[str, Any]) -> int:
    topology = Topology(tree["plan"]) if tree["plan"] in ("QDS", "QDP") else Topology.SINGLE_ROUND
    return topology.turns([turns_of(child) for child in tree["children"]])


def nodes_of(tree: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield tree
    for child in tree["children"]:
        yield from nodes_of(child)


def compiled_graphs(graph: Graph) -> Iterator[Graph]:
    yield graph
    for _, inner in graph.get_subgraphs(recurse=True):
        yield inner  # type: ignore[misc]


def test_no_dangling_targets_anywhere() -> None:
    """A misspelled `Send` target would be skipped with a notice: every declared end must be a node."""
    graphs = list(compiled_graphs(build_jade(ListRetriever(PASSAGES))))
    assert len(graphs) > 10
    for graph in graphs:
        builder = graph.builder
        for source, branches in builder.branches.items():
            for branch in branches.values():
                assert branch.ends is not None, source
                assert set(branch.ends) <= {*builder.nodes, "__end__"}
        drawn = graph.get_graph()
        reached = {edge.target for edge in drawn.edges}
        assert {name for name in drawn.nodes if name != "__start__"} <= reached


def test_every_topology_has_a_node_and_a_graph_of_its_own() -> None:
    assert set(NODES) == set(Topology)
    for topology in Topology:
        name = topology.value.lower()
        graph = build_topology(name, ListRetriever(PASSAGES))  # type: ignore[arg-type]
        assert NODES[topology] in graph.get_graph().nodes and graph.name == name


@pytest.mark.parametrize(("name", "plan"), [("single_round", "R,AG"), ("qds", "QDS"), ("qdp", "QDP")])
def test_each_topology_runs_alone(name: Any, plan: str, tmp_path: Path) -> None:
    recording = jade(tmp_path, build=lambda retriever: build_topology(name, retriever))
    result, _ = recording.ask(QUESTION)
    assert result["workflow"]["plan"] == plan
    other = "R,AG" if plan != "R,AG" else "QDS"
    with pytest.raises(ConfigError, match=re.escape(other)):
        recording.ask(QUESTION, workflow=other)
    narrowed, _ = recording.ask(QUESTION, workflow="AG" if plan == "R,AG" else f"{plan}/AG")
    assert narrowed["retrievals"] == 0


@pytest.mark.parametrize("sizes", [{"max_depth": 3}, {"max_hops": 1}, {"max_hops": 5}, {"top_k": 0}])
def test_impossible_sizes_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(sizes))):
        build_jade(ListRetriever(PASSAGES), **sizes)
    with pytest.raises(ConfigError, match="banana"):
        build_topology("banana", ListRetriever(PASSAGES))  # type: ignore[arg-type]


def test_the_breadth_cap_reaches_prompt_and_parser(tmp_path: Path) -> None:
    three = "<q1>a</q1><q2>b</q2><q3>c</q3>"
    build = lambda retriever: build_jade(retriever, max_hops=2)  # noqa: E731
    recording = jade(tmp_path, build=build, serial_decomposer=three)
    result, trajectory = recording.ask(QUESTION, workflow="QDS/AG")
    assert trajectory.calls[0].format_error == "too many items" and result["workflow"]["plan"] == "R,AG"


def test_results_and_states_are_plain_json(tmp_path: Path) -> None:
    recording = jade(tmp_path)
    updates: list[Any] = []
    for chunk in recording.graph.stream(QUESTION, workflow="QDP/QDS/R,DS,AG", stream_mode="values", subgraphs=True):
        updates.append(chunk)
    assert len(updates) > 20
    assert json.loads(json.dumps(updates[-1][1], ensure_ascii=False)) == updates[-1][1]
    for _, values in updates:
        json.dumps(values)


def test_the_result_has_every_declared_field(tmp_path: Path) -> None:
    from graphs.state import Result

    result, _ = jade(tmp_path).ask(QUESTION)
    assert set(result) == set(Result.__annotations__)
    unrecorded, _ = jade(tmp_path).ask(QUESTION, record="off")
    assert unrecorded["run"] is None


def test_tokens_of_the_final_answer_only_are_streamed(tmp_path: Path) -> None:
    recording = jade(tmp_path, answer_summariser="the final words of all")
    events = list(recording.graph.stream(QUESTION, workflow="QDS/AG", stream_mode="custom", subgraphs=True))
    text = "".join(event[-1]["token"] for event in events)
    assert text == "the final words of all"


def test_an_interrupted_run_resumes_where_it_stopped(tmp_path: Path) -> None:
    def build(retriever: ListRetriever) -> Graph:
        graph = build_jade(retriever)
        graph.checkpointer = InMemorySaver()
        return graph

    recording = jade(tmp_path, build=build, planner=lambda user: "QDS" if "depth 2" in user else "R,AG")
    config = {"configurable": {"thread_id": "t"}}
    paused = recording.graph.invoke(QUESTION, config, interrupt_before=["serial"])
    assert recording.policy.roles == ["planner"] and "answer" not in paused
    result = recording.graph.invoke(None, config)
    assert result["answer"] == "S" and recording.policy.roles.count("planner") == 3
    assert result["calls"][0] == "root/PLAN" and result["model_calls"] == 7
    assert [call.id for call in recording.trajectories[-1].calls] == result["calls"]


def test_a_failing_retriever_is_an_outcome_of_its_own(tmp_path: Path) -> None:
    class Broken(ListRetriever):
        def search(self, queries: Any, k: int) -> Any:
            raise RetrieverError("the index is gone")

    recording = record(build_jade, says(**EVERYTHING), tmp_path, retriever=Broken(PASSAGES))
    with pytest.raises(RetrieverError):
        recording.ask(QUESTION, workflow="QDP/R,AG")
    assert recording.trajectories[-1].outcome == "retriever-error"


def test_graphs_draw_and_describe_themselves() -> None:
    graph = build_jade(ListRetriever(PASSAGES))
    assert "serial" in graph.get_graph(xray=1).draw_mermaid()
    assert graph.get_graph(xray=True).to_json()["nodes"]
    assert set(graph.get_input_jsonschema()["properties"]) == {"question"}
    assert "citations" in graph.get_output_jsonschema()["properties"]
    assert "max_retrievals" in graph.get_context_jsonschema()["properties"]


def test_constrained_decoding_hands_every_role_its_own_grammar(tmp_path: Path) -> None:
    recording = jade(tmp_path, planner=lambda user: "QDP" if "depth 2" in user else "QR,R,DS,AG")
    _, trajectory = recording.ask(QUESTION, decoding="constrained", max_retrievals=3)
    assert {call.role for call in trajectory.calls} >= {"planner", "query_rewriter", "document_selector"}
    for call in trajectory.calls:
        assert call.constraint is not None and call.format_error is None
        choices = call.constraint.choices
        assert call.text in choices if choices else re.fullmatch(call.constraint.regex, call.text)
    _, free = recording.ask(QUESTION)
    assert all(call.constraint is None for call in free.calls)
