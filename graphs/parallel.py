"""QDP: a node split into independent sub-questions, solved at the same time.

    decompose → hop ∥ hop ∥ … → summarise        (an invalid decomposition: decompose → direct, a plain chain)

Retrievals are split before anything runs, never first come, first served, so a run is the same however its
branches race. The released code's "parallel" branch was a sequential loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from agents.answerer import SUMMARISER
from agents.decomposer import PARALLEL_DECOMPOSER
from agents.workflow import Topology
from graphs.hops import Allowance, child_of, decomposed, fits, skipped, spend, split, summarise
from graphs.nodes import Changes, Graph, plain_node, role_node
from graphs.observe import State
from graphs.state import DecomposedState, NodeInput, SolvedNode

DECOMPOSE, HOP, SKIP, SUMMARISE, DIRECT = "decompose", "hop", "skip", "summarise", "direct"


def share(state: State, index: int) -> Allowance:
    """Return what hop `index` may spend: an equal part of the retrievals, all turns but the node's own."""
    retrievals = split(state["retrievals_left"], len(state["items"]))
    return Allowance(spend(state["turns_left"], 1), retrievals[index])


def _fan_out(state: State) -> Sequence[Send | str]:
    """Send all hops that fit, and skip the others; without items, answer directly."""
    items = state["items"]
    if not items:
        return [DIRECT]
    shares = [share(state, index) for index in range(len(items))]
    sends: list[Send | str] = [
        Send(HOP, child_of(state, index, items[index], allowance))
        for index, allowance in enumerate(shares)
        if fits(state, allowance)
    ]
    return sends if len(sends) == len(items) else [*sends, SKIP]


def _skip(state: State) -> Changes:
    unfit = [index for index in range(len(state["items"])) if not fits(state, share(state, index))]
    return {"solved": [skipped(state, index) for index in unfit]}


def build_parallel(child: Graph, chain: Graph) -> Graph:
    """Compile parallel decomposition.

    Args:
        child: Graph of one hop: `NodeInput` in, `SolvedHop` out.
        chain: Graph that answers the question where the decomposition is invalid.
    """
    graph = StateGraph(DecomposedState, input_schema=NodeInput, output_schema=SolvedNode)
    graph.add_node(DECOMPOSE, role_node(PARALLEL_DECOMPOSER, "QDP", partial(decomposed, Topology.QDP)))
    graph.add_node(HOP, child)
    graph.add_node(SKIP, plain_node(SKIP, _skip))
    graph.add_node(DIRECT, chain)
    graph.add_node(SUMMARISE, role_node(SUMMARISER, "AS", partial(summarise, Topology.QDP, share), answers=True))
    graph.add_edge(START, DECOMPOSE)
    graph.add_conditional_edges(DECOMPOSE, _fan_out, [HOP, DIRECT, SKIP])
    graph.add_edge(HOP, SUMMARISE)
    graph.add_edge(SKIP, SUMMARISE)
    graph.add_edge(SUMMARISE, END)
    graph.add_edge(DIRECT, END)
    return graph.compile(name="parallel")
