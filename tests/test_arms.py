"""The machinery of experiments on a job that takes no time: never twice, never lost, logged as a family of runs."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from agents.errors import ConfigError
from evaluation.tracking import PARENT, MlflowStore, track, tracking_uri
from experiments.__main__ import experiments, run_named
from experiments.arms import Arm, Job, Results, Row, by_arm, run_arms, seeded
from experiments.borrowed import borrow
from experiments.conduct import TRACKED, Experiment, conduct, family, parent_of
from tests.arm_jobs import doubled
from tests.tracking_store import store

__all__ = ["store"]

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def arms_of(folder: Path, names: Sequence[str] = ("a", "b"), seeds: int = 2) -> list[Arm]:
    named = {name: {"value": place + 1, "log": str(folder / "log")} for place, name in enumerate(names)}
    return seeded(named, seeds)


def ran(folder: Path) -> list[str]:
    """Return which arms were run, in order of their names."""
    lines = (folder / "log").read_text().splitlines() if (folder / "log").exists() else []
    return sorted(" ".join(line.split()[:2]) for line in lines)


def job() -> Job:
    return doubled


def never() -> Job:
    raise AssertionError("there was nothing to run, so nothing was to be prepared")


def test_arms_run_once_in_other_processes_and_come_back_in_order(tmp_path: Path) -> None:
    arms, results = arms_of(tmp_path), Results(tmp_path / "out" / "results.jsonl", {"steps": 3})
    rows = run_arms(arms, results, job, processes=2)
    assert [(row["arm"], row["seed"], row["value"]) for row in rows] == [
        ("a", 0, 2), ("b", 0, 4), ("a", 1, 2), ("b", 1, 4),
    ]  # fmt: skip
    assert ran(tmp_path) == ["a 0", "a 1", "b 0", "b 1"]
    processes = {line.split()[2] for line in (tmp_path / "log").read_text().splitlines()}
    assert str(os.getpid()) not in processes
    assert run_arms(arms, results, never) == rows  # read back, nothing run
    more = run_arms(arms_of(tmp_path, seeds=3), results, job)
    assert len(more) == 6 and ran(tmp_path)[-1] == "b 2" and len(ran(tmp_path)) == 6
    assert {name: [row["seed"] for row in mine] for name, mine in by_arm(more).items()} == {
        "a": [0, 1, 2],
        "b": [0, 1, 2],
    }


def test_other_options_or_another_setting_are_other_arms(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    arm, other = Arm("a", 0, {"value": 1}), Arm("a", 0, {"value": 2})
    keys = {Results(file).key(arm), Results(file).key(other), Results(file, {"steps": 1}).key(arm)}
    assert len(keys) == 3
    assert Results(file).key(Arm("a", 0, {"x": 1, "y": 2})) == Results(file).key(Arm("a", 0, {"y": 2, "x": 1}))


def test_a_torn_line_costs_its_arm_only(tmp_path: Path) -> None:
    results, (one, two) = Results(tmp_path / "results.jsonl"), arms_of(tmp_path, seeds=1)
    first = results.add(one, {"value": 2})
    with results.file.open("a") as file:
        file.write('{"key": "torn')
    assert results.read() == {first["key"]: first}
    second = results.add(two, {"value": 4})  # on a line of its own
    assert results.read() == {first["key"]: first, second["key"]: second}


def test_an_arm_that_fails_costs_itself_only_and_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arms, results = arms_of(tmp_path, ("a", "bad"), seeds=1), Results(tmp_path / "results.jsonl")
    assert [row["arm"] for row in run_arms(arms, results, job)] == ["a"]
    assert "bad, seed 0 failed: ValueError: no such number" in caplog.text
    (tmp_path / "log.mended").touch()
    assert [row["arm"] for row in run_arms(arms, results, job)] == ["a", "bad"]
    assert ran(tmp_path) == ["a 0", "bad 0", "bad 0"]


def test_an_arm_whose_process_is_killed_costs_itself_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    arms, results = arms_of(tmp_path, ("killed", "a", "b"), seeds=1), Results(tmp_path / "results.jsonl")
    assert [row["arm"] for row in run_arms(arms, results, job, processes=1)] == ["a", "b"]
    assert "killed, seed 0 failed: JadeError: its process was killed, for want of memory perhaps" in caplog.text
    assert ran(tmp_path) == ["a 0", "b 0", "killed 0"]


ALONE = """
import sys
from pathlib import Path
from experiments.arms import Arm, Results, run_arms
from tests.arm_jobs import waits

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    run_arms([Arm("a", 0, {"log": str(folder / "pid")})], Results(folder / "results.jsonl"), lambda: waits)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_an_arm_ends_with_the_command_that_started_it(tmp_path: Path, how: signal.Signals) -> None:
    script = tmp_path / "alone.py"
    script.write_text(ALONE)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = subprocess.Popen([sys.executable, str(script), str(tmp_path)], env=environment)
    pid = tmp_path / "pid"
    eventually(lambda: pid.is_file() and pid.read_text().endswith("\n"))
    command.send_signal(how)
    command.wait(20)
    eventually(lambda: not Path(f"/proc/{int(pid.read_text())}").exists())


def eventually(true: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


# ---- the whole experiment


def figure_of(rows: Sequence[Row]) -> Mapping[str, Any]:
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().plot([row["value"] for row in rows])
    return {"values.png": figure}


def followers(rows: Sequence[Row]) -> list[Arm]:
    """Return one arm more, made from what an arm yielded."""
    return [Arm(f"after {row['arm']}", row["seed"], {**row["options"], "value": row["value"]}) for row in rows[:1]]


def toy_experiment(folder: Path, names: Sequence[str] = ("a", "b"), seeds: int = 1) -> Experiment:
    def table(rows: Sequence[Row]) -> str:
        return "\n".join(f"{row['arm']} {row['value']}" for row in rows)

    return Experiment("toy", arms_of(folder, names, seeds), table, figure_of, followers)


def test_an_experiment_leaves_a_table_a_figure_and_a_family_of_runs(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = toy_experiment(tmp_path)
    assert conduct(experiment, tmp_path / "out", job, setting={"steps": 3}) == 0
    assert capsys.readouterr().out == "a 2\nb 4\nafter a 4\n"
    assert (tmp_path / "out" / "table.md").read_text() == "a 2\nb 4\nafter a 4\n"
    assert (tmp_path / "out" / "values.png").stat().st_size > 0
    logged = json.loads((tmp_path / "out" / "mlflow.json").read_text())
    client = MlflowStore(tracking_uri()).client
    parent = client.get_run(logged["parent"])
    assert parent.info.status == "FINISHED" and parent.info.run_name == "toy" and parent.data.params["steps"] == "3"
    artifacts = {item.path for item in client.list_artifacts(logged["parent"])}
    assert {"table.md", "results.jsonl", "figures"} <= artifacts
    assert len(logged["children"]) == 3
    child = client.get_run(next(iter(logged["children"].values())))
    assert child.data.tags[PARENT] == logged["parent"] and child.info.run_name == "a, seed 0"
    assert child.data.metrics["eval/tiny/f1"] == 2.0 and child.data.params["value"] == "1"
    assert [item.value for item in client.get_metric_history(child.info.run_id, "rollout/reward")] == [1.0, 2.0]
    # again: nothing is run or logged twice; a seed more adds to the same family
    assert conduct(experiment, tmp_path / "out", never, setting={"steps": 3}) == 0
    assert json.loads((tmp_path / "out" / "mlflow.json").read_text()) == logged
    assert conduct(toy_experiment(tmp_path, seeds=2), tmp_path / "out", job, setting={"steps": 3}) == 0
    grown = json.loads((tmp_path / "out" / "mlflow.json").read_text())
    assert grown["parent"] == logged["parent"] and len(grown["children"]) == 5
    assert len(ran(tmp_path)) == 5


def test_a_failed_arm_is_told_in_the_exit_status_and_the_rest_is_shown(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    experiment = toy_experiment(tmp_path, ("a", "bad"))
    assert conduct(experiment, tmp_path / "out", job, setting={}) == 1
    assert capsys.readouterr().out == "a 2\nafter a 4\n"
    assert "1 of 3 arms failed; the same command tries them again" in caplog.text
    known = json.loads((tmp_path / "out" / "mlflow.json").read_text())
    (tmp_path / "out" / "mlflow.json").write_text(json.dumps({**known, "parent": "0" * 32}))
    (tmp_path / "log.mended").touch()
    assert conduct(experiment, tmp_path / "out", job, setting={}) == 0  # its run is gone: a new family
    assert "logging everything anew" in caplog.text
    assert len(json.loads((tmp_path / "out" / "mlflow.json").read_text())["children"]) == 3


def test_a_run_that_an_arm_logged_itself_becomes_a_child(store: Path, tmp_path: Path) -> None:
    results, folder = Results(tmp_path / "results.jsonl"), tmp_path / "out"
    with track(TRACKED, "a training", {"lr": 0.5}) as own:
        own.log_metrics({"rollout/reward": 0.5}, 7)
    curve = [[7, {"rollout/reward": 0.5}]]
    row = results.add(Arm("a", 0), {"run": own.run_id, "curve": curve, "metrics": {"eval/tiny/f1": 0.25}})
    lost = results.add(Arm("b", 0), {"run": "0" * 32, "curve": curve})  # of another store
    assert parent_of(folder) is None
    with family(toy_experiment(tmp_path), folder, {}) as logged:
        assert parent_of(folder) == logged.parent.run_id is not None
        for item in (row, lost, row):
            logged.log(item)
    children = json.loads((folder / "mlflow.json").read_text())["children"]
    assert children[row["key"]] == own.run_id and len(children) == 2
    client = MlflowStore(tracking_uri()).client
    mine, new = client.get_run(own.run_id or ""), client.get_run(children[lost["key"]])
    assert mine.data.tags[PARENT] == new.data.tags[PARENT] == parent_of(folder)
    assert mine.info.run_name == "a training" and mine.info.status == "FINISHED" and mine.data.params == {"lr": "0.5"}
    assert [(item.step, item.value) for item in client.get_metric_history(own.run_id, "rollout/reward")] == [(7, 0.5)]
    assert [(item.step, item.value) for item in client.get_metric_history(own.run_id, "eval/tiny/f1")] == [(7, 0.25)]
    assert new.info.run_name == "b, seed 0" and new.data.metrics == {"rollout/reward": 0.5}


def tracked_names() -> Counter[str]:
    client = MlflowStore(tracking_uri()).client
    found = client.search_experiments(filter_string=f"name = '{TRACKED}'")
    return Counter(str(run.info.run_name) for run in client.search_runs([item.experiment_id for item in found]))


@pytest.mark.filterwarnings("ignore:tracking:RuntimeWarning")
def test_while_the_store_is_away_every_row_waits_once(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JADE_HOME", str(tmp_path / "home"))

    def away(*given: Any) -> str:
        raise ConnectionError("nobody listens")

    monkeypatch.setattr(MlflowStore, "open", away)
    assert conduct(toy_experiment(tmp_path), tmp_path / "out", job, setting={}) == 0
    opened = [file.read_text() for file in (tmp_path / "home" / "tracking").rglob("*.json")]
    names = [json.loads(text)["name"] for text in opened if json.loads(text).get("op") == "open"]
    assert sorted(names) == ["a, seed 0", "after a, seed 0", "b, seed 0", "toy"]
    monkeypatch.undo()  # the store is back: what waited is delivered once, and the same command logs no row again
    monkeypatch.setenv("JADE_HOME", str(tmp_path / "home"))
    before = tracked_names()
    assert conduct(toy_experiment(tmp_path), tmp_path / "out", never, setting={}) == 0
    assert sorted((tracked_names() - before).elements()) == [*sorted(names), "toy"]


# ---- the experiments themselves


def test_experiments_are_listed_and_a_wrong_name_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    known = experiments()
    assert {"credit", "penalties", "sensitivity", "tinyworld", "baselines", "yesno"} <= set(known)
    assert not {"arms", "trained", "yesno_task"} & set(known)
    assert all(len(text) > 20 for text in known.values())
    assert run_named([]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in known)
    with pytest.raises(ConfigError, match=r"no experiment 'penaltys'; did you mean 'penalties'\? allowed: "):
        run_named(["penaltys"])
    done = subprocess.run([sys.executable, "-m", "experiments", "zzz"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("ConfigError: no experiment 'zzz'; allowed: ")


def test_arms_that_a_neighbour_ran_are_taken_over_and_no_others(tmp_path: Path) -> None:
    def whole(options: Mapping[str, Any]) -> dict[str, Any]:
        return {"rate": 1, **options}

    theirs = Results(tmp_path / "theirs" / "results.jsonl", {"steps": 3})
    theirs.add(Arm("plain", 0, {}), {"value": 7})
    theirs.add(Arm("plain", 1, {"rate": 2}), {"value": 8})
    Results(tmp_path / "elsewhere" / "results.jsonl", {"steps": 4}).add(Arm("plain", 1, {}), {"value": 9})
    own = Results(tmp_path / "own" / "results.jsonl", {"steps": 3})
    arms = seeded({"as proven": {"rate": 1}, "fast": {"rate": 3}}, 2)
    assert borrow(arms, own, whole) == 1  # of seed 1, one neighbour has another rate and the other another setting
    assert [(row["arm"], row["seed"], row["value"]) for row in own.read().values()] == [("as proven", 0, 7)]
    assert borrow(arms, own, whole) == 0  # it has a row now
    (row,) = run_arms(arms[:1], own, never)
    assert row["options"] == {"rate": 1} and row["key"] == own.key(arms[0])
