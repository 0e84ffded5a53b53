"""QDS: a node split into dependent sub-questions, solved one after the other.

    decompose → hop → hop → … → summarise        (an invalid decomposition: decompose → direct, a plain chain)

`#k` in an item is replaced by hop k's answer before the hop's planner runs. Each hop draws from what its elders
left; hops that nothing is left for are skipped, all at once, since budgets never grow back.
"""

from __future__ import annotations

from functools import partial

from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from agents.answerer import SUMMARISER
from agents.decomposer import SERIAL_DECOMPOSER
from agents.workflow import Topology
from graphs.hops import Allowance, child_of, decomposed, fits, resolve, skipped, spend, summarise
from graphs.nodes import Changes, Graph, plain_node, role_node
from graphs.observe import State, in_order
from graphs.state import DecomposedState, NodeInput, SolvedNode

DECOMPOSE, HOP, SKIP, SUMMARISE, DIRECT = "decompose", "hop", "skip", "summarise", "direct"


def share(state: State, index: int) -> Allowance:
    """Return what hop `index` may spend: all that its elders left."""
    elders = in_order(state["solved"])[:index]
    return Allowance(
        spend(state["turns_left"], 1 + sum(hop["turns"] for hop in elders)),
        spend(state["retrievals_left"], sum(hop["retrievals"] for hop in elders)),
    )


def _next(state: State) -> Send | str:
    """Send the next hop, or skip the rest, or summarise; without items, answer directly."""
    index, items = len(state["solved"]), state["items"]
    if not items:
        return DIRECT
    if index == len(items):
        return SUMMARISE
    allowance = share(state, index)
    if not fits(state, allowance):
        return SKIP
    question = resolve(items[index], [hop["answer"] for hop in in_order(state["solved"])])
    return Send(HOP, child_of(state, index, question, allowance))


def _skip(state: State) -> Changes:
    return {"solved": [skipped(state, index) for index in range(len(state["solved"]), len(state["items"]))]}


def build_serial(child: Graph, chain: Graph) -> Graph:
    """Compile serial decomposition.

    Args:
        child: Graph of one hop: `NodeInput` in, `SolvedHop` out.
        chain: Graph that answers the question where the decomposition is invalid.
    """
    graph = StateGraph(DecomposedState, input_schema=NodeInput, output_schema=SolvedNode)
    graph.add_node(DECOMPOSE, role_node(SERIAL_DECOMPOSER, "QDS", partial(decomposed, Topology.QDS)))
    graph.add_node(HOP, child)
    graph.add_node(SKIP, plain_node(SKIP, _skip))
    graph.add_node(DIRECT, chain)
    graph.add_node(SUMMARISE, role_node(SUMMARISER, "AS", partial(summarise, Topology.QDS, share), answers=True))
    graph.add_edge(START, DECOMPOSE)
    graph.add_conditional_edges(DECOMPOSE, _next, [HOP, DIRECT, SKIP])
    graph.add_conditional_edges(HOP, _next, [HOP, SKIP, SUMMARISE])
    graph.add_edge(SKIP, SUMMARISE)
    graph.add_edge(SUMMARISE, END)
    graph.add_edge(DIRECT, END)
    return graph.compile(name="serial")
