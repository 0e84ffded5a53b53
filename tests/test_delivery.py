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
        self.patient = True
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


HOLDER = """
import sys
from pathlib import Path
from evaluation.spool import Spool

spool = Spool(Path(sys.argv[1]))
spool.describe(uri="memory:", run_id="r")
assert spool.hold()
spool.add({"op": "end"})
print("held", flush=True)
input()
"""


def test_the_spool_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    """Whoever owns or delivers a spool holds its lock; the system frees it when the process is killed."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "a")]
    root = Path(__file__).parent.parent
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        assert list(Spool.waiting(tmp_path)) == []
        other.kill()
    assert [spool.folder.name for spool in Spool.waiting(tmp_path)] == ["a"]


def test_a_run_of_this_process_is_left_alone_until_it_closes(tmp_path: Path) -> None:
    """A run nested in another one delivers nothing of the outer one, whose opening would be lost to it."""
    store = Notebook()
    store.away = True
    outer = TrackedRun(store, Spool.fresh(tmp_path), retry_seconds=0.0)
    with pytest.warns(RuntimeWarning, match="does not answer"):
        outer.open("e", "outer", {})
    assert list(Spool.waiting(tmp_path)) == []
    store.away = False
    outer.log_metrics({"rollout/reward": 1.0}, step=1)
    assert outer.run_id == "new-run" and store.steps() == [1]
    store.away = True
    with pytest.warns(RuntimeWarning, match="wait in"):
        outer.close("FINISHED")
    assert len(list(Spool.waiting(tmp_path))) == 1


class Meeting(Notebook):
    """A store in whose every operation another command begins to deliver the same spools."""

    def __init__(self, spools: Path, other: Notebook) -> None:
        super().__init__()
        self.spools, self.other = spools, other

    def _answer(self, operation: Mapping[str, Any]) -> None:
        for spool in Spool.waiting(self.spools):
            TrackedRun(self.other, spool).flush()
        super()._answer(operation)


def left_by_the_dead(spools: Path, operations: int) -> Spool:
    spool = Spool(spools / "dead")
    spool.describe(uri="memory:", run_id="r")
    for step in range(operations):
        spool.add({"op": "metrics", "step": step})
    return spool


def test_two_commands_that_deliver_one_spool_send_each_operation_once(tmp_path: Path) -> None:
    left_by_the_dead(tmp_path, 4)
    other = Notebook()
    store = Meeting(tmp_path, other)
    for spool in Spool.waiting(tmp_path):
        assert TrackedRun(store, spool).flush()
    assert store.steps() == [0, 1, 2, 3] and other.told == []
    assert list(tmp_path.iterdir()) == [], "neither the spool nor its lock is left"


def test_what_was_sent_is_dropped_and_nothing_else(tmp_path: Path) -> None:
    """Also where locks do nothing, as on some network disks: an operation goes by its name, not by its place."""
    one = left_by_the_dead(tmp_path, 3)
    two = Spool(one.folder)
    first, same = one.first(), two.first()
    assert first is not None and first == same
    two.drop(same)
    one.drop(first)
    left = one.first()
    assert left is not None and left.operation["step"] == 1 and one.pending == 2


def test_a_torn_operation_costs_itself_only(tmp_path: Path) -> None:
    spool = left_by_the_dead(tmp_path, 2)
    (spool.folder / "00000001.json").write_text("{")
    store = Notebook()
    assert TrackedRun(store, spool).flush() and store.steps() == [1]


def test_an_opening_is_tried_again_under_the_same_key(tmp_path: Path) -> None:
    store = Notebook()
    store.away = True
    run = TrackedRun(store, Spool.fresh(tmp_path), retry_seconds=0.0)
    with pytest.warns(RuntimeWarning, match="does not answer"):
        run.open("e", "n", {})
    (kept,) = (json.loads(file.read_text()) for file in tmp_path.glob("*/0*.json"))
    assert kept["again"] is True and len(kept["key"]) == 32
    store.away = False
    run.set_tags({"a": 1})
    assert store.told[0] == kept


def test_the_pause_between_tries_grows_while_an_outage_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """30 s, 60 s, … at most 600 s, and 30 s again after the store came back; the store is hurried meanwhile."""
    clock, asked, hurried = [0.0], [], []

    class Away(Notebook):
        def _answer(self, operation: Mapping[str, Any]) -> None:
            asked.append(clock[0])
            hurried.append(not self.patient)
            super()._answer(operation)

    store = Away()
    run = TrackedRun(store, Spool.fresh(tmp_path))
    run.open("e", "n", {})
    asked.clear()
    store.away = True
    monkeypatch.setattr("evaluation.delivery.time.monotonic", lambda: clock[0])
    with pytest.warns(RuntimeWarning, match="does not answer") as caught:
        for _ in range(300):
            run.log_metrics({"rollout/reward": 1.0}, step=int(clock[0]))
            clock[0] += 10.0
    assert len(caught) == 1
    assert asked == [0.0, 30.0, 90.0, 210.0, 450.0, 930.0, 1530.0, 2130.0, 2730.0]
    assert hurried == [False] + [True] * 9, "only the opening was waited for"
    store.away = False
    clock[0] += 600.0
    run.set_tags({"a": 1})
    assert run.waiting == 0
    asked.clear()
    store.away = True
    with pytest.warns(RuntimeWarning, match="does not answer"):
        for _ in range(5):
            run.set_tags({"a": 2})
            clock[0] += 10.0
    assert [at - asked[0] for at in asked] == [0.0, 30.0]
    run.close("FINISHED")
    assert store.patient and hurried[-1] is False, "the last try is waited for"


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
