"""What a planner lost against the best plan, where other plans of the same executors were asked the same questions.

The best plan is known in hindsight only, among the plans that were forced and the planner's own choice. As the best of
several answers it profits from luck: the regret is an upper bound of what a better planner could gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from agents.planner import PLANNER
from agents.roster import ROLES

if TYPE_CHECKING:
    from pathlib import Path

    from evaluation.results import Block
    from evaluation.systems import System

METRIC = "score"
"""What is regretted: the training score, without costs."""


def hindsight_of(blocks: Sequence[Block], systems: Sequence[System]) -> list[dict[str, Any]]:
    """Return one row for each planned system and set of which other plans are known.

    Systems belong together when the same adapters execute, however they were written ("jade" and "R,AG@shipped", say);
    who plans may differ, since a forced node has no planner.

    Args:
        blocks: Every system on every set.
        systems: Those systems.

    Returns:
        "system", "set", "n" (questions), "plans" (forced ones), "score" (the planner's mean), "best" (mean of the best
        plan of each question), "regret" (best − score).
    """
    rows, known = [], {system.label: system for system in systems}
    for block in blocks:
        planned = known[block.system]
        if planned.kind != "planned":
            continue
        others = {
            str(system.workflow): other
            for other in blocks
            for system in [known[other.system]]
            if system.kind == "forced" and other.set == block.set and _executors(system) == _executors(planned)
        }
        if not others:
            continue
        own = block.values(METRIC)
        best = np.max([own, *(other.values(METRIC) for other in others.values())], axis=0)
        row = {"system": block.system, "set": block.set, "n": len(own), "plans": list(others)}
        rows.append(
            {**row, "score": float(own.mean()), "best": float(best.mean()), "regret": float((best - own).mean())}
        )
    return rows


def _executors(system: System) -> list[tuple[Path | None, bool, str]]:
    """Return who plays each executor and how it is told: adapter folder, whether on the second base, and words."""
    found = []
    for name, role in ROLES.items():
        if name == PLANNER.name:
            continue
        key = name if name in system.folders else "*"
        folder = system.folders.get(key)
        spoken = system.prompts.text(role)
        found.append((None if folder is None else folder.resolve(), key in system.other, spoken))
    return found
