"""Penalties: what prices on turns and retrievals buy, and where planning collapses into single-round RAG.

    python -m experiments.penalties --seeds 3
    python -m experiments.penalties --prices 0.3 --both --iterations 16 --output runs/experiments/penalties-long

Arms pay α for turns, β for retrievals, or both, at several prices. The adaptive controller (`training.duals`) is then
given, instead of its prices, the costs that each arm with both prices reached, seed by seed, and the two are compared:
in F1, and in what they cost on the same questions.
The figure shows held-out F1 against retrievals.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evaluation.figures import pareto, whiskers
from evaluation.report_markdown import change, detectable, p_value, table
from evaluation.statistics import compare, corrected, interval
from experiments.arms import Arm, Row, seeded
from experiments.conduct import Experiment
from experiments.learning import Learned, learned, tiny_experiment
from experiments.measured import mean
from experiments.shown import COLUMNS, collapsed, groups, of_measure, scores, tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FREE, BOTH, CONTROLLER = "no price", "both ", "controller at the cost of both "
PRICES = (0.1, 0.3, 1.0)
SETTLED = 3
"""Last iterations whose mean cost is what an arm reached."""
GUARDED = {"dual_lr": 0.15, "on_alarm": "rollback", "alarm_window": 3}


def penalties(seeds: int, iterations: int, *, prices: Sequence[float] = PRICES, both: bool = False) -> Experiment:
    """Return the experiment.

    Args:
        seeds: Training runs of each arm.
        iterations: Of each training run.
        prices: Of α and β.
        both: Leave out the arms in which one of them is free.
    """
    named: dict[str, dict[str, Any]] = {FREE: {}}
    for price in dict.fromkeys(prices):
        if not both:
            named |= {f"α {price:g}": {"alpha": price}, f"β {price:g}": {"beta": price}}
        named |= {f"{BOTH}{price:g}": {"alpha": price, "beta": price}}
    arms = seeded({name: {**options, "iterations": iterations} for name, options in named.items()}, seeds)
    return Experiment("penalties", arms, show, figures, controllers)


def controllers(rows: Sequence[Row]) -> list[Arm]:
    """Return the controller's arms: the charged costs that each arm with both prices reached are its targets."""
    arms = []
    for row in rows:
        if not str(row["arm"]).startswith(BOTH):
            continue
        last = [metrics for _, metrics in learned(row).curve[-SETTLED:]]
        targets = {
            "target_turns": mean([metrics["rollout/charged_turns"] for metrics in last]),
            "target_retrievals": mean([metrics["rollout/charged_retrievals"] for metrics in last]),
        }
        options = {"iterations": row["options"]["iterations"], **targets, **GUARDED}
        arms.append(Arm(f"{CONTROLLER}{str(row['arm']).removeprefix(BOTH)}", int(row["seed"]), options))
    return arms


def show(rows: Sequence[Row]) -> str:
    """Return the tables: arms, arms against no price, and controllers against the arms whose costs they hold."""
    columns = {**COLUMNS, "single rounds": of_measure("single"), "collapsed": collapsed}
    return "\n\n".join(part for part in (tables(rows, FREE, columns), against(rows), against(rows, "sampled_")) if part)


def against(rows: Sequence[Row], how: str = "") -> str:
    """Return a Markdown table of each controller against the arm whose costs it holds; empty without controllers.

    F1, turns and retrievals are paired by question, each corrected by Holm over the controllers. Rows without costs by
    question show the means of both alone.

    Args:
        rows: Of all arms.
        how: "" = greedily; "sampled_" = at τ = 1, as the costs were held in training; empty where rows do not know it.
    """
    found = groups(rows)
    pairs = {
        name: (mine, other)
        for name, mine in found.items()
        if name.startswith(CONTROLLER) and (other := found.get(f"{BOTH}{name.removeprefix(CONTROLLER)}")) is not None
    }
    if how:
        pairs = {name: pair for name, pair in pairs.items() if all(_of(f"{how}scores", group) for group in pair)}
    reached = [[_of(f"{how}scores", group) for group in pair] for pair in pairs.values()]
    f1 = corrected([compare(mine, other) for mine, other in reached])
    turns, retrievals = (cost_cells(cost, list(pairs.values()), how) for cost in ("turns", "retrievals"))
    lines = [
        [
            name,
            change(item.difference, item.low, item.high),
            detectable(item.detectable),
            p_value(item.p_corrected),
            item.verdict,
            *costs,
        ]
        for name, item, *costs in zip(pairs, f1, turns, retrievals, strict=True)
    ]
    named = f"controller − fixed prices{', at τ = 1' if how else ''}"
    head = [named, "ΔF1 (95 %)", "detectable", "p (Holm)", "verdict", "turns", "retrievals"]
    return table(head, lines) if lines else ""


def cost_cells(cost: str, pairs: Sequence[tuple[Sequence[Learned], Sequence[Learned]]], how: str = "") -> list[str]:
    """Return for each pair of arms both mean costs and, where they are known by question, the paired difference.

    Args:
        cost: "turns" or "retrievals".
        pairs: All seeds of a controller, and of the arm whose costs it holds.
        how: As `against` takes it.
    """
    named = f"{how}{cost}_by_question"
    shown = of_measure(cost) if not how else lambda group: f"{mean([mean(seed) for seed in _of(named, group)]):.2f}"
    means = [" against ".join(shown(group) for group in pair) for pair in pairs]
    known = [place for place, pair in enumerate(pairs) if all(_of(named, group) for group in pair)]
    items = corrected([compare(_of(named, pairs[place][0]), _of(named, pairs[place][1])) for place in known])
    words = {1: "more", -1: "fewer", 0: "not resolved"}
    for place, item in zip(known, items, strict=True):
        means[place] += (
            f": {change(item.difference, item.low, item.high, 2)}, p {p_value(item.p_corrected)}, {words[item.sign]}"
        )
    return means


def _of(name: str, group: Sequence[Learned]) -> list[tuple[float, ...]]:
    """Return a field of `Measure` as (seeds, held-out questions); empty where a seed's row does not hold it."""
    found = [getattr(item.after, name) for item in group]
    return found if all(found) else []


def figures(rows: Sequence[Row]) -> Mapping[str, Figure]:
    """Draw F1 (with intervals) against retrievals, one point an arm, and the Pareto front."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes, points = figure.subplots(), []
    for name, mine in groups(rows).items():
        cost, f1 = mean([run.after.retrievals for run in mine]), interval(scores(mine))
        points.append((cost, f1.mean))
        marker = "*" if name.startswith(CONTROLLER) else "s" if name == FREE else "o"
        axes.errorbar([cost], [f1.mean], yerr=whiskers((f1.mean, f1.low, f1.high)), fmt=marker, label=name)
    front = [points[place] for place in pareto(points)]
    axes.plot([cost for cost, _ in front], [score for _, score in front], "k--", lw=0.8, zorder=0)
    axes.set_xlabel("retrievals a question (held out, greedy)")
    axes.set_ylabel("F1")
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return {"f1-against-retrievals.png": figure}


def main() -> int:
    """Run the experiment from the command line."""
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--prices", type=float, nargs="+", default=PRICES, help="of α and β (default 0.1 0.3 1)")
    own.add_argument("--both", action="store_true", help="leave out the arms in which one of them is free")
    return tiny_experiment(penalties, 3, __doc__, own)


if __name__ == "__main__":
    sys.exit(main())
