"""Sensitivity: learning rate, batch size and λ, one changed at a time.

    python -m experiments.sensitivity --seeds 3

All arms get the same number of executions: half the batch, twice the iterations.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from experiments.arms import seeded
from experiments.conduct import Experiment
from experiments.learning import tiny_experiment, tiny_options
from experiments.shown import arm_figures, tables

BASE = "as proven"
RATES = (0.1, 0.3, 3.0)
"""Factors on the learning rate."""
BATCHES = (0.25, 0.5, 2.0)
"""Factors on the questions of an iteration."""
LAMBDAS = (0.0, 0.5, 0.8, 1.0)


def sensitivity(seeds: int, iterations: int) -> Experiment:
    """Return the experiment."""
    usual = tiny_options(Path())
    named: dict[str, dict[str, Any]] = {BASE: {}}
    named |= {f"learning rate {usual.lr * factor:.2g}": {"lr": usual.lr * factor} for factor in RATES}
    for factor in BATCHES:
        questions = round(usual.questions * factor)
        named[f"batch {questions * usual.runs}"] = {
            "questions": questions,
            "iterations": max(1, round(iterations / factor)),
        }
    named |= {f"λ {value:g}": {"lam": value} for value in LAMBDAS}
    arms = seeded({name: {"iterations": iterations, **options} for name, options in named.items()}, seeds)
    return Experiment("sensitivity", arms, lambda rows: tables(rows, BASE), arm_figures)


def main() -> int:
    """Run the experiment from the command line."""
    return tiny_experiment(sensitivity, 3, __doc__)


if __name__ == "__main__":
    sys.exit(main())
