"""The planner: reads a node's question and chooses its workflow (paper Table 1, A_plan).

One planner plans every node, the root and the hops alike: the released sub-planner, whose choices were
overwritten, is gone. Menu, validator and constrained decoder come from one `Grammar`.
"""

from __future__ import annotations

from collections.abc import Mapping

from agents.call import Constraint
from agents.role import Inputs, Role
from agents.view import field, trace_lines
from agents.workflow import TAG, Grammar

_EXAMPLES = (
    ("When did Canada become independent?", "R,AG"),
    ("Who is the mayor of the city where Mozart was born?", "QDS"),
    ("Which is taller, K2 or Mont Blanc?", "QDP"),
    ("what club did that ronaldo guy start at", "QR,R,DS,AG"),
    ("What is two plus two?", "AG"),
)


def grammar(inputs: Inputs) -> Grammar:
    """Return the grammar of one node; budgets that are absent are unlimited."""
    return Grammar(inputs.get("depth_left", 0), inputs.get("turns_left"), inputs.get("retrievals_left"))


def _user(inputs: Inputs) -> str:
    left = [f"Left: depth {inputs.get('depth_left', 0)}"]
    left += [f"{name} {inputs[key]}" for name, key in _BUDGETS if inputs.get(key) is not None]
    return "\n".join([*trace_lines(inputs), field("Question", inputs["question"]), ", ".join(left)])


_BUDGETS = (("turns", "turns_left"), ("retrievals", "retrievals_left"))


def _parse(text: str, inputs: Inputs) -> str:
    return grammar(inputs).parse(text).plan


def _fallback(inputs: Inputs, text: str) -> str:
    return grammar(inputs).fallback().plan


def _constraint(inputs: Inputs) -> Constraint:
    return grammar(inputs).constraint()


def _slots(inputs: Inputs) -> Mapping[str, str]:
    """Return the menu and the examples that are legal here: few variants, so heads stay cached."""
    legal = grammar(inputs)
    plans = {workflow.plan for workflow in legal.plans}
    shown = [(question, plan) for question, plan in _EXAMPLES if plan in plans][:3]
    lines = [f"Question: {question}\n<{TAG}>{plan}</{TAG}>" for question, plan in shown]
    return {"menu": legal.menu(), "examples": "\n".join(lines)}


PLANNER: Role[str] = Role(
    name="planner",
    instruction=f"Choose the plan that answers the question.\n{{menu}}\nReply only <{TAG}>plan</{TAG}>.",
    examples="{examples}",
    user=_user,
    parse=_parse,
    fallback=_fallback,
    max_new_tokens=24,
    stop=f"</{TAG}>",
    constraint=_constraint,
    slots=_slots,
)
