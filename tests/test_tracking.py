"""The tracking door: a real SQLite store with real traces, and a server that does not answer."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from agents.adapters import AdapterInfo, content_hash, read_adapter, write_adapter_info
from agents.errors import ConfigError, SetupError
from evaluation.report_tracking import log_systems
from evaluation.spool import Spool
from evaluation.tracking import (
    PARENT,
    MlflowStore,
    RunCredit,
    deliver,
    fetch_adapter,
    track,
    tracking_uri,
)
from tests.parallel_run import parallel_run
from tests.tracking_store import store

__all__ = ["store"]

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
    if (store / "mlflow.db").is_file():  # spares making another one
        shutil.copy(store / "mlflow.db", blocked / "mlflow.db")
    assert deliver(tracking_uri()) == run.waiting + 7
    client = MlflowStore(tracking_uri()).client
    experiment = client.get_experiment_by_name("late").experiment_id
    (found,) = client.search_runs([experiment])
    assert found.info.status == "FINISHED" and found.data.metrics == {"rollout/reward": 0.25}
    assert {item.path for item in client.list_artifacts(found.info.run_id)} == {"glossary.md", "notes.txt"}
    assert len(client.search_traces(locations=[experiment], run_id=found.info.run_id)) == 1


def test_load_graph_takes_the_id_of_a_run(store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from graphs import load_graph
    from graphs.ledger import find_run
    from tests.ppo_toy import start_adapter
    from tests.scripted import PASSAGES, ListRetriever
    from tests.toy_model import toy_module, toy_tokenizer

    toy_module().save_pretrained(tmp_path / "toy")
    toy_tokenizer().save_pretrained(tmp_path / "toy")
    source = card_for(start_adapter(tmp_path / "adapter"), tmp_path / "toy")
    with track("exp", "trained") as run:
        run.log_artifact_folder(source, "adapter")
    assert run.run_id is not None
    options: Any = {"dtype": "fp32", "retriever": ListRetriever(PASSAGES), "ledger": tmp_path / "ledger"}
    graph = load_graph(tmp_path / "toy", adapter=run.run_id, **options)
    graph.invoke("Paris?", workflow="AG", max_new_tokens=4)
    assert find_run(tmp_path / "ledger", None).hashes["policy"] == content_hash(source)
    roles = load_graph(tmp_path / "toy", adapter={"planner": run.run_id, "*": source}, **options)
    assert roles.recorder.adapters == {"planner": "role-planner", "*": "default"}
    check_later_adapter(run.run_id, source, monkeypatch)
    with pytest.raises(ConfigError, match=r"run id '0{32}'.*mlflow ui"):
        load_graph(tmp_path / "toy", adapter="0" * 32, **options)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'nothing.db'}")
    with pytest.raises(ConfigError, match=r"there is no tracking store at sqlite.*nothing\.db"):
        load_graph(tmp_path / "toy", adapter="0" * 32, **options)
    assert not (tmp_path / "nothing.db").exists()


def card_for(folder: Path, model: Path) -> Path:
    """Write the card that the adapter would have, had it been trained on the model in this folder."""
    from agents.model import SharedModel
    from agents.role import Prompts
    from agents.roster import prompts_digest

    shared = SharedModel.load(model, dtype="fp32", text_digest=prompts_digest(Prompts("bare")))
    write_adapter_info(folder, AdapterInfo(shared.identity["text"], "toy", shared.weights, "bare", version=1))
    return folder


def check_later_adapter(run_id: str, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that logs another adapter later gives that one; while the store is away, what was fetched serves."""
    write_adapter_info(source, replace(read_adapter(source), version=2))
    with track("exp", resume_run_id=run_id) as run:
        run.log_artifact_folder(source, "adapter")
    assert read_adapter(fetch_adapter(run_id)).version == 2
    with monkeypatch.context() as away:
        away.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        away.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        assert read_adapter(fetch_adapter(run_id)).version == 2
    left = [item.name for item in fetch_adapter(run_id).parent.iterdir() if item.name.startswith(".")]
    assert left == []


def test_every_system_of_an_evaluation_is_a_child_run(store: Path) -> None:
    means = {"f1": {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 3}, "recall": {"mean": None, "n": 0}, "questions": 3}
    systems = ["R,AG", "jade@none"]
    report = {
        "systems": systems, "means": {name: {"nq": means} for name in systems},
        "hashes": {name: {"text": "t", "policy": f"p of {name}", "environment": "e"} for name in systems},
        "conditions": {"speakers": dict.fromkeys(systems, "no adapter")},
    }  # fmt: skip
    with track("side by side", "eval") as parent:
        log_systems(parent, "side by side", report)
    client = MlflowStore(tracking_uri()).client
    assert parent.run_id is not None
    place = client.get_run(parent.run_id).info.experiment_id
    found = client.search_runs([place], f"tags.`{PARENT}` = '{parent.run_id}'")
    assert {run.info.run_name: run.data.tags["hash.policy"] for run in found} == {
        name: f"p of {name}" for name in systems
    }
    assert all(run.data.metrics == {"eval/nq/f1": 0.5, "eval/nq/f1/low": 0.4, "eval/nq/f1/high": 0.6} for run in found)
