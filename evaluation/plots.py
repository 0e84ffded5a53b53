"""Figures of a training run: how it learned, and which topologies it chose. Pure: rows of metrics in, figure out.

Drawn without a display and without matplotlib's global state, so that any process may draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[tuple[int, Mapping[str, float]]]
"""(iteration, tracked name → number), in order."""
TOPOLOGY = "rollout/topology/"
WINDOW = 10
"""Iterations of a moving mean."""


def moving_mean(values: Sequence[float], window: int = WINDOW) -> list[float]:
    """Return the mean of each value and of up to `window` − 1 before it."""
    spans = (values[max(0, end - window) : end] for end in range(1, len(values) + 1))
    return [sum(span) / len(span) for span in spans]


def learning_curve(rows: Rows) -> Figure:
    """Draw reward and score of the sampled executions, what held-out questions scored, and entropy and KL below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for name in ("rollout/reward", "rollout/score"):
        steps, values = _series(rows, name)
        if steps:
            (line,) = upper.plot(steps, moving_mean(values), label=f"{name}, mean of {WINDOW}")
            upper.plot(steps, values, alpha=0.3, color=line.get_color())
    for name in sorted({name for _, row in rows for name in row if _held_out(name)}):
        upper.plot(*_series(rows, name), marker="o", linestyle="--", label=name)
    _finish(upper, "score")
    for name in ("update/entropy", "update/kl"):
        steps, values = _series(rows, name)
        if steps:
            lower.plot(steps, values, label=name)
    _finish(lower, "nat a token")
    lower.set_xlabel("iteration")
    return figure


def topology_shares(rows: Rows) -> Figure | None:
    """Draw the share of runs whose root chose each topology, stacked; None where nothing was planned."""
    from matplotlib.figure import Figure

    planned = [(step, row) for step, row in rows if any(name.startswith(TOPOLOGY) for name in row)]
    names = sorted({name for _, row in planned for name in row if name.startswith(TOPOLOGY)})
    if not planned:
        return None
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    shares = [[row.get(name, 0.0) for _, row in planned] for name in names]
    # steps hold until the next iteration, so that a single one shows too
    steps = [step for step, _ in planned]
    edges = [step - 0.5 for step in steps] + [steps[-1] + 0.5]
    axes.stackplot(
        edges,
        [[*share, share[-1]] for share in shares],
        labels=[name.removeprefix(TOPOLOGY) for name in names],
        step="post",
    )
    axes.set_ylim(0, 1)
    axes.set_xlabel("iteration")
    _finish(axes, "share of runs")
    return figure


def _series(rows: Rows, name: str) -> tuple[list[int], list[float]]:
    found = [(step, row[name]) for step, row in rows if name in row]
    return [step for step, _ in found], [value for _, value in found]


def _held_out(name: str) -> bool:
    """Return whether a metric is a score on held-out questions, rather than its cost."""
    return name.startswith("eval/") and name.rsplit("/", 1)[-1] in ("score", "f1")


def _finish(axes: Axes, label: str) -> None:
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", fontsize="small")
