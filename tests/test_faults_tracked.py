"""What the harness of faults says is on a tracking server, against a store in which something is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.tracking import MlflowStore, track
from faults.toy import EXPERIMENT, Job
from faults.tracking import Delivered, compared
from tests.parallel_run import parallel_run
from tests.tracking_store import store
from training.history import add_metrics

__all__ = ["store"]


def test_numbers_traces_and_ends_that_are_not_there_are_counted(store: Path) -> None:
    job = Job(str(store / "job"), "", questions=2, batch=2)
    job.folder.mkdir()
    add_metrics(job.folder, 0, {"rollout/reward": 0.5, "update/kl": 0.25})
    with (
        pytest.raises(RuntimeError, match="killed"),
        track(EXPERIMENT, job.folder.name, {"output": job.output}) as run,
    ):
        run.log_metrics({"rollout/reward": 0.5, "update/kl": 0.75}, 0)
        run.export_traces([parallel_run()], {})
        raise RuntimeError("killed")
    client = MlflowStore(f"sqlite:///{store / 'mlflow.db'}").client
    experiment = str(client.get_experiment_by_name(EXPERIMENT).experiment_id)  # type: ignore[union-attr]
    found = compared(client, experiment, job, waited=3, still=0)
    assert found == Delivered(3, 0, numbers=2, missing=1, runs=1, unfinished=1, traces=1, untraced=1)
    assert found.lost == 3 and "1 of 2 numbers and 1 of 2 traces" in str(found)
    with track(EXPERIMENT, job.folder.name, {"output": job.output}) as run:
        run.log_metrics({"update/kl": 0.25}, 0)
    again = compared(client, experiment, job, waited=3, still=0)
    assert (again.missing, again.unfinished, again.runs, again.lost) == (0, 0, 2, 1), "a trace is still missing"
