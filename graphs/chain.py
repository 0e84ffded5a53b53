"""SINGLE_ROUND: one chain `[QR] [R] [DS] AG` as a state graph; its edges come from `agents.workflow.CHAINS`.

QR changes the query, never the question. An empty selection is recorded and AG is told that it has no
documents. Document numbers stay what R made them.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Sequence

from langgraph.graph import END, START, StateGraph

from agents.answerer import GENERATOR
from agents.passage import Passage, Retriever
from agents.rewriter import REWRITER
from agents.selector import SELECTOR
from agents.workflow import BY_TEXT, CHAINS, Module
from graphs.acting import Spoken
from graphs.nodes import Changes, Graph, retrieve_node, role_node
from graphs.observe import State, shown_documents
from graphs.state import ChainState, Document, NodeInput, Plan, Solved, SolvedNode, Source

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _normalised(text: str) -> str:
    """Return `text` as the F1 metric compares it: folded, without punctuation and articles."""
    folded = unicodedata.normalize("NFKC", text).casefold().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", folded).split())


def cite(answer: str, shown: Sequence[Document], selected: bool) -> list[Source]:
    """Return the shown documents that contain the normalised answer, else the selection.

    Args:
        answer: AG's answer; "yes" and "no" stand in no passage and cite nothing by themselves.
        shown: Documents that AG read, after selection and dropping.
        selected: Whether DS chose them.
    """
    wanted = _normalised(answer)
    hits: list[Document] = []
    if wanted not in ("", "yes", "no"):
        hits = [item for item in shown if f" {wanted} " in f" {_normalised(item['title'] + ' ' + item['text'])} "]
    return sources(hits or (shown if selected else ()))


def sources(documents: Sequence[Document]) -> list[Source]:
    """Return documents by name."""
    return [{"id": item["id"], "title": item["title"]} for item in documents]


def successors(module: Module | None) -> tuple[str, ...]:
    """Return the modules that may follow `module` (None: that may come first) in a legal chain."""
    following = []
    for chain in CHAINS:
        place = -1 if module is None else chain.index(module) if module in chain else len(chain)
        following += [str(name.value) for name in chain[place + 1 : place + 2]]
    return tuple(dict.fromkeys(following))


def _after(module: Module | None) -> Callable[[State], str]:
    def route(state: State) -> str:
        modules = BY_TEXT[state["plan"]].modules
        return str(modules[0 if module is None else modules.index(module) + 1].value)

    return route


def _rewritten(state: State, spoken: Spoken) -> Changes:
    return {"query": spoken.value}


def _retrieved(state: State, passages: list[Passage]) -> Changes:
    return {"documents": [{"number": number, **passage} for number, passage in enumerate(passages)]}


def _selected(state: State, spoken: Spoken) -> Changes:
    return {"selected": spoken.value} if spoken.valid else {}


def _answered(state: State, spoken: Spoken) -> Changes:
    shown = shown_documents(state)
    shown = shown[: len(shown) - spoken.dropped]
    workflow: Plan = {
        "path": state["path"],
        "question": state["question"],
        "plan": state["plan"],
        "children": [],
    }
    if state["planned"]:
        workflow["planned"] = state["planned"]
    solution: Solved = {
        "index": state["index"],
        "path": state["path"],
        "question": state["question"],
        "raw_question": state["raw_question"],
        "answer": spoken.value,
        "evidence": sources(shown),
        "citations": cite(spoken.value, shown, "selected" in state),
        "workflow": workflow,
        "hops": [],
        "turns": 1,
        "retrievals": int("documents" in state),
        "budget_hit": False,
    }
    return {"solution": solution}


def build_chain(retriever: Retriever, *, top_k: int = 5) -> Graph:
    """Compile the chain graph: it runs the modules of `state["plan"]`, in order.

    Args:
        retriever: The frozen retriever.
        top_k: Passages a search.
    """
    graph = StateGraph(ChainState, input_schema=NodeInput, output_schema=SolvedNode)
    graph.add_node(Module.QR.value, role_node(REWRITER, "QR", _rewritten))
    graph.add_node(Module.R.value, retrieve_node(retriever, top_k, _retrieved))
    graph.add_node(Module.DS.value, role_node(SELECTOR, "DS", _selected))
    graph.add_node(Module.AG.value, role_node(GENERATOR, "AG", _answered, answers=True))
    graph.add_conditional_edges(START, _after(None), list(successors(None)))
    for module in (Module.QR, Module.R, Module.DS):
        graph.add_conditional_edges(module.value, _after(module), list(successors(module)))
    graph.add_edge(Module.AG.value, END)
    return graph.compile(name="single_round")
