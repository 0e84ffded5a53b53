"""An evaluation's report as Markdown: tables that a reader can check against report.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Any

from evaluation.report import MACRO
from evaluation.statistics import alpha_of

_LISTED = 50
"""Failed questions that are listed one by one; report.json has all."""
_ALL = "All sets together. Where a number cannot be known of all runs, those that it is over stand in brackets."
_VERDICT = {0: "not resolved", 1: "higher", -1: "lower"}
_UNITS = {"turns": 2, "retrievals": 2, "tokens": 0}
"""Metric that is no share → decimals."""


def render(report: Mapping[str, Any]) -> str:
    """Return the whole report."""
    parts = [
        "# Evaluation",
        _conditions(report),
        *(_means(report, name) for name in _names(report)),
        _comparisons(report),
        _groups(report, "plans", "Chosen workflow", f"The plan of the question itself. {_ALL}"),
        _plans_by_set(report),
        _groups(report, "hops", "By hops of the question", _ALL),
        _groups(report, "types", "By question type", ""),
        _validity(report),
        _planner(report),
        hindsight_section(report.get("hindsight", ())),
        _failed(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def summary(report: Mapping[str, Any]) -> str:
    """Return what a terminal of 80 columns shows at the end: each system on each set, and against the baseline."""
    names, lines = _names(report), []
    wide = max(map(len, names))
    for system in report["systems"]:
        lines.append(system)
        for name in names:
            means = report["means"][system][name]
            f1, costs = number(means["f1"], bare=False), f"{number(means['turns'], 2)} turns"
            failed = f", {means['failed']} failed" if means["failed"] else ""
            told = f"{number(means['em'])} EM, {costs}, {number(means['tokens'], 0)} tokens{failed}"
            lines.append(f"  {name:>{wide}}  F1 {f1}, {told}")
    found = {(row["system"], row["set"]): row for row in report["comparisons"] if row["metric"] == "f1"}
    for system in dict.fromkeys(system for system, _ in found):
        lines.append(f"{system} − {report['baseline']}, F1 (and the smallest difference that the sample finds)")
        for name in names:
            row = found[system, name]
            f1, least = change(row["difference"], row["low"], row["high"]), detectable(row["detectable"])
            sure = f"p {p_value(row['p_corrected'])}: {_VERDICT[row['sign']]}"
            lines.append(f"  {name:>{wide}}  {f1}, finds {least}, {sure}")
    return "\n".join(lines)


def _names(report: Mapping[str, Any]) -> list[str]:
    return [MACRO, *report["sets"]] if len(report["sets"]) > 1 else list(report["sets"])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; bars inside cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def with_interval(mean: float, low: float, high: float, digits: int = 3) -> str:
    """Return a mean and its interval, such as "0.312 [0.265, 0.360]"."""
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def change(difference: float, low: float, high: float, digits: int = 3) -> str:
    """Return a difference and its interval with their signs, such as "+0.020 [-0.033, +0.075]"."""
    return f"{difference:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def detectable(effect: float, digits: int = 3) -> str:
    """Return the smallest effect that a sample finds; "–" where nothing varied, so that nothing can be said of it."""
    return f"{effect:.{digits}f}" if 1e-12 < effect < inf else "–"


def p_value(value: float | None) -> str:
    """Return a p-value, "–" for none; never "0.0000", which no p is."""
    if value is None:
        return "–"
    return f"{value:.4f}" if value >= 0.0001 else "<0.0001"


def _conditions(report: Mapping[str, Any]) -> str:
    lines = [
        f"* {key}: {value}" for key, value in report["conditions"].items() if not isinstance(value, Mapping | list)
    ]
    for key, value in report["conditions"].items():
        if isinstance(value, Mapping):
            lines += [f"* {key} of {name}: {text}" for name, text in value.items()]
    return "\n".join(lines)


def number(cell: Mapping[str, Any], digits: int = 3, bare: bool = True) -> str:
    """Return a mean, with its interval where it has one and `bare` is not asked for."""
    if cell["mean"] is None:
        return "–"
    if bare or "low" not in cell:
        return f"{cell['mean']:.{digits}f}"
    return with_interval(cell["mean"], cell["low"], cell["high"], digits)


def _means(report: Mapping[str, Any], name: str) -> str:
    k = report["conditions"].get("top_k", "k")
    head = [
        "system", "EM", "F1", "cover-EM", "EM′", "F1′", "cover-EM′", f"recall@{k}", "recall of all retrieved",
        "passage F1", "citation P", "turns", "retrievals", "calls", "prompt tokens", "generated", "model s", "failed",
    ]  # fmt: skip
    rows = []
    for system in report["systems"]:
        means = report["means"][system][name]
        cells = [number(means["em"]), number(means["f1"], bare=False)]
        cells += [number(means[key]) for key in ("cover_em", "em_jade", "f1_jade", "cover_em_jade")]
        cells += [number(means[key]) for key in ("recall_at_k", "recall_retrieved", "support_f1")]
        cells += [_some(means["citation_precision"])]
        cells += [number(means[key], 2) for key in ("turns", "retrievals", "calls")]
        cells += [number(means[key], 0) for key in ("prompt_tokens", "generated_tokens")]
        cells += [number(means["seconds"], 2), str(means["failed"])]
        rows.append([f"`{system}`", *cells])
    count = report["means"][report["systems"][0]][name]["questions"]
    title = f"## Mean over {len(report['sets'])} sets" if name == MACRO else f"## {name}"
    level = report["conditions"].get("level", 0.95)
    note = (
        f"{count} questions each. In brackets the {level:.0%} bootstrap interval; ′ = the JADE code's normaliser, "
        f"without it SQuAD's. Recall@{k} is of the first {k} distinct passages that a run retrieved, in their order, "
        "whatever the number of its searches. Citation P is over the answers that cite (their number in brackets)."
    )
    return f"{title}\n\n{note}\n\n{table(head, rows)}"


def _some(cell: Mapping[str, Any]) -> str:
    return "–" if cell["mean"] is None else f"{cell['mean']:.3f} ({cell['n']})"


def _comparisons(report: Mapping[str, Any]) -> str:
    if not report["comparisons"]:
        return ""
    head = ["set", "metric", "system", "baseline", "difference", "p", "p (Holm)", "detectable", "verdict"]
    level = report["conditions"].get("level", 0.95)
    head[4] = f"difference [{level:.0%}]"
    rows = []
    order = {name: place for place, name in enumerate(_names(report))}
    for row in sorted(report["comparisons"], key=lambda row: order[row["set"]]):
        digits = _UNITS.get(row["metric"], 3)
        span = change(row["difference"], row["low"], row["high"], digits)
        means = [f"`{row['system']}` {row['mean']:.{digits}f}", f"{row['baseline']:.{digits}f}"]
        sure = [
            p_value(row["p"]),
            p_value(row["p_corrected"]),
            detectable(row["detectable"], digits),
            _VERDICT[row["sign"]],
        ]
        rows.append([row["set"], row["metric"], *means, span, *sure])
    note = (
        f"Paired by question against `{report['baseline']}`: bootstrap interval, permutation p, Holm's correction "
        "within each metric (the means over sets by themselves, and all sets together), and the smallest difference "
        "that a sample like this one detects (80 % power). No sign is claimed inside it, "
        f"nor where p (Holm) is not below {alpha_of(level):g}."
    )
    return f"## Against the baseline\n\n{note}\n\n{table(head, rows)}"


def _groups(report: Mapping[str, Any], key: str, title: str, note: str) -> str:
    k = report["conditions"].get("top_k", "k")
    rows = []
    for row in report[key]:
        shares = [_known(row, metric, 3) for metric, _ in _SHARES]
        costs = [_known(row, metric, digits) for metric, _, digits in _COSTS]
        rows.append([f"`{row['system']}`", row["group"], str(row["n"]), f"{row['share']:.1%}", *shares, *costs])
    names = [*(name.format(k=k) for _, name in _SHARES), *(name for _, name, _ in _COSTS)]
    body = table(["system", key.removesuffix("s"), "runs", "share", *names], rows)
    return "\n\n".join(part for part in (f"## {title}", note, body) if part)


_SHARES = (
    ("em", "EM"), ("f1", "F1"), ("cover_em", "cover-EM"), ("recall_at_k", "recall@{k}"), ("support_f1", "passage F1"),
    ("citation_precision", "citation P"),
)  # fmt: skip
"""What a group of runs shows between 0 and 1: metric and head; report.json has all metrics."""
_COSTS = (("turns", "turns", 2), ("retrievals", "retrievals", 2), ("calls", "calls", 2), ("tokens", "tokens", 0),
          ("seconds", "model s", 2))  # fmt: skip
"""What a group of runs cost: metric, head and decimals."""


def _known(row: Mapping[str, Any], metric: str, digits: int) -> str:
    """Return a group's mean; where it is over a part of the runs, their number in brackets."""
    if row[metric] is None:
        return "–"
    part = f" ({row['known'][metric]})" if metric in row["known"] else ""
    return f"{row[metric]:.{digits}f}{part}"


def _plans_by_set(report: Mapping[str, Any]) -> str:
    """Return which workflows each system ran on each set; empty where there is but one set."""
    if len(report["sets"]) < 2:
        return ""
    found: dict[tuple[str, str], list[str]] = {}
    for row in report["plans_by_set"]:
        found.setdefault((row["set"], row["system"]), []).append(f"{row['group']} {row['share']:.0%}")
    rows = [[name, f"`{system}`", "; ".join(shares)] for (name, system), shares in found.items()]
    return f"### Workflows by set\n\n{table(['set', 'system', 'shares of the runs'], rows)}"


def _validity(report: Mapping[str, Any]) -> str:
    """Return valid responses by role, all sets together."""
    counts: dict[tuple[str, str], list[int]] = {}
    for row in report["validity"]:
        cell = counts.setdefault((row["system"], row["role"]), [0, 0, 0])
        for place, name in enumerate(("calls", "valid", "truncated")):
            cell[place] += row[name]
    rows = [
        [f"`{system}`", role, str(calls), f"{valid / calls:.1%}", f"{truncated / calls:.1%}"]
        for (system, role), (calls, valid, truncated) in counts.items()
    ]
    return f"## Valid responses by role\n\n{table(['system', 'role', 'calls', 'valid', 'truncated'], rows)}"


def _planner(report: Mapping[str, Any]) -> str:
    if not report.get("planner"):
        return ""
    plans = list(dict.fromkeys(plan for row in report["planner"] for plan in row["probabilities"]))
    rows = [
        [f"`{row['system']}`", row["set"], str(row["n"]), f"{row['entropy']:.3f}", f"{row['entropy_of_mean']:.3f}",
         *(f"{row['probabilities'].get(plan, 0.0):.3f}" for plan in plans)]
        for row in report["planner"]
    ]  # fmt: skip
    tau = report["conditions"].get("temperature") or 1.0
    greedy = "" if report["conditions"].get("temperature") else ", though the runs are greedy"
    note = (
        f"Exact probabilities over the legal plans (teacher-forced, τ = {tau:g}{greedy}, constrained to the grammar), "
        "averaged over questions; entropies in nat: the mean over questions, and that of the averaged probabilities."
    )
    head = ["system", "set", "questions", "entropy", "of the mean", *plans]
    return f"## The planner\n\n{note}\n\n{table(head, rows)}"


def hindsight_section(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what a planner lost against the best plan (`evaluation.hindsight`); empty without rows."""
    if not rows:
        return ""
    lines = [
        [f"`{row['system']}`", row["set"], str(row["n"]), ", ".join(row["plans"]), f"{row['score']:.3f}",
         f"{row['best']:.3f}", f"{row['regret']:.3f}"]
        for row in rows
    ]  # fmt: skip
    note = (
        "Score of the planner's choices beside the best of them and the forced plans, chosen question by question with "
        "gold answers at hand. An upper bound of what planning could still gain: the best of several tries is lucky."
    )
    head = ["system", "set", "questions", "plans beside its own", "score", "best plan", "regret"]
    return f"## The planner in hindsight\n\n{note}\n\n{table(head, lines)}"


def _failed(report: Mapping[str, Any]) -> str:
    failed = report["failed"]
    if not failed:
        return "## Failed questions\n\nNone."
    rows = [
        [f"`{row['system']}`", row["set"], row["id"], row["outcome"], row["reason"][:200]] for row in failed[:_LISTED]
    ]
    more = f"\n\n… and {len(failed) - _LISTED} more in report.json." if len(failed) > _LISTED else ""
    note = f"{len(failed)} runs have no answer. They score 0 above, and are asked again by the same command."
    return f"## Failed questions\n\n{note}\n\n{table(['system', 'set', 'id', 'outcome', 'reason'], rows)}{more}"
