"""An evaluation in MLflow: a run with metrics, report, records and figures, and a child run for each of its systems."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.delivery import TrackedRun
from evaluation.systems import slug_of
from evaluation.tracking import PARENT, track

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def log_report(tracked: TrackedRun, report: Mapping[str, Any], figures: Mapping[str, Figure], output: Path) -> None:
    """Log what was measured.

    Args:
        tracked: An open run.
        report: As `evaluation.report.build_report` returned it.
        figures: File name → figure.
        output: The evaluation's folder, whose report and records are uploaded.
    """
    tracked.log_metrics(metrics_of(report), 0)
    for name in ("report.md", "report.json", "records.jsonl"):
        tracked.log_text((output / name).read_text(encoding="utf-8"), name)
    for name, figure in figures.items():
        tracked.log_figure(figure, f"figures/{name}")


def log_systems(tracked: TrackedRun, experiment: str, report: Mapping[str, Any]) -> None:
    """Log every system as a child run with its hashes and its means by set, so that the list of runs compares them.

    Args:
        tracked: The evaluation's run.
        experiment: MLflow experiment.
        report: With "hashes" by system.

    Raises:
        ConfigError: The store refuses to open a run.
    """
    family = {} if tracked.run_id is None else {PARENT: tracked.run_id}
    for system in report["systems"]:
        tags = {f"hash.{name}": value for name, value in report["hashes"][system].items()}
        params = {"system": system, "speakers": report["conditions"]["speakers"][system]}
        with track(experiment, system, params, {**family, **tags}) as child:
            child.log_metrics(_means("eval", report["means"][system]), 0)


def metrics_of(report: Mapping[str, Any]) -> dict[str, float]:
    """Return the means under the names of `evaluation.glossary`: eval/<system>/<dataset>/<metric>."""
    found: dict[str, float] = {}
    for system, sets in report["means"].items():
        found |= _means(f"eval/{slug_of(system)}", sets)
    for row in report.get("hindsight", ()):
        found[f"eval/{slug_of(row['system'])}/{slug_of(row['set'])}/regret"] = row["regret"]
    for row in report.get("planner", ()):
        found[f"eval/{slug_of(row['system'])}/{slug_of(row['set'])}/plan_entropy"] = row["entropy"]
    return found


def _means(prefix: str, sets: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return the means of one system, and their intervals, under PREFIX/<dataset>/<metric>."""
    found: dict[str, float] = {}
    for name, metrics in sets.items():
        for metric, cell in metrics.items():
            key = f"{prefix}/{slug_of(name)}/{metric}"
            if isinstance(cell, Mapping) and cell["mean"] is not None:
                found[key] = cell["mean"]
                found |= {f"{key}/{end}": cell[end] for end in ("low", "high") if end in cell}
    return found
