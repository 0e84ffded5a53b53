"""How a node speaks or searches: two faces, sync and async, over one body.

A node is `observe` → `speak` → `update`, of which only the middle touches the run. Async-only nodes would break
`invoke`; sync-only ones would cap concurrency at a handful of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.graph.state import CompiledStateGraph

from agents.passage import Passage, Retriever
from agents.role import Role, unquote
from graphs.acting import Spoken, aspeak, speak
from graphs.observe import State, observe
from graphs.run import current_run

Graph = CompiledStateGraph[Any, Any, Any, Any]
Node = RunnableLambda[Any, dict[str, Any]]
Changes = Mapping[str, Any]
ROOT = "root"


def role_node(role: Role[Any], tag: str, update: Callable[[State, Spoken], Changes], *, answers: bool = False) -> Node:
    """Return a node at which `role` speaks.

    Args:
        role: Who speaks; its inputs are `observe(state, role.name)`.
        tag: Last part of the call's path, such as "AG" in "root/1/AG".
        update: (state, what was said) → changes of the state; pure.
        answers: Whether the role speaks the node's answer; the root's is streamed to the user.
    """

    def place(state: State) -> dict[str, Any]:
        return {"path": f"{state['path']}/{tag}", "final": answers and state["path"] == ROOT}

    def after(state: State, spoken: Spoken) -> dict[str, Any]:
        return {**update(state, spoken), "calls": [spoken.call]}

    def sync(state: State, config: RunnableConfig) -> dict[str, Any]:
        return after(state, speak(role, observe(state, role.name), config, **place(state)))

    async def asynchronous(state: State, config: RunnableConfig) -> dict[str, Any]:
        return after(state, await aspeak(role, observe(state, role.name), config, **place(state)))

    return RunnableLambda(sync, asynchronous, name=tag)


def retrieve_node(retriever: Retriever, top_k: int, update: Callable[[State, list[Passage]], Changes]) -> Node:
    """Return a node that searches for the chain's query: the rewritten one, else the node's question.

    Args:
        retriever: The frozen retriever.
        top_k: Passages a search.
        update: (state, passages, best first) → changes of the state; pure.
    """

    def query(state: State) -> str:
        return unquote(str(state.get("query", state["question"])))

    def sync(state: State, config: RunnableConfig) -> dict[str, Any]:
        run = current_run(config)
        return dict(update(state, run.retrieve(retriever, query(state), top_k, f"{state['path']}/R", config)))

    async def asynchronous(state: State, config: RunnableConfig) -> dict[str, Any]:
        run = current_run(config)
        passages = await run.aretrieve(retriever, query(state), top_k, f"{state['path']}/R", config)
        return dict(update(state, passages))

    return RunnableLambda(sync, asynchronous, name="R")


def plain_node(name: str, update: Callable[[State], Changes]) -> Node:
    """Return a node that neither speaks nor searches; `update` is pure and quick, so it may run on the event loop."""

    def sync(state: State) -> dict[str, Any]:
        return dict(update(state))

    async def asynchronous(state: State) -> dict[str, Any]:
        return dict(update(state))

    return RunnableLambda(sync, asynchronous, name=name)
