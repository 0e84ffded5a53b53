"""The tracking door where the network or another process comes in between: lost answers, silence, one name twice."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from agents.adapters import PATIENT, request_limits
from evaluation.spool import Operation, Spool
from evaluation.tracking import HURRIED, MlflowStore, TrackedRun, tracking_uri
from tests.parallel_run import parallel_run
from tests.tracking_store import store

__all__ = ["store"]

pytestmark = pytest.mark.filterwarnings("ignore:tracking:RuntimeWarning", "ignore::DeprecationWarning")


class LosesAnswers(MlflowStore):
    """The real store behind a network that loses the first answer of everything that is done."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.lost: set[str] = set()

    def open(self, operation: Operation) -> str:
        run_id = super().open(operation)
        self._lose("open")
        return run_id

    def apply(self, run_id: str, operation: Operation, files: Path | None) -> None:
        super().apply(run_id, operation, files)
        self._lose(operation["op"])

    def _lose(self, what: str) -> None:
        if what not in self.lost:
            self.lost.add(what)
            raise ConnectionError("the answer was lost")


def test_what_is_done_twice_is_there_once(store: Path) -> None:
    """Every operation reaches the store, its answer is lost, and it is sent again: one run, and one of everything."""
    run = TrackedRun(LosesAnswers(tracking_uri()), Spool.fresh(store / "spools"), retry_seconds=0.0)
    with pytest.warns(RuntimeWarning, match="does not answer"):
        run.open("lossy", "once", {"text": "hash"})
        run.log_params({"a": 1})
        run.log_metrics({"rollout/reward": 0.5}, step=1)
        run.log_table([{"a": 1, "b": float("nan")}, {"a": 2}], "tables/t.json")
        run.log_text("hello", "notes.txt")
        run.set_tags({"b": 2})
        run.export_traces([parallel_run("lossy-run")])
        run.close("FINISHED")
        assert run.flush() and run.waiting == 0
    client = MlflowStore(tracking_uri()).client
    place = client.get_experiment_by_name("lossy").experiment_id
    (found,) = client.search_runs([place])
    assert found.info.run_id == run.run_id and found.info.status == "FINISHED"
    assert found.data.params == {"a": "1"} and found.data.tags["text"] == "hash"
    assert len(client.get_metric_history(run.run_id, "rollout/reward")) == 1
    table = json.loads(Path(client.download_artifacts(run.run_id, "tables/t.json")).read_text())
    assert table == {"columns": ["a", "b"], "data": [[1, None], [2, None]]}
    assert client.load_table(place, artifact_file="tables/t.json", run_ids=[run.run_id])["a"].tolist() == [1, 2]
    assert json.loads(found.data.tags["mlflow.loggedArtifacts"]) == [{"path": "tables/t.json", "type": "table"}]
    assert len(client.search_traces(locations=[place], run_id=run.run_id)) == 1


def test_an_experiment_that_another_process_makes_at_the_same_time_is_taken(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = MlflowStore(tracking_uri())
    known, seen = late.client.get_experiment_by_name, []

    def first_before_the_other(name: str) -> Any:
        if not seen:
            seen.append(name)
            MlflowStore(tracking_uri()).client.create_experiment(name)
            return None
        return known(name)

    monkeypatch.setattr(late.client, "get_experiment_by_name", first_before_the_other)
    run = TrackedRun(late, Spool.fresh(store / "spools"))
    run.open("at once", "n", {})
    assert run.run_id is not None and seen == ["at once"]
    run.close("FINISHED")


def test_a_server_that_says_nothing_holds_up_training_for_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT

    assert HURRIED == (5, 0) and PATIENT == (30, 1)
    with request_limits(*HURRIED):
        assert (MLFLOW_HTTP_REQUEST_TIMEOUT.get(), MLFLOW_HTTP_REQUEST_MAX_RETRIES.get()) == HURRIED
    assert not MLFLOW_HTTP_REQUEST_TIMEOUT.is_set(), "other users of MLflow in this process keep its own limits"
    monkeypatch.setattr("evaluation.tracking.HURRIED", (1, 0))
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the system takes the connection, and nobody reads it
        server = MlflowStore(f"http://127.0.0.1:{silent.getsockname()[1]}")
        server.patient = False
        began = time.monotonic()
        with pytest.raises(Exception, match="timed out"):
            server.apply("r", {"op": "tags", "values": {"a": "1"}}, None)
        assert 0.9 < time.monotonic() - began < 5


def test_limits_that_the_user_has_set_stay_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")
    with request_limits(5, 0):
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "120"
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "120"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


_OPEN = """
import sys, time
from pathlib import Path
import mlflow.store.tracking.sqlalchemy_store  # the slow part, before the race
from evaluation.tracking import track
Path(sys.argv[1], sys.argv[2]).touch()
while len(list(Path(sys.argv[1]).iterdir())) < 2:
    time.sleep(0.001)
with track("race", sys.argv[2]) as run:
    print(run.run_id)
"""


def test_of_two_processes_that_make_the_store_neither_finds_it_away(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    ready.mkdir()
    settings = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow/mlflow.db", "JADE_HOME": str(tmp_path / "home")}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _OPEN, str(ready), name], env={**os.environ, **settings},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for name in ("one", "two")
    ]  # fmt: skip
    ended = [process.communicate(timeout=60) for process in started]
    assert all(len(said.strip()) == 32 and "does not answer" not in warned for said, warned in ended), ended
