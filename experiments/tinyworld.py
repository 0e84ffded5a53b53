"""Learning, proven in the tiny world: PPO from a mediocre warm start, on questions and facts that it never saw.

    python -m experiments tinyworld --seeds 2                        one arm and its control
    python -m experiments tinyworld --grid --seeds 5                 estimators × train modes
    python -m experiments tinyworld --estimators "['tree_gae', 'loo']" --train "['all', 'planner']"

The control permutes R across questions: whatever it gains was not learned from the outcome. Held-out F1 is reported
greedily and at τ = 1; regret is that of the chosen plans against the best one, both in the oracle's hands.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Sequence
from itertools import product
from typing import Any

from agents.errors import ConfigError
from evaluation.report_markdown import change
from evaluation.statistics import interval
from experiments.arms import Row, seeded
from experiments.conduct import Experiment
from experiments.learning import Learned, learn_all, learned, tiny_experiment
from experiments.measured import mean
from experiments.shown import arm_figures, comparison_table, gains, spread

__all__ = ["Learned", "gains", "learn_all", "table", "tinyworld"]

ESTIMATORS = ("tree_gae", "terminal_gae", "broadcast", "loo")
MODES = ("all", "planner", "executors")


def tinyworld(
    seeds: int, iterations: int, *, grid: bool = False, estimators: str | None = None, train: str | None = None
) -> Experiment:
    """Return the experiment: an arm for each estimator and train mode, and the first one's control.

    Args:
        seeds: Training runs of each arm.
        iterations: Of each training run.
        grid: All estimators and train modes, but for those that the next two leave out.
        estimators: As on the command line: a name, or a list of names; None = all of a grid, else tree_gae.
        train: Likewise; None = all three of a grid, else all roles together.

    Raises:
        ConfigError: An unknown name, or a list that is none.
    """
    pairs = product(_names("estimators", estimators, ESTIMATORS, grid), _names("train", train, MODES, grid))
    named: dict[str, dict[str, Any]] = {
        f"{estimator}, {mode}": {"estimator": estimator, "train": mode, "iterations": iterations}
        for estimator, mode in pairs
    }
    first = next(iter(named))
    named[f"{first}, R permuted"] = {**named[first], "control": True}

    def show(rows: Sequence[Row]) -> str:
        parts = (table([learned(row) for row in rows]), comparison_table(rows, first))
        return "\n\n".join(part for part in parts if part)

    return Experiment("tinyworld", seeded(named, seeds), show, arm_figures)


def _names(option: str, text: str | None, allowed: Sequence[str], everything: bool) -> list[str]:
    """Return the names that an option lists, each once.

    Raises:
        ConfigError: There is none, or an unknown one.
    """
    if text is None:
        return list(allowed) if everything else [allowed[0]]
    try:
        given = ast.literal_eval(text) if text.lstrip().startswith("[") else [text]
    except (ValueError, SyntaxError):
        given = []
    if not given or any(name not in allowed for name in given):
        raise ConfigError(
            f'--{option} {text!r}: give some of {", ".join(allowed)}, such as --{option} "{list(allowed[:2])}"'
        )
    return list(dict.fromkeys(given))


def table(results: Sequence[Learned]) -> str:
    """Return a Markdown table; intervals are over held-out questions, each averaged over seeds."""
    lines = [
        "| estimator | train | seeds | F1 before | F1 after | gain (95 %) | gain over seeds | F1 at τ = 1 | regret |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((item.estimator, item.train, item.control) for item in results):
        mine = [item for item in results if (item.estimator, item.train, item.control) == key]
        gain = interval(gains(mine))
        f1, sampled, lost = (
            f"{_mean(mine, name, 'before'):.3f} → {_mean(mine, name, 'after'):.3f}"
            for name in ("f1", "sampled_f1", "regret")
        )
        first, last = f1.split(" → ")
        name = f"{key[0]}, R permuted" if key[2] else key[0]
        shown = change(gain.mean, gain.low, gain.high)
        apart = spread([item.after.f1 - item.before.f1 for item in mine], "{:+.3f}")
        cells = [name, key[1], str(len(mine)), first, last, shown, apart, sampled, lost]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(items: Sequence[Learned], name: str, when: str) -> float:
    return mean([float(getattr(getattr(item, when), name)) for item in items])


def main() -> int:
    """Run the experiment from the command line."""
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--grid", action="store_true", help="all estimators and train modes")
    own.add_argument("--estimators", help=f"a name or a list of names of {', '.join(ESTIMATORS)}; cuts the grid")
    own.add_argument("--train", help=f"a name or a list of names of {', '.join(MODES)}; cuts the grid")
    return tiny_experiment(tinyworld, 2, __doc__, own)


if __name__ == "__main__":
    sys.exit(main())
