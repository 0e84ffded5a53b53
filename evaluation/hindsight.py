"""What a planner lost against the best plan, where other plans of the same executors were asked the same questions.

The best plan is known in hindsight only, among the plans that were forced and the planner's own choice. As the best of
several answers it profits from luck: the regret is an upper bound of what a better planner could gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from agents.planner import PLANNER
from agents.workflow import BY_TEXT

if TYPE_CHECKING:
    from evaluation.results import Block

METRIC = "score"
"""What is regretted: the training score, without costs."""
_PLANNED = "jade"


def hindsight_of(blocks: Sequence[Block]) -> list[dict[str, Any]]:
    """Return one row for each planned system and set of which other plans are known.

    Systems belong together when the same adapters execute; who plans may differ, since a forced node has no planner.

    Returns:
        "system", "set", "n" (questions), "plans" (forced ones), "score" (the planner's mean), "best" (mean of the best
        plan of each question), "regret" (best − score).
    """
    rows = []
    for block in blocks:
        name, executors = _parts(block.system)
        if name != _PLANNED:
            continue
        others = {
            plan: other
            for other in blocks
            for plan, others_executors in [_parts(other.system)]
            if (other.set, others_executors) == (block.set, executors) and plan.split("/")[0] in BY_TEXT
        }
        if not others:
            continue
        own = block.values(METRIC)
        best = np.max([own, *(other.values(METRIC) for other in others.values())], axis=0)
        known = {"system": block.system, "set": block.set, "n": len(own), "plans": list(others)}
        rows.append(
            {**known, "score": float(own.mean()), "best": float(best.mean()), "regret": float((best - own).mean())}
        )
    return rows


def _parts(system: str) -> tuple[str, str]:
    """Return what runs and who executes of a system's label: ("jade", "b") of "jade@planner=a;*=b"."""
    name, _, adapters = system.partition("@")
    pairs = sorted(pair for pair in adapters.split(";") if not pair.startswith(f"{PLANNER.name}="))
    return name, pairs[0].removeprefix("*=") if len(pairs) == 1 else ";".join(pairs)
