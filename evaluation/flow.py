"""Where questions go: from their hops through the chosen workflow to what came of it, as counts and as a diagram."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from evaluation.results import Block

STAGES = ("hops", "plan", "result")
"""What a question passes, in order."""
RESULTS = ("right", "partly right", "wrong", "no answer")
"""Exact match, some F1, none, and a failed run."""
_GAP = 0.03
"""Between two bars of a stage, as a share of all runs."""
_WIDTH = 0.08
"""Of a bar, where stages are 1 apart."""
Bars = dict[str, tuple[float, float]]
"""Name → (bottom, height), as shares of all runs."""


def flows_of(blocks: Sequence[Block]) -> list[dict[str, Any]]:
    """Return how many runs of each system went each way: "system", one key a stage, and "n"."""
    counts: Counter[tuple[str, str, str, str]] = Counter()
    for block in blocks:
        scores = zip(block.runs, block.run_values("em"), block.run_values("f1"), strict=True)
        for (record, example), em, f1 in scores:
            hops = "1 hop" if example.hops == 1 else f"{example.hops or '?'} hops"
            result = RESULTS[3] if record.failed else RESULTS[0] if em == 1 else RESULTS[1] if f1 > 0 else RESULTS[2]
            counts[block.system, hops, record.plan or "(no plan)", result] += 1
    return [dict(zip(("system", *STAGES), key, strict=True)) | {"n": n} for key, n in sorted(counts.items())]


def flow_figure(report: Mapping[str, Any]) -> Figure | None:
    """Draw the flow of every system that chose among workflows; None where none did.

    Args:
        report: With "flows" as `flows_of` returned them, and "systems".
    """
    found = {name: [row for row in report["flows"] if row["system"] == name] for name in report["systems"]}
    chosen = {name: rows for name, rows in found.items() if len({row["plan"] for row in rows}) > 1}
    if not chosen:
        return None
    from matplotlib.figure import Figure

    columns = min(2, len(chosen))
    lines = -(-len(chosen) // columns)
    figure = Figure(figsize=(6.5 * columns, 4.2 * lines), layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    for panel, (name, rows) in zip(panels, chosen.items(), strict=False):
        _draw(panel, rows)
        panel.set_title(name, fontsize=9)
    for panel in panels[len(chosen) :]:
        panel.set_axis_off()
    return figure


def bars_of(rows: Sequence[Mapping[str, Any]], stage: str) -> Bars:
    """Return the stacked bars of a stage, the first name on top."""
    total = sum(row["n"] for row in rows)
    names = RESULTS if stage == "result" else sorted({str(row[stage]) for row in rows})
    heights = {name: sum(row["n"] for row in rows if row[stage] == name) / total for name in names}
    bars, top = {}, 1.0
    for name, height in heights.items():
        if height:
            bars[name] = (top - height, height)
            top -= height + _GAP
    return bars


def ribbons_of(
    rows: Sequence[Mapping[str, Any]], left: str, right: str
) -> Iterator[tuple[str, str, float, float, float]]:
    """Yield (left name, right name, lower edge left, lower edge right, height) between two neighbouring stages."""
    total = sum(row["n"] for row in rows)
    starts, ends = ({name: sum(bar) for name, bar in bars_of(rows, stage).items()} for stage in (left, right))
    for source in starts:
        for target in ends:
            height = sum(row["n"] for row in rows if (row[left], row[right]) == (source, target)) / total
            if height:
                starts[source] -= height
                ends[target] -= height
                yield source, target, starts[source], ends[target], height


def _draw(panel: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    colours = {name: f"C{place % 10}" for place, name in enumerate(bars_of(rows, "plan"))}
    for place, stage in enumerate(STAGES):
        for name, (bottom, height) in bars_of(rows, stage).items():
            panel.bar(place, height, _WIDTH, bottom, color=colours.get(name, "0.35") if stage == "plan" else "0.35")
            side = "right" if place == 0 else "left"
            away = -_WIDTH if place == 0 else _WIDTH
            panel.text(place + away, bottom + height / 2, f"{name} {height:.0%}", ha=side, va="center", fontsize=8)
    for place, (left, right) in enumerate(pairwise(STAGES)):
        for source, target, low, end, height in ribbons_of(rows, left, right):
            plan = target if right == "plan" else source
            _ribbon(panel, place + _WIDTH / 2, place + 1 - _WIDTH / 2, low, end, height, colours[plan])
    panel.set_xlim(-0.4, 2.6)
    panel.set_axis_off()


def _ribbon(panel: Axes, x0: float, x1: float, y0: float, y1: float, height: float, colour: str) -> None:
    """Draw one band of constant height, bent at both ends."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    middle = (x0 + x1) / 2
    points = [
        (x0, y0), (middle, y0), (middle, y1), (x1, y1),
        (x1, y1 + height), (middle, y1 + height), (middle, y0 + height), (x0, y0 + height), (x0, y0),
    ]  # fmt: skip
    codes = [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3, Path.CLOSEPOLY]
    panel.add_patch(PathPatch(Path(points, codes), facecolor=colour, alpha=0.35, linewidth=0))
