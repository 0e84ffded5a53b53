"""Regret in hindsight, worked out by hand on given scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.hindsight import hindsight_of
from evaluation.report_markdown import hindsight_section
from evaluation.results import Block
from evaluation.systems import Kind, System
from tests.eval_toy import EXAMPLES


class Given(Block):
    """A block whose scores are given."""

    def __init__(self, system: str, scores: list[float], name: str = "toy") -> None:
        super().__init__(system, name, EXAMPLES, [[] for _ in EXAMPLES])
        object.__setattr__(self, "given", np.array(scores))

    def values(self, metric: str) -> Any:
        assert metric == "score"
        return self.given  # type: ignore[attr-defined]


def system(label: str) -> System:
    """Read a label such as "jade@planner=a;*=b", whose letters are adapter folders ("none": the bare model)."""
    name, _, adapters = label.partition("@")
    pairs = dict(pair.split("=") for pair in adapters.split(";")) if "=" in adapters else {"*": adapters or "shipped"}
    folders = {role: None if folder == "none" else Path(folder) for role, folder in pairs.items()}
    kinds: dict[str, Kind] = {"jade": "planned", "solo": "solo"}
    kind = kinds.get(name, "forced")
    return System(label, kind, name if kind == "forced" else None, folders=folders)


def hindsight(blocks: list[Given]) -> list[dict[str, Any]]:
    return hindsight_of(blocks, [system(block.system) for block in blocks])


def test_the_best_plan_of_each_question_by_hand() -> None:
    blocks = [
        Given("jade@a", [1.0, 0.0, 0.5]), Given("R,AG@a", [0.0, 0.0, 1.0]), Given("QDS/R,AG@a", [1.0, 0.4, 0.0]),
        Given("R,AG@b", [1.0, 1.0, 1.0]), Given("solo@a", [1.0, 1.0, 1.0]), Given("R,AG@a", [1.0, 1.0, 1.0], "other"),
        Given("jade@c", [0.0, 0.0, 0.0]),
    ]  # fmt: skip
    (row,) = hindsight(blocks)
    assert (row["system"], row["set"], row["n"], row["plans"]) == ("jade@a", "toy", 3, ["R,AG", "QDS/R,AG"])
    assert row["score"] == pytest.approx(0.5) and row["best"] == pytest.approx((1.0 + 0.4 + 1.0) / 3)
    assert row["regret"] == pytest.approx(0.3)
    shown = hindsight_section([row])
    assert "| `jade@a` | toy | 3 | R,AG, QDS/R,AG | 0.500 | 0.800 | 0.300 |" in shown
    assert hindsight_section([]) == ""


def test_who_plans_may_differ() -> None:
    blocks = [Given("jade@planner=a;*=b", [0.0, 1.0]), Given("R,AG@b", [1.0, 0.0]), Given("R,AG@a", [1.0, 1.0])]
    (row,) = hindsight(blocks)
    assert row["regret"] == 0.5 and row["best"] == 1.0
    assert hindsight([Given("jade@planner=a;answer_generator=c;*=b", [0.0]), Given("R,AG@b", [1.0])]) == []


def test_systems_belong_together_by_who_executes_and_not_by_how_they_are_written() -> None:
    written = [
        ("jade", "R,AG@shipped"),
        ("jade@planner=a", "R,AG@none"),
        ("jade@*=b;planner=a", "R,AG@query_rewriter=b;*=b"),
    ]
    for planned, forced in written:
        (row,) = hindsight([Given(planned, [0.0, 1.0]), Given(forced, [1.0, 1.0])])
        assert (row["system"], row["regret"]) == (planned, 0.5)
    assert hindsight([Given("jade@planner=a", [0.0]), Given("R,AG", [1.0])]) == [], "one executes untuned, one does not"
    other = replace(system("R,AG@none"), other=frozenset({"*"}))
    assert hindsight_of([Given("jade@none", [0.0]), Given(other.label, [1.0])], [system("jade@none"), other]) == []


def test_a_planner_that_chose_best_regrets_nothing() -> None:
    (row,) = hindsight([Given("jade", [1.0, 0.7, 0.2]), Given("AG", [0.9, 0.7, 0.0])])
    assert row["regret"] == 0.0 and row["plans"] == ["AG"]
