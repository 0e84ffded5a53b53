"""Credit: four estimators, both weightings of the loss, and what a role sees of the run.

    python -m experiments.credit --seeds 5

All arms get the same number of executions. Arms in which every role sees everything (`select: full`) begin from a warm
start that learned to read such prompts.
"""

from __future__ import annotations

import sys
from itertools import product

from experiments.arms import seeded
from experiments.conduct import Experiment
from experiments.learning import tiny_experiment
from experiments.shown import arm_figures, tables

ESTIMATORS = ("tree_gae", "terminal_gae", "broadcast", "loo")
WEIGHTS = ("trajectory", "token")
VIEWS = ("role", "full")


def credit(seeds: int, iterations: int) -> Experiment:
    """Return the experiment."""
    named = {
        f"{estimator}, by {weights}, sees {view}": {
            "estimator": estimator, "weights": weights, "select": view, "iterations": iterations
        }
        for view, weights, estimator in product(VIEWS, WEIGHTS, ESTIMATORS)
    }  # fmt: skip
    return Experiment("credit", seeded(named, seeds), lambda rows: tables(rows, next(iter(named))), arm_figures)


def main() -> int:
    """Run the experiment from the command line."""
    return tiny_experiment(credit, 5, __doc__)


if __name__ == "__main__":
    sys.exit(main())
