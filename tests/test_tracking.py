"""The tracking door: a real SQLite store with real traces, and a server that does not answer."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from agents.errors import ConfigError, SetupError
from evaluation.spool import Spool
from evaluation.tracking import MlflowStore, RunCredit, deliver, fetch_adapter, track, tracking_uri
from tests.parallel_run import parallel_run

pytestmark = pytest.mark.filterwarnings("ignore:tracking:RuntimeWarning", "ignore::DeprecationWarning")


def test_the_default_store_is_sqlite_in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri() == f"sqlite:///{Path(__file__).resolve().parent.parent / 'mlflow' / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert tracking_uri() == "http://tracking:5000"


def test_importing_the_door_loads_no_mlflow() -> None:
    code = "import sys, evaluation.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent).returncode == 0


def test_an_unreachable_server_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JADE_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.warns(RuntimeWarning, match="does not answer"), track("e", "n", {"a": 1}) as run:
        run.log_metrics({"rollout/reward": 1.0}, step=1)
        run.export_traces([parallel_run()])
    (left,) = Spool.waiting(tmp_path / "tracking")
    assert left.pending == run.waiting == 6  # open, params, glossary, metrics, traces, end
    with pytest.raises(SetupError, match="cannot be fetched"):
        fetch_adapter("abc")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A SQLite store in a folder of its own; making one takes MLflow some seconds, so tests share it."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JADE_HOME", str(folder / "home"))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        yield folder


def test_a_real_run_with_everything(store: Path) -> None:
    adapter = store / "adapter-source"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    figure = Figure()
    figure.subplots().plot([0, 1])
    with track("exp", "first", {"ppo": {"clip": 0.2}}, {"text": "hash"}) as run:
        run.log_metrics({"rollout/reward": 0.5, "update/kl": float("nan")}, step=3)
        run.log_artifact_folder(adapter, "adapter")
        run.log_figure(figure, "plots/curve.png")
        run.log_table([{"a": 1}, {"a": 2, "b": "x"}], "table.json")
        for _ in range(2):  # exporting again adds nothing
            run.export_traces([parallel_run()], {"run-1": RunCredit({"total": 0.7}, {"root/AS": {"advantage": 0.2}})})
    client = MlflowStore(tracking_uri()).client
    assert run.run_id is not None
    found = client.get_run(run.run_id)
    assert found.info.status == "FINISHED" and found.info.run_name == "first"
    assert found.data.params == {"ppo.clip": "0.2"} and found.data.tags["text"] == "hash"
    assert found.data.metrics["rollout/reward"] == 0.5
    assert client.get_metric_history(run.run_id, "rollout/reward")[0].step == 3
    assert {item.path for item in client.list_artifacts(run.run_id)} == {
        "adapter", "glossary.md", "plots", "table.json",
    }  # fmt: skip
    assert (fetch_adapter(run.run_id) / "adapter_config.json").read_text() == "{}"
    assert fetch_adapter(run.run_id).parent == store / "home" / "adapters"
    check_trace(run.run_id, found.info.experiment_id)
    check_resume(run.run_id)


def check_trace(run_id: str, experiment: str) -> None:
    """The trace is found the way the UI finds it, by run, with its spans and their times."""
    import mlflow

    traces = mlflow.MlflowClient(tracking_uri()).search_traces(locations=[experiment], run_id=run_id)
    (trace,) = traces
    assert trace.info.state == "OK" and trace.info.execution_duration == 9000
    assert trace.info.request_preview == "Which is older?"
    assert trace.info.tags["mlflow.traceName"] == "QDP"
    names = {span.span_id: span.name for span in trace.data.spans}
    assert len(trace.data.spans) == 11
    (last,) = (span for span in trace.data.spans if span.name == "answer_summariser")
    assert names[last.parent_id] == "root" and last.span_type == "LLM"
    assert last.start_time_ns - trace.data.spans[0].start_time_ns == 6_500_000_000
    assert last.attributes["advantage"] == 0.2 and last.attributes["valid"] is True
    assert last.attributes["mlflow.chat.tokenUsage"]["input_tokens"] == 3


def check_resume(run_id: str) -> None:
    """A resumed run keeps its first parameters and says which changed; a failing block marks it failed."""
    with (
        pytest.raises(RuntimeError, match="boom"),
        track("exp", params={"ppo": {"clip": 0.3}, "new": 1}, resume_run_id=run_id) as run,
    ):
        assert run.run_id == run_id
        run.log_metrics({"rollout/reward": 0.6}, step=4)
        raise RuntimeError("boom")
    client = MlflowStore(tracking_uri()).client
    found = client.get_run(run_id)
    assert found.info.status == "FAILED"
    assert found.data.params == {"ppo.clip": "0.2", "new": "1"}
    assert json.loads(found.data.tags["jade.changed_params"]) == {"ppo.clip": "0.3"}
    assert [point.step for point in client.get_metric_history(run_id, "rollout/reward")] == [3, 4]


def test_user_mistakes_are_refused_before_anything_runs(store: Path) -> None:
    with pytest.raises(ConfigError, match="0123"), track("exp", resume_run_id="0123"):
        pytest.fail("the block must not run")
    with pytest.raises(ConfigError, match=r"run id 'nope'.*mlflow ui"):
        fetch_adapter("nope")
    with track("exp", "bare") as run:
        pass
    with pytest.raises(ConfigError, match=r"has no adapter.*glossary\.md"):
        fetch_adapter(str(run.run_id))


def test_what_waited_reaches_the_real_store(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = store / "blocked"
    blocked.write_text("a file where the store's folder should be")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{blocked / 'mlflow.db'}")
    with pytest.warns(RuntimeWarning, match="does not answer"), track("late", "spooled", {"a": 1}) as run:
        run.log_metrics({"rollout/reward": 0.25}, step=7)
        run.log_text("hello", "notes.txt")
        run.export_traces([parallel_run("late-run")])
    blocked.unlink()
    blocked.mkdir()
    shutil.copy(store / "mlflow.db", blocked / "mlflow.db")
    assert deliver(tracking_uri()) == run.waiting + 7
    client = MlflowStore(tracking_uri()).client
    experiment = client.get_experiment_by_name("late").experiment_id
    (found,) = client.search_runs([experiment])
    assert found.info.status == "FINISHED" and found.data.metrics == {"rollout/reward": 0.25}
    assert {item.path for item in client.list_artifacts(found.info.run_id)} == {"glossary.md", "notes.txt"}
    assert len(client.search_traces(locations=[experiment], run_id=found.info.run_id)) == 1
