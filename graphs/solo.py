"""Solo: one role that searches in a loop until it answers, the shape of Search-R1; no planner, no division of labour.

    think ⇄ search        think → END when it answers

Untuned it is a demonstration; trained, the baseline that tells whether several roles help at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired

from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.graph import END, START, StateGraph

from agents.errors import ConfigError
from agents.passage import Passage, Retriever
from agents.role import unquote
from agents.solo import SOLO, without_documents
from graphs.acting import Spoken, aspeak, speak
from graphs.chain import cite, sources
from graphs.nodes import ROOT, Graph, Node
from graphs.options import Options
from graphs.reader import numbered
from graphs.run import current_run
from graphs.state import Answered, Document, Question

THINK, SEARCH = "think", "search"
MAX_SEARCHES = 3
State = Mapping[str, Any]


class SoloState(Question, Answered):
    """State of the loop."""

    searches: NotRequired[list[dict[str, Any]]]
    """{"query", "documents"} of each search so far; documents are numbered through."""
    query: NotRequired[str]
    """What to search for next; "" when it answered."""


def _granted(options: Options, most: int) -> int:
    """Return how many searches a run may make: each costs a retrieval and a turn, and the answer a turn."""
    limits = [most, options.max_retrievals, None if options.max_turns is None else options.max_turns - 1]
    return min(limit for limit in limits if limit is not None)


def _inputs(state: State, config: RunnableConfig, most: int) -> dict[str, Any]:
    question = state["question"].strip()
    if not question:
        raise ConfigError("the question is blank; give a text")
    searches = state.get("searches", [])
    left = _granted(current_run(config).options, most) - len(searches)
    return {"question": question, "searches": searches, "left": max(0, left)}


def _thought(state: State, config: RunnableConfig, spoken: Spoken, most: int) -> dict[str, Any]:
    """Return what a move changes: the next query, or the result."""
    searches, run = state.get("searches", []), current_run(config)
    moved: dict[str, Any] = {"turns": len(searches) + 1, "calls": [spoken.call]}
    if spoken.value["kind"] == "search":
        return {**moved, "query": unquote(spoken.value["text"])}
    documents = [item for search in without_documents(searches, spoken.dropped) for item in search["documents"]]
    first: dict[str, Document] = {}
    for item in documents:
        first.setdefault(item["id"], item)  # several searches may find one passage
    shown = list(first.values())
    granted = _granted(run.options, most)
    return {
        **moved,
        "query": "",
        "question": state["question"].strip(),
        "answer": spoken.value["text"],
        "evidence": sources(shown),
        "citations": cite(spoken.value["text"], shown, selected=False),
        "hops": [],
        "retrievals": len(searches),
        "budget_hit": granted < most and len(searches) >= granted,
        **run.summary(),
    }


def _found(state: State, passages: list[Passage]) -> dict[str, Any]:
    searches = list(state.get("searches", []))
    first = sum(len(search["documents"]) for search in searches)
    return {"searches": [*searches, {"query": state["query"], "documents": numbered(list(passages), first)}]}


def build_solo(retriever: Retriever, *, top_k: int = 5, max_searches: int = MAX_SEARCHES) -> Graph:
    """Compile the loop; wrap it in `graphs.trainable` to run it.

    Args:
        retriever: The frozen retriever.
        top_k: Passages a search.
        max_searches: Most searches of a run; options may ask for less.

    Raises:
        ConfigError: A size below 1.
    """
    if top_k < 1 or max_searches < 1:
        raise ConfigError(f"top_k={top_k}, max_searches={max_searches}: both must be at least 1")
    path = f"{ROOT}/SOLO"

    def think(state: State, config: RunnableConfig) -> dict[str, Any]:
        spoken = speak(SOLO, _inputs(state, config, max_searches), config, path=path)
        return _thought(state, config, spoken, max_searches)

    async def athink(state: State, config: RunnableConfig) -> dict[str, Any]:
        spoken = await aspeak(SOLO, _inputs(state, config, max_searches), config, path=path)
        return _thought(state, config, spoken, max_searches)

    def search(state: State, config: RunnableConfig) -> dict[str, Any]:
        run = current_run(config)
        return _found(state, run.retrieve(retriever, state["query"], top_k, f"{ROOT}/R", config))

    async def asearch(state: State, config: RunnableConfig) -> dict[str, Any]:
        run = current_run(config)
        return _found(state, await run.aretrieve(retriever, state["query"], top_k, f"{ROOT}/R", config))

    def route(state: State) -> str:
        return SEARCH if state.get("query") else END

    graph = StateGraph(SoloState, context_schema=Options, input_schema=Question, output_schema=Answered)
    thinks: Node = RunnableLambda(think, athink, name=THINK)
    searches: Node = RunnableLambda(search, asearch, name=SEARCH)
    graph.add_node(THINK, thinks)
    graph.add_node(SEARCH, searches)
    graph.add_edge(START, THINK)
    graph.add_conditional_edges(THINK, route, [SEARCH, END])
    graph.add_edge(SEARCH, THINK)
    return graph.compile(name="solo")
