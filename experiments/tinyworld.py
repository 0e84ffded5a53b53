"""Learning, proven in the tiny world: PPO from a mediocre warm start, on questions and facts that it never saw.

    python -m experiments.tinyworld --seeds 2                        one arm and its control
    python -m experiments.tinyworld --grid --seeds 5                 estimators × train modes

The control permutes R across questions: whatever it gains was not learned from the outcome. Held-out F1 is reported
greedily and at τ = 1; regret is that of the chosen plans against the best one, both in the oracle's hands.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

from evaluation.statistics import interval
from experiments.learning import Learned, learn_all, mean
from training.tinystart import warm_start

ESTIMATORS = ("tree_gae", "terminal_gae", "broadcast", "loo")
MODES = ("all", "planner", "executors")


def arms(grid: bool, seeds: int) -> Iterator[dict[str, Any]]:
    """Yield the options of every training run."""
    pairs: Sequence[tuple[str, str]] = tuple(product(ESTIMATORS, MODES)) if grid else (("tree_gae", "all"),)
    for (estimator, train), seed in product(pairs, range(seeds)):
        yield {"estimator": estimator, "train": train, "seed": seed}
    for seed in range(seeds):
        yield {"estimator": "tree_gae", "train": "all", "seed": seed, "control": True}


def table(results: Sequence[Learned]) -> str:
    """Return a Markdown table; intervals are over held-out questions, each averaged over seeds."""
    lines = [
        "| estimator | train | seeds | F1 before | F1 after | gain (95 %) | F1 at τ = 1 | regret |",
        "|---|---|---|---|---|---|---|---|",
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
        shown = f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
        lines.append(f"| {name} | {key[1]} | {len(mine)} | {first} | {last} | {shown} | {sampled} | {lost} |")
    return "\n".join(lines)


def gains(results: Sequence[Learned]) -> list[float]:
    """Return the change in greedy F1 of each held-out question, averaged over training runs."""
    changes = [
        [after - before for before, after in zip(item.before.scores, item.after.scores, strict=True)]
        for item in results
    ]
    return [mean(column) for column in zip(*changes, strict=True)]


def _mean(items: Sequence[Learned], name: str, when: str) -> float:
    return mean([float(getattr(getattr(item, when), name)) for item in items])


def main() -> int:
    """Run the arms and print the table."""
    parser = argparse.ArgumentParser(prog="python -m experiments.tinyworld", description=__doc__)
    parser.add_argument("--grid", action="store_true", help="all estimators and train modes")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--steps", type=int, default=450, help="of the warm start")
    parser.add_argument("--processes", type=int, default=2, help="arms trained at once, one thread each")
    parser.add_argument("--results", type=Path, help="append one JSON line per training run")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    with tempfile.TemporaryDirectory() as scratch:
        began = time.process_time()
        start = warm_start(Path(scratch), steps=given.steps)
        logging.info("warm start: loss %.3f, %.0f CPU s", start.losses[-1], time.process_time() - began)
        results = []
        every = [{"iterations": given.iterations, **arm} for arm in arms(given.grid, given.seeds)]
        for arm, result in zip(every, learn_all(start, Path(scratch), every, given.processes), strict=True):
            results.append(result)
            logging.info("%s\n%s", arm, table(results[-1:]))
            if given.results is not None:
                with given.results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(result)) + "\n")
    sys.stdout.write(table(results) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
