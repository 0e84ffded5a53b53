"""A graph of one node in which one role of its own speaks: the smallest that can be recorded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph

from agents.tagged import tagged
from graphs import act, trainable
from graphs.ledger import LedgerWriter
from graphs.recorded import RecordedGraph
from tests.scripted import ScriptedPolicy

WRITER = tagged("writer", "Answer.", sees=["question"], tag="answer")


class State(TypedDict, total=False):
    question: str
    answer: str


def one_node(node: Callable[..., Any], folder: Path, **extra: Any) -> RecordedGraph:
    builder: Any = StateGraph(State)
    builder.add_node("write", node)
    builder.add_edge(START, "write")
    builder.add_edge("write", END)
    policy = extra.pop("policy", None) or ScriptedPolicy(lambda role, user: "<answer>x</answer>")
    return trainable(builder.compile(), policy=policy, ledger=LedgerWriter(folder), **extra)


def write(state: State, config: RunnableConfig) -> State:
    return {"answer": act(WRITER, state, config)}
