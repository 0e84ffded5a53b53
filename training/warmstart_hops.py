"""Warm-start rows from decompositions alone: planner (QDS, QDP), decomposers, summariser. No retrieval.

Dependent hops → QDS, comparisons and other independent hops → QDP. A summariser mostly copies the last hop of a
dependent split, so comparisons and yes/no questions are given an equal part. Rarely a hop is shown as skipped for
lack of budget; then the target is "unknown", the only unanswerable case that a summariser meets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from agents.decomposer import MAX_ITEMS
from evaluation.dataset import Example
from evaluation.metrics import is_yes_no, normalize_squad
from graphs.hops import BUDGET, UNKNOWN
from training.decompositions import Split
from training.rows import Row, chance

MAX_ANSWER_WORDS = 12
"""Longer gold answers are left out: a generator is asked for a few words."""
_PLANS = {"serial": "QDS", "parallel": "QDP"}
_BY_TYPE = {
    "bridge": "QDS", "compositional": "QDS", "inference": "QDS", "bridge_comparison": "QDS", "comparison": "QDP",
}  # fmt: skip
"""Question type → plan, for questions without a decomposition."""


def budgets(question: str, seed: int, depth: int) -> dict[str, Any]:
    """Return what the planner is told is left: mostly no limits, sometimes ample ones."""
    inputs: dict[str, Any] = {"depth_left": depth, "turns_left": None, "retrievals_left": None}
    if chance(seed, "turns", question) < 0.15:
        inputs["turns_left"] = 5 + int(4 * chance(seed, "turn", question))
    if chance(seed, "retrievals", question) < 0.15:
        inputs["retrievals_left"] = 4 + int(4 * chance(seed, "retrieval", question))
    return inputs


def root_depth(question: str, seed: int) -> int:
    """Return the depth that a root planner has: as built (2), or as released (1)."""
    return 2 if chance(seed, "depth", question) < 0.7 else 1


def planner_row(question: str, plan: str, source: str, weight: float, left: dict[str, Any]) -> Row:
    """Return a planner row."""
    inputs = {"question": question, **left}
    return Row("planner", inputs, f"<workflow>{plan}</workflow>", source, weight, plan, question)


def decomposing_plans(splits: Sequence[Split], examples: Sequence[Example], seed: int) -> Iterator[Row]:
    """Yield planner rows whose plan is QDS or QDP, and a few where no depth is left for them."""
    found = [(split.question, _PLANS[split.kind], split.source, split.weight) for split in splits]
    split_questions = {split.question for split in splits}
    found += [
        (example.question, _BY_TYPE[example.type], f"{example.dataset}/type", 1.0)
        for example in examples
        if example.type in _BY_TYPE and example.question not in split_questions
    ]
    for question, plan, source, weight in found:
        if chance(seed, "no depth", question) < 0.04:
            left = {"depth_left": 0, "turns_left": None, "retrievals_left": None}
            yield planner_row(question, "R,DS,AG", source, weight, left)
        else:
            left = budgets(question, seed, root_depth(question, seed))
            yield planner_row(question, plan, source, weight, left)


def decomposer_rows(splits: Sequence[Split]) -> Iterator[Row]:
    """Yield a decomposer row of each split; the option is the source, since sources are what to balance."""
    for split in splits:
        items = "".join(f"<q{n}>{step.text}</q{n}>" for n, step in enumerate(split.steps, start=1))
        inputs = {"question": split.question, "max_hops": MAX_ITEMS}
        role = f"{split.kind}_decomposer"
        option = split.source.split("/")[0]
        yield Row(role, inputs, items, split.source, split.weight, option, split.question)


def summariser_rows(splits: Sequence[Split], seed: int) -> Iterator[Row]:
    """Yield a summariser row of each split whose hops and final answer are known."""
    for split in splits:
        hops = [
            {"question": step.question, "answer": step.answer} for step in split.steps if step.question and step.answer
        ]
        answer = split.answer
        if len(hops) < len(split.steps) or not answer or len(answer.split()) > MAX_ANSWER_WORDS:
            continue
        option = _kind_of_summary(answer, hops)
        if chance(seed, "skipped", split.question) < 0.05:
            hops[-1] = {"question": split.steps[-1].text, "answer": "", "skipped": BUDGET}
            answer, option = UNKNOWN, "unknown"
        inputs = {"question": split.question, "hops": hops}
        text = f"<answer>{answer}</answer>"
        yield Row("answer_summariser", inputs, text, split.source, split.weight, option, split.question)


def _kind_of_summary(answer: str, hops: Sequence[dict[str, Any]]) -> str:
    if is_yes_no(answer):
        return "yes/no"
    if normalize_squad(answer) == normalize_squad(hops[-1]["answer"]):
        return "last hop"
    return "compared"
