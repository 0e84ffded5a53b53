"""A tracked run while its store is away: nothing is lost, nothing stops, the order stays."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agents.errors import ConfigError
from evaluation.delivery import RefusedError, TrackedRun, flatten
from evaluation.spool import Spool

pytestmark = pytest.mark.filterwarnings("ignore:tracking:RuntimeWarning")


class Notebook:
    """A store that keeps what it is told, and can be taken away."""

    uri = "memory:"

    def __init__(self) -> None:
        self.away = False
        self.refuse = ""
        self.told: list[Mapping[str, Any]] = []
        self.files: dict[str, str] = {}

    def open(self, operation: Mapping[str, Any]) -> str:
        self._answer(operation)
        return operation["run_id"] or "new-run"

    def apply(self, run_id: str, operation: Mapping[str, Any], files: Path | None) -> None:
        self._answer(operation)
        for file in files.iterdir() if files else ():
            self.files[file.name] = file.read_text()

    def _answer(self, operation: Mapping[str, Any]) -> None:
        if self.away:
            raise ConnectionError("nobody there")
        if operation["op"] == self.refuse:
            raise RefusedError("never")
        self.told.append(operation)

    def steps(self) -> list[int]:
        return [operation["step"] for operation in self.told if operation["op"] == "metrics"]


def test_flatten_names_settings_with_dots() -> None:
    config = {"ppo": {"clip": 0.2, "roles": ["a"], "empty": {}}, "name": "x", "none": None}
    assert flatten(config) == {
        "ppo.clip": "0.2", "ppo.roles": '["a"]', "ppo.empty": "{}", "name": "x", "none": "null",
    }  # fmt: skip


def test_an_outage_loses_nothing_and_keeps_the_order(tmp_path: Path) -> None:
    store = Notebook()
    run = TrackedRun(store, Spool.fresh(tmp_path), retry_seconds=0.0)
    run.open("e", "n", {})
    run.log_metrics({"rollout/reward": 1.0}, step=0)
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "weights").write_text("old")
    store.away = True
    with pytest.warns(RuntimeWarning, match="does not answer") as caught:
        run.log_metrics({"rollout/reward": float("nan")}, step=1)
        run.log_artifact_folder(folder, "adapter")
        run.log_text("hello", "notes/a.txt")
    assert len(caught) == 1, "one warning an outage"
    (folder / "weights").write_text("newer")
    assert run.waiting == 3 and store.steps() == [0]
    store.away = False
    run.log_metrics({"rollout/reward": 2.0}, step=2)
    assert run.waiting == 0 and store.steps() == [0, 1, 2]
    assert store.files == {"weights": "old", "a.txt": "hello"}, "as they were when they were logged"
    assert not any(tmp_path.glob("*/run.json")), "nothing is left behind"


def test_while_a_store_is_away_it_is_left_alone(tmp_path: Path) -> None:
    store = Notebook()
    run = TrackedRun(store, Spool.fresh(tmp_path), retry_seconds=60.0)
    run.open("e", "n", {})
    store.away = True
    with pytest.warns(RuntimeWarning, match="does not answer"):
        run.log_metrics({"rollout/reward": 1.0}, step=1)
    store.away = False
    run.log_metrics({"rollout/reward": 1.0}, step=2)
    assert run.waiting == 2, "not asked again so soon"
    run.close("FINISHED")
    assert run.waiting == 0 and store.steps() == [1, 2] and store.told[-1]["status"] == "FINISHED"


def test_a_run_that_never_opened_is_delivered_by_the_next_process(tmp_path: Path) -> None:
    store = Notebook()
    store.away = True
    run = TrackedRun(store, Spool.fresh(tmp_path))
    with pytest.warns(RuntimeWarning, match="wait in"):
        run.open("e", "n", {"k": "v"})
        run.log_metrics({"rollout/reward": 1.0}, step=1)
        run.close("FAILED")
    assert run.run_id is None
    store.away = False
    (left,) = Spool.waiting(tmp_path)
    assert TrackedRun(store, left).flush()
    assert [operation["op"] for operation in store.told] == ["open", "metrics", "end"]
    assert list(Spool.waiting(tmp_path)) == []


def test_the_spool_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        spool = Spool(tmp_path / "a")
        spool.describe(uri="x", run_id=None)
        spool.add({"op": "end"})
        header = json.loads((tmp_path / "a" / "run.json").read_text())
        (tmp_path / "a" / "run.json").write_text(json.dumps({**header, "pid": other.pid}))
        assert list(Spool.waiting(tmp_path)) == []
        other.communicate(b"\n")
    assert len(list(Spool.waiting(tmp_path))) == 1


def test_a_refused_operation_is_dropped_with_its_name(tmp_path: Path) -> None:
    store = Notebook()
    store.refuse = "tags"
    run = TrackedRun(store, Spool.fresh(tmp_path))
    run.open("e", "n", {})
    with pytest.warns(RuntimeWarning, match="dropped tags: never"):
        run.set_tags({"a": 1})
    run.log_metrics({"rollout/reward": 1.0}, step=1)
    assert store.steps() == [1]


def test_a_full_disk_costs_the_metric_and_not_the_training(tmp_path: Path) -> None:
    store = Notebook()
    (tmp_path / "spools").write_text("a file where the folder should be")
    run = TrackedRun(store, Spool.fresh(tmp_path / "spools"))
    run.open("e", "n", {})
    store.away = True
    with pytest.warns(RuntimeWarning, match="lost metrics"):
        run.log_metrics({"rollout/reward": 1.0}, step=1)


def test_artifact_paths_stay_inside(tmp_path: Path) -> None:
    run = TrackedRun(Notebook(), Spool.fresh(tmp_path))
    run.open("e", "n", {})
    for path in ("../x.txt", "/etc/x", ""):
        with pytest.raises(ConfigError, match="artifact path"):
            run.log_text("x", path)
    with pytest.raises(ConfigError, match="does not exist"):
        run.log_artifact_folder(tmp_path / "gone")
