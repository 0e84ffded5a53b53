"""What serial and parallel decomposition share: children, their budgets, and the node's summary.

Budgets (DESIGN §2): serial children draw in order; a fan-out splits what is left equally, extra units to the
first in send order. Turns of a fan-out do not add up (1 + max), so each of its children may use all that is
left. What does not fit is skipped, the summariser is told, and the run still answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from agents.decomposer import REFERENCE
from agents.role import quote
from agents.workflow import Grammar, Topology, parse_forced
from graphs.acting import Spoken
from graphs.nodes import Changes
from graphs.observe import State, blackboard, in_order
from graphs.state import Hop, NodeInput, Plan, Solved, Source

BUDGET = "budget"
UNKNOWN = "unknown"
"""Stands for the answer of a hop that gave none."""


@dataclass(frozen=True)
class Allowance:
    """What one child may spend; None = no limit."""

    turns: int | None
    retrievals: int | None


def split(amount: int | None, parts: int) -> list[int | None]:
    """Split a budget equally, extra units to the first; None stays None."""
    if amount is None:
        return [None] * parts
    each, extra = divmod(max(0, amount), parts)
    return [each + (place < extra) for place in range(parts)]


def spend(amount: int | None, spent: int) -> int | None:
    """Return what is left of a budget; None stays None."""
    return None if amount is None else max(0, amount - spent)


def resolve(item: str, answers: Sequence[str]) -> str:
    """Return a serial item with each `#k` replaced by answer k, escaped so that it is read as text only."""

    def answer(match: re.Match[str]) -> str:
        found = answers[int(match[1]) - 1].strip()
        return re.sub("#(?=[0-9])", "＃", quote(found)) or UNKNOWN

    return REFERENCE.sub(answer, item)


def child_of(state: State, index: int, question: str, allowance: Allowance) -> NodeInput:
    """Return the input of child `index` of a decomposed node."""
    plan, _, below = state["below"].partition("/")
    return {
        "question": question,
        "raw_question": state["items"][index],
        "path": f"{state['path']}/{index}",
        "index": index,
        "main": state["main"],
        "trace": blackboard(state, state["items"], index),
        "select": state["select"],
        "plan": plan,
        "planned": "",
        "below": below,
        "depth_left": state["depth_left"] - 1,
        "turns_left": allowance.turns,
        "retrievals_left": allowance.retrievals,
        "max_hops": state["max_hops"],
    }


Share = Callable[[State, int], Allowance]
"""(state of a decomposed node, index of a child) → what the child may spend."""


def fits(state: State, allowance: Allowance) -> bool:
    """Return whether a child can run: its forced plan, or any plan at all."""
    plan = parse_forced(state["below"] or "AG")
    return plan.fits(state["depth_left"] - 1, allowance.turns, allowance.retrievals)


def _starved(state: State, allowance: Allowance) -> bool:
    """Return whether a planned child had to do without retrieval because the others use the budget up."""
    return not state["below"] and allowance.retrievals == 0 and state["retrievals_left"] != 0


def skipped(state: State, index: int) -> Solved:
    """Return the record of a child that no budget is left for."""
    item = state["items"][index]
    return {
        "index": index,
        "path": f"{state['path']}/{index}",
        "question": item,
        "raw_question": item,
        "answer": "",
        "evidence": [],
        "citations": [],
        "workflow": None,
        "hops": [],
        "turns": 0,
        "retrievals": 0,
        "budget_hit": True,
        "skipped": BUDGET,
    }


def decomposed(topology: Topology, state: State, spoken: Spoken) -> Changes:
    """Take over the items; without any, plan the chain that an invalid decomposition falls back to."""
    if spoken.value:
        return {"items": spoken.value}
    fallback = Grammar(0, state["turns_left"], state["retrievals_left"]).fallback()
    return {"items": [], "plan": fallback.plan, "planned": topology.value}


def _hop(solved: Solved) -> Hop:
    hop: Hop = {
        "path": solved["path"],
        "question": solved["question"],
        "raw_question": solved["raw_question"],
        "answer": solved["answer"],
    }
    if "skipped" in solved:
        hop["skipped"] = solved["skipped"]
    return hop


def _once(groups: Iterable[Sequence[Source]]) -> list[Source]:
    """Return the union of passages, each once, in the order of first appearance."""
    seen: dict[str, Source] = {}
    for group in groups:
        for source in group:
            seen.setdefault(source["id"], source)
    return list(seen.values())


def summarise(topology: Topology, share: Share, state: State, spoken: Spoken) -> Changes:
    """Return the solution of a decomposed node: the summariser's answer over the union of its hops."""
    hops = in_order(state["solved"])
    ran = [hop for hop in hops if "skipped" not in hop]
    children: list[Plan] = [hop["workflow"] for hop in ran if hop["workflow"] is not None]
    solution: Solved = {
        "index": state["index"],
        "path": state["path"],
        "question": state["question"],
        "raw_question": state["raw_question"],
        "answer": spoken.value,
        "evidence": _once([hop["evidence"] for hop in ran]),
        "citations": _once([hop["citations"] for hop in ran]),
        "workflow": {
            "path": state["path"],
            "question": state["question"],
            "plan": topology.value,
            "children": children,
        },
        "hops": [line for hop in hops for line in (_hop(hop), *hop["hops"])],
        "turns": topology.turns([hop["turns"] for hop in ran]),
        "retrievals": sum(hop["retrievals"] for hop in ran),
        "budget_hit": any(hop["budget_hit"] for hop in hops)
        or any(_starved(state, share(state, hop["index"])) for hop in ran),
    }
    return {"solution": solution}
