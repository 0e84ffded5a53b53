"""What a planner × executor matrix says: planning against a fixed workflow, the selector on and off, the meter.

The meter is a difference of differences (question by question): what training the planner is worth over trained
executors, minus what it is worth over untrained ones. Above 0, the executors were the bottleneck of the plans, which
is the paper's strategic-operational mismatch; at 0, planner and executors could as well be trained apart. The paper
(Tables 3 and 4) prints single numbers without intervals; here every claim has one, and what the sample cannot resolve
is said to be unresolved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from evaluation.macro import macro_compare
from evaluation.mismatch_config import WITH, WITHOUT, MismatchConfig
from evaluation.report import MACRO, Sampling
from evaluation.report_markdown import table
from evaluation.results import Block, Floats
from evaluation.statistics import Comparison, compare, holm

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRIC = "f1"
Scores = Mapping[str, Sequence[Floats]]
"""System → for each set its F1 per question."""


def mismatch_of(config: MismatchConfig, blocks: Sequence[Block], report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the matrix and the three comparisons.

    Args:
        config: Who plans and who executes.
        blocks: Every system on every set.
        report: As `evaluation.report.build_report` returned it.
    """
    scores = _scores(blocks)
    sampling = Sampling(config.level, config.resamples, config.seed)
    planners, executors = list(config.sides("planners")), list(config.sides("executors"))
    name = MACRO if len(report["sets"]) > 1 else report["sets"][0]
    cells = [
        {"planner": p, "executors": e, **report["means"][config.planned(p, e)][name][METRIC]}
        for e in executors
        for p in planners
    ]
    fixed = [
        {"plan": plan, "executors": e, **report["means"][config.forced(plan, e)][name][METRIC]}
        for e in executors
        for plan in config.plans()
    ]
    planning = [(p, e, _compare(scores, config.planned(p, e), config.forced(config.fixed, e), sampling))
                for e in executors for p in planners]  # fmt: skip
    selector = [(e, _compare(scores, config.forced(WITH, e), config.forced(WITHOUT, e), sampling))
                for e in executors if config.selector]  # fmt: skip
    meter = _meter(config, scores, sampling)
    return {
        "metric": METRIC,
        "over": name,
        "fixed_plan": config.fixed,
        "matrix": cells,
        "fixed": fixed,
        "planning": _rows([{"planner": p, "executors": e} for p, e, _ in planning], [c for *_, c in planning]),
        "selector": _rows([{"executors": e} for e, _ in selector], [c for _, c in selector]),
        "meter": None if meter is None else {**asdict(meter), "sign": meter.sign},
    }


def _scores(blocks: Sequence[Block]) -> Scores:
    found: dict[str, list[Floats]] = {}
    for block in blocks:
        found.setdefault(block.system, []).append(block.values(METRIC))
    return found


def _compare(scores: Scores, system: str, baseline: str, sampling: Sampling) -> Comparison:
    return _paired(scores[system], scores[baseline], sampling)


def _paired(mine: Sequence[Floats], theirs: Sequence[Floats], sampling: Sampling) -> Comparison:
    if len(mine) == 1:
        return compare(mine[0], theirs[0], **sampling.keywords())
    return macro_compare(mine, theirs, **sampling.keywords())


def _meter(config: MismatchConfig, scores: Scores, sampling: Sampling) -> Comparison | None:
    """Return [F1(p₁,e₁) − F1(p₀,e₁)] − [F1(p₁,e₀) − F1(p₀,e₀)]; None where a side has one member only."""
    planners, executors = list(config.sides("planners")), list(config.sides("executors"))
    if len(planners) < 2 or len(executors) < 2:
        return None
    (p0, p1), (e0, e1) = (planners[0], planners[-1]), (executors[0], executors[-1])
    cell = {(p, e): scores[config.planned(p, e)] for p in (p0, p1) for e in (e0, e1)}
    over_trained = [a - b for a, b in zip(cell[p1, e1], cell[p0, e1], strict=True)]
    over_untrained = [a - b for a, b in zip(cell[p1, e0], cell[p0, e0], strict=True)]
    return _paired(over_trained, over_untrained, sampling)


def _rows(names: Sequence[Mapping[str, str]], found: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Return comparisons with Holm's correction over the rows of one table."""
    corrected = holm([comparison.p for comparison in found]) if found else []
    rows = []
    for name, comparison, p in zip(names, found, corrected, strict=True):
        full = replace(comparison, p_corrected=p)
        rows.append({**name, **asdict(full), "sign": full.sign})
    return rows


def sentences(mismatch: Mapping[str, Any]) -> list[str]:
    """Return the findings, one sentence each: planning by set of executors, then the meter."""
    verdicts = {1: "helps", -1: "hurts"}
    lines = []
    for row in mismatch["planning"]:
        verdict = verdicts.get(row["sign"])
        effect = f"planning {verdict} them" if verdict else "the sample does not resolve whether planning helps them"
        lines.append(
            f"On the {row['executors']} executors, with the {row['planner']} planner, {effect}: "
            f"{_span(row)} F1 against the fixed {mismatch['fixed_plan']} (detectable {row['detectable']:.3f})."
        )
    meter = mismatch["meter"]
    if meter is not None:
        says = {
            1: "training the planner pays more over trained executors: a mismatch that joint training mends",
            -1: "training the planner pays less over trained executors: no mismatch of the paper's kind",
            0: "the sample does not resolve whether training the planner pays more over trained executors",
        }[meter["sign"]]
        lines.append(f"Mismatch meter {_span(meter)} F1 (detectable {meter['detectable']:.3f}): {says}.")
    return lines


def _span(row: Mapping[str, Any]) -> str:
    return f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"


def render_mismatch(mismatch: Mapping[str, Any]) -> str:
    """Return the Markdown of the matrix, its comparisons and the findings."""
    cells = {(cell["planner"], cell["executors"]): cell for cell in mismatch["matrix"]}
    planners = list(dict.fromkeys(planner for planner, _ in cells))
    plans = list(dict.fromkeys(cell["plan"] for cell in mismatch["fixed"]))
    forced = {(cell["plan"], cell["executors"]): cell for cell in mismatch["fixed"]}
    executors = list(dict.fromkeys(name for _, name in cells))
    head = ["executors", *(f"planner {name}" for name in planners), *(f"fixed {plan}" for plan in plans)]
    rows = [
        [name, *(_cell(cells[planner, name]) for planner in planners), *(_cell(forced[plan, name]) for plan in plans)]
        for name in executors
    ]
    parts = [
        "## Planner × executors",
        f"F1 over {mismatch['over']}, with bootstrap intervals.",
        table(head, rows),
        "\n".join(f"* {sentence}" for sentence in sentences(mismatch)),
    ]
    if mismatch["selector"]:
        lines = [
            [row["executors"], f"{row['baseline']:.3f}", f"{row['mean']:.3f}", _span(row), f"{row['detectable']:.3f}",
             {1: "helps", -1: "hurts", 0: "not resolved"}[row["sign"]]]
            for row in mismatch["selector"]
        ]  # fmt: skip
        shown = table(["executors", WITHOUT, WITH, "difference", "detectable", "the selector"], lines)
        parts += ["### The document selector on and off", shown]
    return "\n\n".join(parts)


def _cell(cell: Mapping[str, Any]) -> str:
    return f"{cell['mean']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]"


def matrix_figure(mismatch: Mapping[str, Any]) -> Figure:
    """Draw F1 by executors, a line for each planner and a dashed one for the fixed workflow."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    panel = figure.subplots()
    executors = list(dict.fromkeys(cell["executors"] for cell in mismatch["matrix"]))
    for planner in dict.fromkeys(cell["planner"] for cell in mismatch["matrix"]):
        mine = [cell for cell in mismatch["matrix"] if cell["planner"] == planner]
        panel.errorbar(
            executors, [cell["mean"] for cell in mine], yerr=_spread(mine), fmt="o-", label=f"{planner} planner"
        )
    mine = [cell for cell in mismatch["fixed"] if cell["plan"] == mismatch["fixed_plan"]]
    means = [cell["mean"] for cell in mine]
    panel.errorbar(
        executors, means, yerr=_spread(mine), fmt="s--", color="0.4", label=f"fixed {mismatch['fixed_plan']}"
    )
    panel.set_xlabel("executors")
    panel.set_ylabel(f"F1, {mismatch['over']}")
    panel.set_ylim(bottom=0)
    panel.legend(fontsize=8)
    return figure


def _spread(cells: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    return [[cell["mean"] - cell["low"] for cell in cells], [cell["high"] - cell["mean"] for cell in cells]]
