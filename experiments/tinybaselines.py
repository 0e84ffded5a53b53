"""Trained baselines in the tiny world: is it the joint training that helps, or any training of anything?

    python -m experiments tinybaselines --seeds 5

Joint training beside one side of it alone and beside fixed workflows, from one warm start, with the same number of
executions and updates; what they reach is compared, since a fixed workflow may begin elsewhere. `baselines` is the
same on the real model.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from experiments.arms import seeded
from experiments.conduct import Experiment
from experiments.learning import tiny_experiment
from experiments.shown import arm_figures, tables

JOINT = "joint"
ARMS: Mapping[str, Mapping[str, Any]] = {
    JOINT: {},
    "planner alone": {"train": "planner"},
    "executors alone": {"train": "executors"},
    "R,AG, always": {"workflow": "R,AG"},
    "QR,R,DS,AG, always": {"workflow": "QR,R,DS,AG"},
    "QDS, its hops R,AG": {"workflow": "QDS/R,AG"},
}
"""Name → options of `training.ppo` that differ from the tiny world's."""


def tinybaselines(seeds: int, iterations: int) -> Experiment:
    """Return the experiment."""
    named = {name: {**options, "iterations": iterations} for name, options in ARMS.items()}
    return Experiment("tinybaselines", seeded(named, seeds), partial(tables, baseline=JOINT, apart=False), arm_figures)


def main() -> int:
    """Run the experiment from the command line."""
    return tiny_experiment(tinybaselines, 5, __doc__)


if __name__ == "__main__":
    sys.exit(main())
