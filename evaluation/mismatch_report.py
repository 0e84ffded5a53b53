"""What a planner × executor matrix says: planning against a fixed workflow, the selector on and off, the meter.

The meter is a difference of differences (question by question): what the last planner instead of the first is worth
over the last executors, minus what it is worth over the first ones; mostly trained ones over untrained. Above 0, the
executors were the bottleneck of the plans, which is the paper's strategic-operational mismatch; at 0, planner and
executors could as well be trained apart. Its sign is not that of either worth, so both are told. The paper
(Tables 3 and 4) prints single numbers without intervals; here every claim has one, and what the sample cannot resolve
is said to be unresolved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from evaluation.figures import whiskers
from evaluation.macro import macro_compare
from evaluation.mismatch_config import MismatchConfig
from evaluation.report import MACRO, Sampling
from evaluation.report_markdown import change, detectable, table, with_interval
from evaluation.results import Block, Floats
from evaluation.statistics import Comparison, compare, corrected

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRIC = "f1"
Scores = Mapping[str, Sequence[Floats]]
"""System → for each set its F1 per question."""


def mismatch_of(config: MismatchConfig, blocks: Sequence[Block], report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the matrix, planning and each plan against the fixed workflow, and what training changes in both.

    Args:
        config: Who plans and who executes.
        blocks: Every system on every set.
        report: As `evaluation.report.build_report` returned it.
    """
    planners, executors = list(config.sides("planners")), list(config.sides("executors"))
    name = MACRO if len(report["sets"]) > 1 else report["sets"][0]
    means = {system: report["means"][system][name][METRIC] for system in report["systems"]}
    pairs = [(p, e) for e in executors for p in planners]
    forced = [(plan, e) for e in executors for plan in config.plans()]
    meter = _Meter(config, _scores(blocks))
    return {
        "metric": METRIC,
        "over": name,
        "fixed_plan": config.fixed,
        "matrix": [{"planner": p, "executors": e, **means[config.planned(p, e)]} for p, e in pairs],
        "fixed": [{"plan": plan, "executors": e, **means[config.forced(plan, e)]} for plan, e in forced],
        "planning": _rows(
            [({"planner": p, "executors": e}, meter.against_fixed(config.planned(p, e), e)) for p, e in pairs]
        ),
        "plans": _rows(
            [
                ({"plan": plan, "executors": e}, meter.against_fixed(config.forced(plan, e), e))
                for plan, e in forced
                if plan != config.fixed
            ]
        ),
        "coadaptation": _rows([({"plan": plan}, meter.of_plan(plan)) for plan in config.also if len(executors) > 1]),
        "meter": meter.of_planner() if min(len(planners), len(executors)) > 1 else None,
    }


def _scores(blocks: Sequence[Block]) -> Scores:
    found: dict[str, list[Floats]] = {}
    for block in blocks:
        found.setdefault(block.system, []).append(block.values(METRIC))
    return found


class _Meter:
    """Paired comparisons between systems, and differences of differences between sets of executors."""

    def __init__(self, config: MismatchConfig, scores: Scores) -> None:
        self._config, self._scores = config, scores
        self._sampling = Sampling(config.level, config.resamples, config.seed)
        planners, executors = list(config.sides("planners")), list(config.sides("executors"))
        self._planners, self._executors = (planners[0], planners[-1]), (executors[0], executors[-1])

    def against_fixed(self, system: str, executors: str) -> Comparison:
        """Compare a system with the fixed workflow on the same executors."""
        return self._paired(self._scores[system], self._scores[self._config.forced(self._config.fixed, executors)])

    def of_planner(self) -> dict[str, Any]:
        """Return [F1(p₁,e₁) − F1(p₀,e₁)] − [F1(p₁,e₀) − F1(p₀,e₀)]; 0 is the first side of a list, 1 the last."""
        first, last = self._planners
        gains = [self._minus(self._config.planned(last, e), self._config.planned(first, e)) for e in self._executors]
        found = self._paired(gains[1], gains[0])
        names = {"planners": list(self._planners), "executors": list(self._executors)}
        return {**names, **asdict(found), "sign": found.sign}

    def of_plan(self, plan: str) -> Comparison:
        """Return [F1(plan,e₁) − F1(fixed,e₁)] − [F1(plan,e₀) − F1(fixed,e₀)]."""
        config = self._config
        gains = [self._minus(config.forced(plan, e), config.forced(config.fixed, e)) for e in self._executors]
        return self._paired(gains[1], gains[0])

    def _minus(self, system: str, other: str) -> list[Floats]:
        return [a - b for a, b in zip(self._scores[system], self._scores[other], strict=True)]

    def _paired(self, mine: Sequence[Floats], theirs: Sequence[Floats]) -> Comparison:
        if len(mine) == 1:
            return compare(mine[0], theirs[0], **self._sampling.keywords())
        return macro_compare(mine, theirs, **self._sampling.keywords())


def _rows(found: Sequence[tuple[Mapping[str, str], Comparison]]) -> list[dict[str, Any]]:
    """Return named comparisons with Holm's correction over the rows of one table."""
    rows = []
    for (names, _), full in zip(found, corrected([item for _, item in found]), strict=True):
        rows.append({**names, **asdict(full), "sign": full.sign})
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
            f"{_span(row)} F1 against the fixed {mismatch['fixed_plan']} (detectable {detectable(row['detectable'])})."
        )
    if mismatch["meter"] is not None:
        lines.append(_meter_sentence(mismatch["meter"]))
    return lines


def _meter_sentence(meter: Mapping[str, Any]) -> str:
    """Return what going from the first planner to the last is worth over the last executors, beside the first ones.

    More over one than over the other says nothing of either's own sign, so both gains are told.
    """
    (first, last), (before, after) = meter["planners"], meter["executors"]
    where = f"over the {after} executors than over the {before} ones"
    says = {
        1: f"is worth more {where}, as the paper's mismatch would have it",
        -1: f"is worth less {where}, which is not the paper's mismatch",
        0: f"may be worth more or less {where}: the sample does not resolve it",
    }[meter["sign"]]
    return (
        f"Mismatch meter {_span(meter)} F1 (detectable {detectable(meter['detectable'])}): the {last} planner in place "
        f"of the {first} one {says} ({meter['mean']:+.3f} against {meter['baseline']:+.3f})."
    )


def _span(row: Mapping[str, Any]) -> str:
    return change(row["difference"], row["low"], row["high"])


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
    parts += _plan_tables(mismatch)
    return "\n\n".join(parts)


def _plan_tables(mismatch: Mapping[str, Any]) -> list[str]:
    """Return each plan against the fixed one, and what training the executors changes in that."""
    if not mismatch["plans"]:
        return []
    fixed, words = mismatch["fixed_plan"], {1: "helps", -1: "hurts", 0: "not resolved"}
    lines = [
        [row["plan"], row["executors"], f"{row['baseline']:.3f}", f"{row['mean']:.3f}", _span(row),
         detectable(row["detectable"]), words[row["sign"]]]
        for row in mismatch["plans"]
    ]  # fmt: skip
    head = ["plan", "executors", f"F1 of {fixed}", "F1", "difference", "detectable", "the plan"]
    parts = ["### Plans against the fixed workflow", table(head, lines)]
    if mismatch["coadaptation"]:
        words = {1: "more", -1: "less", 0: "not resolved"}
        lines = [
            [row["plan"], f"{row['baseline']:+.3f}", f"{row['mean']:+.3f}", _span(row), detectable(row["detectable"]),
             words[row["sign"]]]
            for row in mismatch["coadaptation"]
        ]  # fmt: skip
        head = ["plan", "gain, first executors", "gain, last", "change", "detectable", "pays after training"]
        parts += ["### Co-adaptation: what training the executors changes in that", table(head, lines)]
    return parts


def _cell(cell: Mapping[str, Any]) -> str:
    return with_interval(cell["mean"], cell["low"], cell["high"])


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


def plans_figure(mismatch: Mapping[str, Any]) -> Figure:
    """Draw what each plan adds to the fixed one, with intervals, a line for each set of executors."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    panel = figure.subplots()
    plans = list(dict.fromkeys(row["plan"] for row in mismatch["plans"]))
    executors = list(dict.fromkeys(row["executors"] for row in mismatch["plans"]))
    for number, name in enumerate(executors):
        mine = [row for row in mismatch["plans"] if row["executors"] == name]
        places = [plans.index(row["plan"]) + 0.12 * (number - (len(executors) - 1) / 2) for row in mine]
        gains = [row["difference"] for row in mine]
        spread = whiskers(*((row["difference"], row["low"], row["high"]) for row in mine))
        panel.errorbar(places, gains, yerr=spread, fmt="o", label=f"{name} executors")
    panel.axhline(0, color="0.5", lw=0.8)
    panel.set_xticks(range(len(plans)), plans)
    panel.set_ylabel(f"F1, {mismatch['over']}: plan − fixed {mismatch['fixed_plan']}")
    panel.legend(fontsize=8)
    return figure


def _spread(cells: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    return whiskers(*((cell["mean"], cell["low"], cell["high"]) for cell in cells))
