"""What each role sees of the state: the paper's Select(s_t, ρ) (§3.1), one pure function.

`select: role` gives each role its own view. `select: full` adds the whole blackboard (the main question and all
sub-questions so far, unanswered ones included) to every view, for the ablation that the paper does not run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agents.errors import ConfigError
from graphs.state import Document, Known, Solved

State = Mapping[str, Any]


def shown_documents(state: State) -> list[Document]:
    """Return the documents that AG reads: what R found, less what DS left out."""
    documents: list[Document] = state.get("documents", [])
    selected = state.get("selected")
    return documents if selected is None else [item for item in documents if item["number"] in selected]


def in_order(solved: list[Solved]) -> list[Solved]:
    """Return hops in send order."""
    return sorted(solved, key=lambda hop: hop["index"])


def _planner(state: State) -> dict[str, Any]:
    budgets = ("depth_left", "turns_left", "retrievals_left")
    return {"question": state["question"], **{name: state[name] for name in budgets}}


def _decomposer(state: State) -> dict[str, Any]:
    return {"question": state["question"], "max_hops": state["max_hops"]}


def _rewriter(state: State) -> dict[str, Any]:
    answered = [hop for hop in state["trace"] if hop["answer"]]
    return {"main": state["main"], "answered": answered, "question": state["question"]}


def _query(state: State) -> str:
    return str(state.get("query", state["question"]))


def _selector(state: State) -> dict[str, Any]:
    return {"query": _query(state), "documents": state.get("documents", [])}


def _generator(state: State) -> dict[str, Any]:
    return {"question": state["question"], "query": _query(state), "documents": shown_documents(state)}


def _hops(state: State) -> list[dict[str, Any]]:
    keys = ("question", "answer", "skipped")
    return [{key: hop[key] for key in keys if key in hop} for hop in in_order(state["solved"])]  # type: ignore[literal-required]


def _summariser(state: State) -> dict[str, Any]:
    return {"question": state["question"], "hops": _hops(state)}


_VIEWS: dict[str, Callable[[State], dict[str, Any]]] = {
    "planner": _planner,
    "serial_decomposer": _decomposer,
    "parallel_decomposer": _decomposer,
    "query_rewriter": _rewriter,
    "document_selector": _selector,
    "answer_generator": _generator,
    "answer_summariser": _summariser,
}


def observe(state: State, role: str) -> dict[str, Any]:
    """Return the inputs of `role` (a role's name) at the node that `state` describes.

    Raises:
        ConfigError: No view is declared for the role.
    """
    if role not in _VIEWS:
        raise ConfigError(f"no view for the role {role!r}; allowed: {', '.join(_VIEWS)}; add one in graphs/observe.py")
    inputs = _VIEWS[role](state)
    if state["select"] == "full":
        inputs.update(main=state["main"], trace=list(state["trace"]))
    return inputs


def blackboard(state: State, items: list[str], index: int) -> list[Known]:
    """Return the trace that child `index` of a decomposed node is given: what its parent knew, and its siblings."""
    solved = {hop["index"]: hop for hop in state.get("solved", [])}
    siblings: list[Known] = []
    for position, item in enumerate(items):
        hop = solved.get(position)
        if hop is not None:
            siblings.append({"question": hop["question"], "answer": hop["answer"]})
        elif position != index:
            siblings.append({"question": item, "answer": None})
    return [*state["trace"], *siblings]
