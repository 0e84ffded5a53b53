"""The figures of an evaluation: F1 against cost with the Pareto front, workflow shares and flow, validity by role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evaluation.flow import flow_figure
from evaluation.report import MACRO

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LABEL = 40
"""Longest label of a system in a figure, in characters."""


def figures_of(report: Mapping[str, Any]) -> dict[str, Figure]:
    """Return file name → figure.

    Args:
        report: As `evaluation.report.build_report` returned it.
    """
    flow = flow_figure(report)
    return {
        "f1-against-tokens.png": cost_figure(report, "tokens", "prompt and generated tokens a question"),
        "f1-against-retrievals.png": cost_figure(report, "retrievals", "retrievals a question"),
        "workflows.png": workflow_figure(report),
        "validity.png": validity_figure(report),
        **({} if flow is None else {"workflow-flow.png": flow}),
    }


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the places of the points that no other one beats in (lower cost, higher score), cheapest first.

    >>> pareto([(1.0, 0.2), (2.0, 0.1), (3.0, 0.5)])
    [0, 2]
    """
    order = sorted(range(len(points)), key=lambda place: (points[place][0], -points[place][1]))
    front: list[int] = []
    for place in order:
        if not front or points[place][1] > points[front[-1]][1]:
            front.append(place)
    return front


def whiskers(*found: tuple[float, float, float]) -> list[list[float]]:
    """Return the lengths of error bars, (2, n): below and above each mean, as matplotlib takes them.

    Never below 0, which matplotlib refuses: the interval of equal values may miss their mean by rounding, and that of
    few resamples by more.

    Args:
        found: (mean, low, high) of each bar.

    >>> whiskers((0.5, 0.25, 0.75), (1.0, 0.5, 0.9))
    [[0.25, 0.5], [0.25, 0.0]]
    """
    below, above = (
        [max(0.0, mean - low) for mean, low, _ in found],
        [max(0.0, high - mean) for mean, _, high in found],
    )
    return [below, above]


def cost_figure(report: Mapping[str, Any], metric: str, label: str) -> Figure:
    """Draw F1 (with intervals) against a cost, one panel a set and one for the macro mean."""
    names = [MACRO, *report["sets"]] if len(report["sets"]) > 1 else list(report["sets"])
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure, panels = _panels(rows, columns, 3.6 * columns, 3.0 * rows + 0.3 * len(report["systems"]))
    for panel, name in zip(panels, names, strict=False):
        _cost_panel(panel, report, name, metric)
        panel.set_xlabel(label, fontsize=8)
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    panels[0].set_ylabel("F1")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", fontsize=8)
    return figure


def _cost_panel(panel: Axes, report: Mapping[str, Any], name: str, metric: str) -> None:
    points = []
    for place, system in enumerate(report["systems"]):
        means = report["means"][system][name]
        cost, f1 = means[metric]["mean"], means["f1"]
        points.append((cost, f1["mean"]))
        spread = whiskers((f1["mean"], f1["low"], f1["high"]))
        panel.errorbar([cost], [f1["mean"]], yerr=spread, fmt="o", color=f"C{place % 10}", label=_short(system))
    front = pareto(points)
    panel.plot([points[place][0] for place in front], [points[place][1] for place in front], "k--", lw=0.8, zorder=0)
    panel.set_title("mean over sets" if name == MACRO else name, fontsize=9)
    panel.set_ylim(bottom=0)


def workflow_figure(report: Mapping[str, Any]) -> Figure:
    """Draw which workflow every system ran, as shares of its runs."""
    plans = list(dict.fromkeys(row["group"] for row in report["plans"]))
    shares = {(row["system"], row["group"]): row["share"] for row in report["plans"]}
    figure, (panel,) = _panels(1, 1, 8, 1.2 + 0.4 * len(report["systems"]))
    left = [0.0] * len(report["systems"])
    for place, plan in enumerate(plans):
        widths = [shares.get((system, plan), 0.0) for system in report["systems"]]
        panel.barh(range(len(left)), widths, left=left, color=f"C{place % 10}", label=plan)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    panel.set_yticks(range(len(left)), [_short(system) for system in report["systems"]], fontsize=8)
    panel.invert_yaxis()
    panel.set_xlabel("share of runs")
    panel.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def validity_figure(report: Mapping[str, Any]) -> Figure:
    """Draw the share of valid responses by system and role."""
    counts: dict[tuple[str, str], tuple[int, int]] = {}
    for row in report["validity"]:
        calls, valid = counts.get((row["system"], row["role"]), (0, 0))
        counts[row["system"], row["role"]] = (calls + row["calls"], valid + row["valid"])
    roles = list(dict.fromkeys(role for _, role in counts))
    cells = [[_share(counts.get((system, role))) for role in roles] for system in report["systems"]]
    figure, (panel,) = _panels(1, 1, 2.5 + 1.1 * len(roles), 1.5 + 0.45 * len(report["systems"]))
    panel.imshow(cells, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
    for y, line in enumerate(cells):
        for x, value in enumerate(line):
            panel.text(x, y, "" if value != value else f"{value:.0%}", ha="center", va="center", fontsize=8)
    panel.set_xticks(range(len(roles)), [role.replace("_", "\n") for role in roles], fontsize=8)
    panel.set_yticks(range(len(cells)), [_short(system) for system in report["systems"]], fontsize=8)
    panel.set_title("valid responses", fontsize=9)
    return figure


def _share(cell: tuple[int, int] | None) -> float:
    return float("nan") if cell is None or not cell[0] else cell[1] / cell[0]


def _panels(rows: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure  # half a second; no window, no global state

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, [panel for line in axes for panel in line]


def _short(label: str) -> str:
    return label if len(label) <= _LABEL else f"{label[:12]}…{label[-(_LABEL - 13) :]}"
