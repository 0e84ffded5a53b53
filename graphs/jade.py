"""The whole graph: plan, then one of the three topologies, whose hops are planned by the same planner.

    open → plan → single_round | serial | parallel → close

Recursion is unrolled when the graph is built (paper Fig. 2; the released code has one level): depth 0 holds the
chain alone, depth d holds decompositions whose hops are graphs of depth d − 1. A forced node skips the planner.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.graph import END, START, StateGraph

from agents.errors import ConfigError
from agents.passage import Retriever
from agents.planner import PLANNER
from agents.workflow import BY_TEXT, Topology, Workflow, check_forced, parse_forced
from graphs.acting import Spoken
from graphs.chain import build_chain
from graphs.nodes import ROOT, Changes, Graph, Node, plain_node, role_node
from graphs.observe import State
from graphs.options import Options
from graphs.parallel import build_parallel
from graphs.run import current_run
from graphs.serial import build_serial
from graphs.state import HopState, NodeInput, Question, Result, RunState, SolvedHop

PLAN, OPEN, CLOSE, SOLVED = "plan", "open", "close", "solved"
NODES = {Topology.SINGLE_ROUND: "single_round", Topology.QDS: "serial", Topology.QDP: "parallel"}
"""Node that runs each topology."""
MAX_DEPTH, MAX_HOPS = 2, 4
Parts = Mapping[Topology, Graph]
GraphName = Literal["jade", "single_round", "qds", "qdp"]


def _parts(chain: Graph, depth: int) -> Parts:
    """Return the graph of each topology that a node with `depth` decompositions left may run."""
    if depth == 0:
        return {Topology.SINGLE_ROUND: chain}
    hop = build_hop(_parts(chain, depth - 1))
    return {
        Topology.SINGLE_ROUND: chain,
        Topology.QDS: build_serial(hop, chain),
        Topology.QDP: build_parallel(hop, chain),
    }


def _planned(state: State, spoken: Spoken) -> Changes:
    return {"plan": spoken.value}


def _route(state: State) -> str:
    return NODES[BY_TEXT[state["plan"]].topology] if state["plan"] else PLAN


def _wire(graph: Any, parts: Parts, first: str, last: str, planner: bool) -> None:
    """Add the planner and the topologies between the nodes `first` and `last`."""
    names = [NODES[topology] for topology in parts]
    if planner:
        graph.add_node(PLAN, role_node(PLANNER, "PLAN", _planned))
        graph.add_conditional_edges(PLAN, _route, names)
    for topology, part in parts.items():
        graph.add_node(NODES[topology], part)
        graph.add_edge(NODES[topology], last)
    graph.add_conditional_edges(first, _route, [*([PLAN] if planner else []), *names])


def build_hop(parts: Parts) -> Graph:
    """Compile the graph of one hop: `NodeInput` in, `SolvedHop` out.

    Args:
        parts: The topologies that it may run.
    """

    def solved(state: State) -> Changes:
        return {"solved": [state["solution"]]}

    graph = StateGraph(HopState, input_schema=NodeInput, output_schema=SolvedHop)
    graph.add_node(SOLVED, plain_node(SOLVED, solved))
    graph.add_edge(SOLVED, END)
    _wire(graph, parts, START, SOLVED, planner=True)
    return graph.compile(name="hop")


def _limited(options: Options, depth: int) -> Options:
    """Return the options with the depth that is really available."""
    asked = depth if options.max_depth is None else min(depth, options.max_depth)
    return options.model_copy(update={"max_depth": asked})


def _forced(options: Options, only: Topology | None) -> Workflow | None:
    """Return the plan that the caller, or the graph itself, forces.

    Raises:
        ConfigError: No plan, a plan that depth or budgets make impossible, or one of another topology.
    """
    text = options.workflow or (only.value if only in (Topology.QDS, Topology.QDP) else None)
    if text is None:
        return None
    workflow = parse_forced(text)
    if only is not None and workflow.topology is not only:
        raise ConfigError(
            f"workflow={text!r} was given to the graph of {only.value}; force a plan of that topology, "
            "or use the graph 'jade'"
        )
    check_forced(workflow, options)
    return workflow


def _open_node(depth: int, max_hops: int, only: Topology | None) -> Node:
    """Return the node that turns a question and the run's options into the root's input."""

    def opened(state: State, config: RunnableConfig) -> dict[str, Any]:
        question = state["question"].strip()
        if not question:
            raise ConfigError("the question is blank; give a text")
        options = _limited(current_run(config).options, depth)
        forced = _forced(options, only)
        root: NodeInput = {
            "question": question,
            "raw_question": question,
            "path": ROOT,
            "index": 0,
            "main": question,
            "trace": [],
            "select": options.select,
            "plan": forced.plan if forced else "",
            "planned": "",
            "below": str(forced.child) if forced and forced.child else "",
            "depth_left": options.max_depth or 0,
            "turns_left": options.max_turns,
            "retrievals_left": options.max_retrievals,
            "max_hops": max_hops,
        }
        return {**root, "calls": []}  # a checkpointer's thread may hold the calls of its last question

    return _both(OPEN, opened)


def _closed(state: State, config: RunnableConfig) -> dict[str, Any]:
    """Return the result of the run."""
    solution = state["solution"]
    keys = ("question", "answer", "evidence", "citations", "workflow", "hops", "turns", "retrievals", "budget_hit")
    return {**{key: solution[key] for key in keys}, **current_run(config).summary()}


def _both(name: str, body: Callable[[State, RunnableConfig], dict[str, Any]]) -> Node:
    async def asynchronous(state: State, config: RunnableConfig) -> dict[str, Any]:
        return body(state, config)

    return RunnableLambda(body, asynchronous, name=name)


def _check(max_depth: int, max_hops: int, top_k: int) -> None:
    """Refuse sizes that no graph is built for.

    Raises:
        ConfigError: One of them is out of range.
    """
    for name, value, low, high in (
        ("max_depth", max_depth, 0, MAX_DEPTH),
        ("max_hops", max_hops, 2, MAX_HOPS),
        ("top_k", top_k, 1, 100),
    ):
        if not low <= value <= high:
            raise ConfigError(f"{name}={value}; allowed: {low} to {high}")


def _build(parts: Parts, depth: int, max_hops: int, only: Topology | None, name: str) -> Graph:
    graph = StateGraph(RunState, context_schema=Options, input_schema=Question, output_schema=Result)
    graph.add_node(OPEN, _open_node(depth, max_hops, only))
    graph.add_node(CLOSE, _both(CLOSE, _closed))
    graph.add_edge(START, OPEN)
    graph.add_edge(CLOSE, END)
    _wire(graph, parts, OPEN, CLOSE, planner=only in (None, Topology.SINGLE_ROUND))
    return graph.compile(name=name)


def build_jade(retriever: Retriever, *, max_depth: int = 2, top_k: int = 5, max_hops: int = 4) -> Graph:
    """Compile the whole graph; wrap it in `graphs.trainable` to run it.

    Args:
        retriever: The frozen retriever.
        max_depth: Deepest decomposition the graph is unrolled to, 0 to 2; a call may ask for less.
        top_k: Passages a search.
        max_hops: Most sub-questions of one decomposition, 2 to 4.

    Raises:
        ConfigError: A size is out of range.
    """
    _check(max_depth, max_hops, top_k)
    parts = _parts(build_chain(retriever, top_k=top_k), max_depth)
    return _build(parts, max_depth, max_hops, None, "jade")


def build_topology(
    name: Literal["single_round", "qds", "qdp"],
    retriever: Retriever,
    *,
    max_depth: int = 2,
    top_k: int = 5,
    max_hops: int = 4,
) -> Graph:
    """Compile a graph whose root has one fixed topology: a planned chain, or a decomposition with planned hops.

    Args:
        name: Topology of the root, in lower case.
        retriever: The frozen retriever.
        max_depth: As in `build_jade`; the chain needs none, a decomposition at least 1.
        top_k: Passages a search.
        max_hops: Most sub-questions of one decomposition.

    Raises:
        ConfigError: An unknown topology, or a size out of range.
    """
    known = {topology.value.lower(): topology for topology in Topology}
    if name not in known:
        raise ConfigError(f"topology {name!r}; allowed: {', '.join(known)}")
    only = known[name]
    _check(max_depth, max_hops, top_k)
    depth = 0 if only is Topology.SINGLE_ROUND else max(1, max_depth)
    parts = _parts(build_chain(retriever, top_k=top_k), depth)
    return _build({only: parts[only]}, depth, max_hops, only, name)


def build_graph(name: GraphName, retriever: Retriever, *, max_depth: int = 2, top_k: int = 5) -> Graph:
    """Compile the whole graph, "jade", or one topology alone, by its name; see `build_jade` and `build_topology`.

    Raises:
        ConfigError: An unknown name, or a size out of range.
    """
    if name not in get_args(GraphName):
        raise ConfigError(f"topology {name!r}; allowed: {', '.join(get_args(GraphName))}")
    if name == "jade":
        return build_jade(retriever, max_depth=max_depth, top_k=top_k)
    return build_topology(name, retriever, max_depth=max_depth, top_k=top_k)
