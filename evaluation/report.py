"""The numbers of an evaluation as one JSON-able mapping: means, comparisons, breakdowns, validity, failures.

Failed questions score 0 and stay in every denominator. Metrics that cannot be known for a question (no gold passage,
no citation) are averaged over the others, whose number stands beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from evaluation.breakdown import Table, breakdown, by_set
from evaluation.dataset import Example
from evaluation.flow import flows_of
from evaluation.macro import macro_compare, macro_interval
from evaluation.records import METRICS, Record
from evaluation.results import Block, Floats
from evaluation.statistics import Comparison, compare, corrected, interval

MACRO = "macro"
"""The mean over sets, every set counting the same."""
WITH_INTERVALS = ("score", "em", "f1", "cover_em", "f1_jade")
COMPARED = ("f1", "em", "cover_em", "turns", "retrievals", "tokens")
"""Metrics in which systems are compared with the baseline."""


@dataclass(frozen=True)
class Sampling:
    """How intervals and p-values are drawn."""

    level: float = 0.95
    resamples: int = 10_000
    seed: int = 0

    def keywords(self) -> dict[str, Any]:
        """Return the arguments of the functions in `evaluation.statistics`."""
        return asdict(self)


def build_report(
    blocks: Sequence[Block], baseline: str, sampling: Sampling, conditions: Mapping[str, Any]
) -> dict[str, Any]:
    """Return everything that is reported.

    Args:
        blocks: Every system on every set; each system on the same sets and questions.
        baseline: The system that the others are compared with.
        sampling: How intervals are drawn.
        conditions: What the numbers were measured under.
    """
    systems = list(dict.fromkeys(block.system for block in blocks))
    sets = list(dict.fromkeys(block.set for block in blocks))
    grid = {(block.system, block.set): block for block in blocks}
    return {
        "conditions": dict(conditions),
        "systems": systems,
        "sets": sets,
        "baseline": baseline,
        "means": {system: _means([grid[system, name] for name in sets], sampling) for system in systems},
        "comparisons": compare_systems(grid, systems, sets, baseline, sampling),
        "hops": breakdown(blocks, lambda record, example: str(example.hops or "?")),
        "types": breakdown(blocks, lambda record, example: f"{example.dataset}: {example.type or '?'}"),
        "plans": breakdown(blocks, _plan),
        "plans_by_set": by_set(blocks, _plan),
        "flows": flows_of(blocks),
        "validity": _validity(blocks),
        "failed": [_failure(record) for block in blocks for record in block.failed],
    }


def _means(blocks: Sequence[Block], sampling: Sampling) -> dict[str, dict[str, Any]]:
    """Return set (and "macro") → metric → {"mean", "n"} and, for some, "low" and "high"."""
    found: dict[str, dict[str, Any]] = {}
    for block in blocks:
        found[block.set] = {metric: _mean(block.values(metric), metric, sampling) for metric in METRICS}
        found[block.set]["questions"], found[block.set]["failed"] = len(block.examples), len(block.failed)
    found[MACRO] = {metric: _macro([block.values(metric) for block in blocks], metric, sampling) for metric in METRICS}
    found[MACRO]["questions"] = sum(len(block.examples) for block in blocks)
    found[MACRO]["failed"] = sum(len(block.failed) for block in blocks)
    return found


def _mean(values: Floats, metric: str, sampling: Sampling) -> dict[str, Any]:
    known = values[~np.isnan(values)]
    if not len(known):
        return {"mean": None, "n": 0}
    if metric in WITH_INTERVALS:
        return asdict(interval(known, **sampling.keywords()))
    return {"mean": float(known.mean()), "n": len(known)}


def _macro(values: Sequence[Floats], metric: str, sampling: Sampling) -> dict[str, Any]:
    known = [kept for scores in values if len(kept := scores[~np.isnan(scores)])]
    if not known:
        return {"mean": None, "n": 0}
    if metric in WITH_INTERVALS:
        return asdict(macro_interval(known, **sampling.keywords()))
    return {"mean": float(np.mean([scores.mean() for scores in known])), "n": sum(map(len, known))}


def compare_systems(
    grid: Mapping[tuple[str, str], Block],
    systems: Sequence[str],
    sets: Sequence[str],
    baseline: str,
    sampling: Sampling,
) -> Table:
    """Compare every system with the baseline, on each set and in the macro mean.

    Holm's correction runs over families of one metric: the macro means, which answer the main question, are one, and
    the sets, which say where, another; else seven sets would hide from the main question what all of them show.
    """
    rows: Table = []
    others = [system for system in systems if system != baseline]
    for metric in COMPARED:
        each: dict[tuple[str, str], Comparison] = {}
        macro: dict[tuple[str, str], Comparison] = {}
        for system in others:
            mine = [grid[system, name].values(metric) for name in sets]
            theirs = [grid[baseline, name].values(metric) for name in sets]
            for name, a, b in zip(sets, mine, theirs, strict=True):
                each[system, name] = compare(a, b, **sampling.keywords())
            if len(sets) > 1:
                macro[system, MACRO] = macro_compare(mine, theirs, **sampling.keywords())
        for family in (each, macro):
            for (system, name), full in zip(family, corrected(list(family.values())), strict=True):
                rows.append({"system": system, "set": name, "metric": metric, **asdict(full), "sign": full.sign})
    return rows


def _plan(record: Record, example: Example) -> str:
    return record.plan or "(no plan)"


def _validity(blocks: Sequence[Block]) -> Table:
    """Return valid and truncated responses of every role."""
    counts: dict[tuple[str, str, str], dict[str, int]] = {}
    for block in blocks:
        for record, _ in block.runs:
            for role, seen in record.roles.items():
                cell = counts.setdefault((block.system, block.set, role), {"calls": 0, "valid": 0, "truncated": 0})
                for key in cell:
                    cell[key] += seen.get(key, 0)
    return [{"system": system, "set": name, "role": role, **cell} for (system, name, role), cell in counts.items()]


def _failure(record: Record) -> dict[str, Any]:
    return {
        "system": record.system,
        "set": record.set,
        "id": record.id,
        "seed": record.seed,
        "outcome": record.outcome,
        "reason": record.error or "",
        "question": record.question,
    }
