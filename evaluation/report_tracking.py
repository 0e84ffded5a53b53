"""An evaluation as one MLflow run: metrics by system and set, the report, the records and the figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.delivery import TrackedRun
from evaluation.systems import slug_of

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


def metrics_of(report: Mapping[str, Any]) -> dict[str, float]:
    """Return the means under the names of `evaluation.glossary`: eval/<system>/<dataset>/<metric>."""
    found: dict[str, float] = {}
    for system, sets in report["means"].items():
        for name, metrics in sets.items():
            for metric, cell in metrics.items():
                key = f"eval/{slug_of(system)}/{slug_of(name)}/{metric}"
                if isinstance(cell, Mapping) and cell["mean"] is not None:
                    found[key] = cell["mean"]
                    found |= {f"{key}/{end}": cell[end] for end in ("low", "high") if end in cell}
    for row in report.get("planner", ()):
        found[f"eval/{slug_of(row['system'])}/{slug_of(row['set'])}/plan_entropy"] = row["entropy"]
    return found
