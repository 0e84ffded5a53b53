"""The reader: one answer from documents that the caller brings; with the gold passages it is the ceiling of retrieval.

    read → END

No planner and no retriever: the documents are part of the input.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from agents.answerer import GENERATOR
from graphs.acting import Spoken, aspeak, speak
from graphs.chain import cite, sources
from graphs.nodes import ROOT, Graph, Node
from graphs.options import Options
from graphs.run import current_run
from graphs.state import Answered, Document

READ = "read"


class Material(TypedDict):
    """Input of the reader."""

    question: str
    documents: list[Mapping[str, Any]]
    """Passages with "id", "title" and "text"; best first."""


class _State(Material, Answered):
    """State of the reader."""


def numbered(passages: list[Mapping[str, Any]], first: int = 0) -> list[Document]:
    """Return passages as documents, numbered from `first`."""
    return [
        {
            "number": number,
            "id": str(item["id"]),
            "title": str(item.get("title") or ""),
            "text": str(item["text"]),
            "score": float(item.get("score") or 0.0),
        }
        for number, item in enumerate(passages, first)
    ]


def _inputs(state: Mapping[str, Any], config: RunnableConfig) -> dict[str, Any]:
    question = state["question"].strip()
    inputs = {"question": question, "query": question, "documents": numbered(state.get("documents") or [])}
    full = current_run(config).options.select == "full"
    return {**inputs, "main": question, "trace": []} if full else inputs


def _after(state: Mapping[str, Any], config: RunnableConfig, spoken: Spoken) -> dict[str, Any]:
    documents = numbered(state.get("documents") or [])
    shown = documents[: len(documents) - spoken.dropped]
    return {
        "question": state["question"].strip(),
        "answer": spoken.value,
        "evidence": sources(shown),
        "citations": cite(spoken.value, shown, selected=False),
        "hops": [],
        "turns": 1,
        "retrievals": 0,
        "budget_hit": False,
        "calls": [spoken.call],
        **current_run(config).summary(),
    }


def build_reader() -> Graph:
    """Compile the reader; wrap it in `graphs.trainable` to run it: `invoke({"question": …, "documents": […]})`."""
    place: dict[str, Any] = {"path": f"{ROOT}/AG", "final": True}

    def sync(state: Mapping[str, Any], config: RunnableConfig) -> dict[str, Any]:
        return _after(state, config, speak(GENERATOR, _inputs(state, config), config, **place))

    async def asynchronous(state: Mapping[str, Any], config: RunnableConfig) -> dict[str, Any]:
        return _after(state, config, await aspeak(GENERATOR, _inputs(state, config), config, **place))

    graph = StateGraph(_State, context_schema=Options, input_schema=Material, output_schema=Answered)
    node: Node = RunnableLambda(sync, asynchronous, name=READ)
    graph.add_node(READ, node)
    graph.add_edge(START, READ)
    graph.add_edge(READ, END)
    return graph.compile(name="reader")
