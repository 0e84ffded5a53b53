"""The rows of the tiny world's experiments as tables and figures: one line an arm, with intervals over questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from evaluation.figures import whiskers
from evaluation.report_markdown import change, detectable, p_value, table, with_interval
from evaluation.statistics import compare_all, interval
from experiments.arms import Row, by_arm
from experiments.learning import Learned, learned
from experiments.measured import mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLLAPSED = 0.98
"""From this share of single-round plans on, a policy has collapsed (`alarm_topology` of `training.ppo`)."""
Column = Callable[[Sequence[Learned]], str]
"""All seeds of an arm → what a cell shows."""


def scores(group: Sequence[Learned]) -> list[tuple[float, ...]]:
    """Return greedy F1 as (seeds, held-out questions)."""
    return [item.after.scores for item in group]


def gains(group: Sequence[Learned]) -> list[list[float]]:
    """Return the change in greedy F1 by training as (seeds, held-out questions)."""
    return [
        [after - start for start, after in zip(item.before.scores, item.after.scores, strict=True)] for item in group
    ]


def f1(group: Sequence[Learned]) -> str:
    """Show greedy F1 with its 95 % interval over questions, each averaged over seeds."""
    found = interval(scores(group))
    return with_interval(found.mean, found.low, found.high)


def before(group: Sequence[Learned]) -> str:
    """Show greedy F1 of the warm start that the arm began with."""
    return f"{mean([item.before.f1 for item in group]):.3f}"


def over_seeds(group: Sequence[Learned]) -> str:
    """Show the lowest and the highest F1 of a training run, which the interval over questions knows nothing of."""
    return spread([item.after.f1 for item in group], "{:.3f}")


def spread(values: Sequence[float], shown: str) -> str:
    """Show the least and the greatest of at least two numbers; one alone has no spread."""
    return f"{shown.format(min(values))} to {shown.format(max(values))}" if len(values) > 1 else ""


def of_measure(name: str, digits: int = 2) -> Column:
    """Return a column with the mean of a field of `Measure` after training."""
    return lambda group: f"{mean([float(getattr(item.after, name)) for item in group]):.{digits}f}"


def collapsed(group: Sequence[Learned]) -> str:
    """Show how many seeds ended with single rounds alone."""
    count = sum(item.after.single >= COLLAPSED for item in group)
    return f"{count} of {len(group)}" if count else ""


def seeds(group: Sequence[Learned]) -> str:
    """Show how many training runs the line stands for."""
    return str(len(group))


COLUMNS: Mapping[str, Column] = {
    "seeds": seeds, "F1 before": before, "F1 (95 %)": f1, "F1 over seeds": over_seeds,
    "F1 at τ = 1": of_measure("sampled_f1", 3), "regret": of_measure("regret", 3), "turns": of_measure("turns"),
    "retrievals": of_measure("retrievals"),
}  # fmt: skip
"""What every experiment shows."""


def groups(rows: Sequence[Row]) -> dict[str, list[Learned]]:
    """Return arm name → its training runs, one a seed."""
    return {name: [learned(row) for row in mine] for name, mine in by_arm(rows).items()}


def arm_table(rows: Sequence[Row], columns: Mapping[str, Column] = COLUMNS) -> str:
    """Return a Markdown table with one line an arm."""
    found = groups(rows)
    lines = [[name, *(show(mine) for show in columns.values())] for name, mine in found.items()]
    return table(["arm", *columns], lines)


def comparison_table(rows: Sequence[Row], baseline: str, apart: bool | None = None) -> str:
    """Return a Markdown table of every arm's F1 against a baseline's, paired by question; Holm-corrected.

    Empty where the baseline has no row, or nothing is to be compared.

    Args:
        rows: Of all arms.
        baseline: Name of the arm that the others are compared with.
        apart: Compare gains (F1 after − before) and not F1; None = where arms began from different warm starts, since
            the better start alone would win.
    """
    found = groups(rows)
    if baseline not in found or len(found) < 2:
        return ""
    if apart is None:
        apart = len({item.before.scores for mine in found.values() for item in mine}) > 1
    compared = compare_all({name: (gains if apart else scores)(mine) for name, mine in found.items()}, baseline)
    lines = [
        [
            name,
            change(item.difference, item.low, item.high),
            by_seed(found[name], found[baseline], apart),
            detectable(item.detectable),
            p_value(item.p_corrected),
            item.verdict,
        ]
        for name, item in compared.items()
    ]
    what = "Δgain in F1" if apart else "ΔF1"
    head = [f"arm against {baseline}", f"{what} (95 %)", "over seeds", "detectable", "p (Holm)", "verdict"]
    note = "Not all arms begin from the same warm start, so it is their gains that are compared: F1 after − before."
    return "\n\n".join([note, table(head, lines)] if apart else [table(head, lines)])


def by_seed(mine: Sequence[Learned], other: Sequence[Learned], apart: bool) -> str:
    """Show the least and the greatest difference in F1 (or, of arms that began apart, in its gain) of one seed."""
    theirs = {item.seed: _reached(item, apart) for item in other}
    return spread([_reached(item, apart) - theirs[item.seed] for item in mine if item.seed in theirs], "{:+.3f}")


def _reached(item: Learned, apart: bool) -> float:
    return item.after.f1 - item.before.f1 if apart else item.after.f1


def arm_figures(rows: Sequence[Row]) -> Mapping[str, Figure]:
    """Draw F1 of every arm with its 95 % interval, one line an arm, and each of its seeds as a dot."""
    from matplotlib.figure import Figure

    found = groups(rows)
    figure = Figure(figsize=(8, 1.2 + 0.3 * len(found)), layout="constrained")
    axes = figure.subplots()
    for place, mine in enumerate(found.values()):
        f1 = interval(scores(mine))
        axes.errorbar([f1.mean], [place], xerr=whiskers((f1.mean, f1.low, f1.high)), fmt="o", color="C0")
        axes.plot([item.after.f1 for item in mine], [place] * len(mine), ".", color="0.6", zorder=0)
    axes.set_yticks(range(len(found)), list(found), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("F1 (held out, greedy)")
    axes.grid(axis="x", alpha=0.3)
    return {"f1-by-arm.png": figure}


def tables(
    rows: Sequence[Row], baseline: str, columns: Mapping[str, Column] = COLUMNS, apart: bool | None = None
) -> str:
    """Return both tables; `apart` as `comparison_table` takes it."""
    return "\n\n".join(part for part in (arm_table(rows, columns), comparison_table(rows, baseline, apart)) if part)
