"""The planner's exact probabilities over the legal plans of a question, and so its true entropy.

Constrained decoding over a token trie makes a plan's probability a product of a few numbers that teacher forcing
yields; no sampling, no estimate. They speak of the decoder that is held to the grammar, whatever decodes in the runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agents.planner import PLANNER, grammar
from agents.role import Prompts

if TYPE_CHECKING:
    from agents.model import SharedModel

Probabilities = Mapping[str, float]


@dataclass(frozen=True)
class PlannerView:
    """What the planner of a system says about some questions of a set."""

    system: str
    set: str
    by_question: Mapping[str, Probabilities]
    """Question id → plan → probability."""

    def to_json(self) -> dict[str, Any]:
        """Return one row of the report: averaged probabilities, and entropies in nat."""
        known = list(self.by_question.values())
        plans = list(dict.fromkeys(plan for row in known for plan in row))
        mean = {plan: sum(row.get(plan, 0.0) for row in known) / len(known) for plan in plans}
        return {
            "system": self.system,
            "set": self.set,
            "n": len(known),
            "entropy": sum(map(entropy, known)) / len(known),
            "entropy_of_mean": entropy(mean),
            "probabilities": mean,
            "by_question": {key: dict(row) for key, row in self.by_question.items()},
        }


def entropy(probabilities: Probabilities) -> float:
    """Return −Σ p log p in nat.

    >>> round(entropy({"R,AG": 0.5, "QDS": 0.5}), 4)
    0.6931
    """
    return -math.fsum(p * math.log(p) for p in probabilities.values() if p > 0)


def root_inputs(question: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the planner sees at the root of a run under some options (`graphs.options.Options`)."""
    inputs = {
        "question": question.strip(),
        "depth_left": options.get("max_depth") or 0,
        "turns_left": options.get("max_turns"),
        "retrievals_left": options.get("max_retrievals"),
    }
    return {**inputs, "main": inputs["question"], "trace": []} if options.get("select") == "full" else inputs


def plan_probabilities(
    shared: SharedModel,
    adapter: str | None,
    prompts: Prompts,
    questions: Sequence[str],
    options: Mapping[str, Any],
    tau: float = 1.0,
) -> list[dict[str, float]]:
    """Return for each question plan → probability; they sum to 1.

    Args:
        shared: The model, with the adapter loaded.
        adapter: The planner's adapter; None = the base.
        prompts: The prompt set.
        questions: Root questions.
        options: Options of the runs: depth, budgets, select.
        tau: Temperature above 0.
    """
    from agents.model_choices import choice_probabilities

    asked, plans = [], []
    for question in questions:
        inputs = root_inputs(question, options)
        constraint = grammar(inputs).constraint()
        asked.append((shared.encode(PLANNER.messages(inputs, prompts)).ids, constraint.choices))
        plans.append([workflow.plan for workflow in grammar(inputs).plans])
    found = choice_probabilities(shared, asked, adapter, tau)
    return [dict(zip(names, row.values(), strict=True)) for names, row in zip(plans, found, strict=True)]
