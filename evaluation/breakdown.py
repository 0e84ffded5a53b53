"""Every metric by groups of runs: hops, question type, chosen workflow.

The unit is the run, since the runs of a question may choose different workflows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.records import METRICS

if TYPE_CHECKING:
    from evaluation.dataset import Example
    from evaluation.records import Record
    from evaluation.results import Block, Floats

Table = list[dict[str, Any]]
Group = Callable[["Record", "Example"], str]
"""(run, its question) → name of its group."""


def breakdown(blocks: Sequence[Block], group: Group) -> Table:
    """Return one row for each group of a system's runs, over all sets that are given.

    Returns:
        "system", "group", "n" (runs), "share" (of the system's runs), and one key for each of `METRICS` with its mean
        over the group's runs; failed ones score 0. Where a metric cannot be known for all of them (no gold passage, no
        citation), the mean is over the others, None without any, and "known" says their number.
    """
    found: dict[str, dict[str, list[Floats]]] = {}
    for block in blocks:
        values = np.array([block.run_values(metric) for metric in METRICS])
        names, members = np.unique([group(*run) for run in block.runs], return_inverse=True)
        mine = found.setdefault(block.system, {})
        for place, name in enumerate(names):
            mine.setdefault(str(name), []).append(values[:, members == place])
    return [
        row
        for system, groups in found.items()
        for row in _rows(system, {name: np.hstack(groups[name]) for name in sorted(groups)})
    ]


def by_set(blocks: Sequence[Block], group: Group) -> Table:
    """Return the rows of `breakdown` for each set by itself, with the set's name as "set"."""
    names = dict.fromkeys(block.set for block in blocks)
    return [{"set": name, **row} for name in names for row in breakdown([b for b in blocks if b.set == name], group)]


def _rows(system: str, groups: dict[str, Floats]) -> Table:
    total = sum(values.shape[1] for values in groups.values())
    rows: Table = []
    for name, values in groups.items():
        n = values.shape[1]
        known = {metric: int(count) for metric, count in zip(METRICS, (~np.isnan(values)).sum(axis=1), strict=True)}
        means = {
            metric: float(np.nanmean(row)) if known[metric] else None
            for metric, row in zip(METRICS, values, strict=True)
        }
        few = {metric: count for metric, count in known.items() if count < n}
        rows.append({"system": system, "group": name, "n": n, "share": n / total, **means, "known": few})
    return rows
