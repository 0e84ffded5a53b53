"""Tracking on an MLflow server that is really started: outages are bridged, adapters come back from it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from agents.adapters import content_hash, fetch_adapter
from evaluation.tracking import deliver, track
from tests.ports import free_port
from tests.ppo_toy import start_adapter

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:tracking:RuntimeWarning")]


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[None]:
    command = [
        str(Path(sys.executable).with_name("mlflow")), "server", "--backend-store-uri", f"sqlite:///{folder}/t.db",
        "--artifacts-destination", str(folder / "artifacts"), "--host", "127.0.0.1", "--port", str(port),
        "--workers", "1",
    ]  # fmt: skip
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).raise_for_status()
                break
            except httpx.HTTPError:
                assert process.poll() is None, (folder / "server.log").read_text()
                time.sleep(0.2)
        yield
    finally:
        subprocess.run(["pkill", "-9", "-s", str(process.pid)], check=False)
        process.wait()


def test_a_server_keeps_what_happened_while_it_was_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("JADE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    folder = start_adapter(tmp_path / "adapter")
    with mlflow_server(tmp_path, port), track("jade-test", "first", {"lr": 1e-4}) as run:
        run.log_metrics({"rollout/reward": 0.1}, 0)
        identifier = run.run_id
        assert identifier
    with track("jade-test", "first", resume_run_id=identifier) as run:  # nobody there
        run.log_metrics({"rollout/reward": 0.2}, 1)
        run.log_artifact_folder(folder, "adapter")
        assert run.waiting
    with mlflow_server(tmp_path, port):
        assert deliver(uri, tmp_path / "home" / "tracking") > 0
        from agents.adapters import tracking_client

        client = tracking_client(uri)
        history = {item.step: item.value for item in client.get_metric_history(identifier, "rollout/reward")}
        assert history == {0: 0.1, 1: 0.2}
        assert content_hash(fetch_adapter(identifier)) == content_hash(folder)
    assert content_hash(fetch_adapter(identifier)) == content_hash(folder), "what was fetched serves on"
