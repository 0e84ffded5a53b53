"""An experiment from its arms to what a reader sees: a table, figures, and one MLflow run with a child for every arm.

The folder of an experiment holds results.jsonl (one line an arm), table.md, the figures, and mlflow.json, which says
which runs of which store it was logged as, so that going on adds to them.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.errors import ConfigError
from evaluation.tracking import PARENT, TrackedRun, track, tracking_uri
from experiments.arms import Arm, Job, Results, Row, run_arms

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_log = logging.getLogger("jade.experiments")
TRACKED = "jade-experiments"
"""MLflow experiment."""
WAITING = ""
"""Id of a child that was logged while the store was away, and which it will get when the store is back."""


def _nothing(rows: Sequence[Row]) -> dict[str, Figure]:
    return {}


def _no_more(rows: Sequence[Row]) -> list[Arm]:
    return []


@dataclass(frozen=True)
class Experiment:
    """A list of arms, and how their rows are shown."""

    name: str
    arms: Sequence[Arm]
    table: Callable[[Sequence[Row]], str]
    """Rows → Markdown."""
    figures: Callable[[Sequence[Row]], Mapping[str, Figure]] = field(default=_nothing)
    """Rows → file name → figure."""
    later: Callable[[Sequence[Row]], Sequence[Arm]] = field(default=_no_more)
    """Rows of `arms` → arms that follow from them."""
    tracked_as: str = TRACKED
    """MLflow experiment; that of the runs which the arms log themselves, where they do."""


class Family:
    """The MLflow run of an experiment, and those of its arms."""

    def __init__(self, of: Experiment, parent: TrackedRun, file: Path, children: Mapping[str, str]) -> None:
        """Take the open parent run, and the children that were logged before (row key → run id)."""
        self._of, self.parent, self._file, self._children = of, parent, file, dict(children)
        self._write()

    def log(self, row: Row) -> None:
        """Log a row as a child run, once: the run that its arm logged itself (its id is "run"), else a new one.

        A new one gets the row's options and its "curve" of (step, metrics); both get its final "metrics".
        """
        if row["key"] in self._children:
            return
        run_id = (self._adopted(row) if row.get("run") else None) or self._made(row)
        self._children[row["key"]] = run_id or WAITING  # what waits for the store is delivered, once
        self._write()

    def _adopted(self, row: Row) -> str | None:
        """Make the arm's own run a child and return its id; None where this store has no such run."""
        try:
            with track(self._of.tracked_as, None, None, self._tags(), row["run"]) as run:
                run.log_metrics(row.get("metrics", {}), _last(row))
        except ConfigError as error:
            _log.warning("%s; logging %s, seed %d anew", error, row["arm"], row["seed"])
            return None
        return run.run_id

    def _made(self, row: Row) -> str | None:
        """Log a row as a run of its own and return its id; None while the store does not answer."""
        params = {"arm": row["arm"], "seed": row["seed"], **row["options"], **row["setting"]}
        with track(self._of.tracked_as, f"{row['arm']}, seed {row['seed']}", params, self._tags()) as run:
            for step, metrics in row.get("curve", ()):
                run.log_metrics(metrics, int(step))
            run.log_metrics(row.get("metrics", {}), _last(row))
        return run.run_id

    def _tags(self) -> dict[str, str]:
        family = {PARENT: self.parent.run_id} if self.parent.run_id is not None else {}
        return {**family, "jade.experiment": self._of.name}

    def _write(self) -> None:
        known = {"uri": tracking_uri(), "parent": self.parent.run_id, "children": self._children}
        self._file.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def _last(row: Row) -> int:
    return int(row["curve"][-1][0]) if row.get("curve") else 0


def parent_of(folder: Path) -> str | None:
    """Return the id of the MLflow run of the experiment in a folder, for arms that log runs of their own."""
    known: str | None = _known(folder / "mlflow.json").get("parent")
    return known


@contextmanager
def family(of: Experiment, folder: Path, params: Mapping[str, Any]) -> Iterator[Family]:
    """Open the run of an experiment, or the one that its folder names.

    Args:
        of: The experiment.
        folder: The experiment's; holds mlflow.json.
        params: What the experiment was started with.

    Raises:
        ConfigError: The store refuses to open a run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known, tags = _known(folder / "mlflow.json"), {"jade.experiment": of.name}
    with ExitStack() as stack:
        try:
            parent = stack.enter_context(track(of.tracked_as, of.name, params, tags, known.get("parent")))
        except ConfigError as error:
            if not known.get("parent"):
                raise
            _log.warning("%s; logging everything anew", error)
            known = {}
            parent = stack.enter_context(track(of.tracked_as, of.name, params, tags))
        yield Family(of, parent, folder / "mlflow.json", known.get("children", {}))


def _known(file: Path) -> dict[str, Any]:
    """Return what was logged to this store before; nothing of another store counts."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        return dict(data) if data["uri"] == tracking_uri() else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def conduct(
    experiment: Experiment,
    folder: Path,
    make_job: Callable[[], Job],
    *,
    setting: Mapping[str, Any],
    processes: int = 1,
) -> int:
    """Run what is left of an experiment, show it, and log it.

    Args:
        experiment: Its arms, table and figures.
        folder: Where its files go.
        make_job: As `run_arms` takes it.
        setting: What all arms share and no arm's options say.
        processes: Arms at once.

    Returns:
        0, or 1 when an arm failed.

    Raises:
        ConfigError: The tracking store refuses to open a run.
    """
    results, prepared = Results(folder / "results.jsonl", setting), cache(make_job)
    with family(experiment, folder, {"arms": len(experiment.arms), **setting}) as logged:
        arms = list(experiment.arms)
        rows = run_arms(arms, results, prepared, processes=processes, on_row=logged.log)
        more = list(experiment.later(rows)) if rows else []
        rows += run_arms(more, results, prepared, processes=processes, on_row=logged.log)
        for row in rows:  # those that were run while the store was another one
            logged.log(row)
        if rows:
            _show(experiment, rows, folder, logged.parent)
    missing = len(arms) + len(more) - len(rows)
    if missing:
        _log.error("%d of %d arms failed; the same command tries them again", missing, len(arms) + len(more))
    return 1 if missing else 0


def _show(experiment: Experiment, rows: Sequence[Row], folder: Path, parent: TrackedRun) -> None:
    table = experiment.table(rows)
    (folder / "table.md").write_text(table + "\n", encoding="utf-8")
    parent.log_text(table + "\n", "table.md")
    parent.log_text((folder / "results.jsonl").read_text(encoding="utf-8"), "results.jsonl")
    for name, figure in experiment.figures(rows).items():
        figure.savefig(folder / name, bbox_inches="tight")
        parent.log_figure(figure, f"figures/{name}")
    sys.stdout.write(table + "\n")
