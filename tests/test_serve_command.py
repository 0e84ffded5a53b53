"""`jade serve`, as users start and stop it: a real process, a real signal, a real exit code."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.main import run as jade
from cli.serve import _served
from graphs.ledger import is_sealed, read_ledger
from tests.served_by_command import make

ROOT = Path(__file__).resolve().parent.parent
GRAPH = "tests.served_by_command:make"
Process = subprocess.Popen[str]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Process]:
    environment = {**os.environ, "JADE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    command = [sys.executable, "-m", "cli.main", "serve", "--graph", GRAPH, "--port", "0", "--capacity", "1"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.wait()


def address(process: Process) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        found = re.search(r"listens on (http://\S+)", line)
        if found:
            return found[1]
    raise AssertionError("it never listened")


def until(condition: Callable[[], Any]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never became so")


def test_sigterm_while_a_question_runs(server: Process, tmp_path: Path) -> None:
    url = address(server)
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as client, ThreadPoolExecutor() as pool:
        asked = pool.submit(client.post, "/ask", json={"question": "Where was Mozart born?"})
        until((tmp_path / "holding").exists)
        assert "jade_in_flight 1.0" in client.get("/metrics").text
        server.send_signal(signal.SIGTERM)
        until(lambda: client.get("/ready").status_code == 503)
        assert client.post("/ask", json={"question": "And Haydn?"}).status_code == 503
        assert server.poll() is None and not asked.done()
        (tmp_path / "release").touch()
        answer = asked.result(20).json()
    assert answer["answer"] == "Salzburg"
    assert server.wait(20) == 0
    assert [(run.run, run.outcome) for run in read_ledger(tmp_path / "ledger")] == [(answer["run"], "ok")]
    assert all(is_sealed(file) for file in (tmp_path / "ledger").glob("*.jsonl"))


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--host", "0.0.0.0"], "--api-key-file"),
        (["--capacity", "0"], "capacity=0"),
        (["--api-key-file", "missing-file"], "cannot be read"),
        (["--graph", "nowhere:graph"], "cannot be imported"),
        (["--graph", GRAPH, "--index", "mine"], "index"),
        (["--graph", GRAPH, "--record", "perhaps"], "record='perhaps'"),
        (["--record", "perhaps"], "record='perhaps'"),
    ],
)
def test_what_cannot_be_served_is_named_before_a_model_loads(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JADE_API_KEY", raising=False)
    monkeypatch.setenv("COLUMNS", "400")
    assert jade(["serve", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_model_and_index_options_reach_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    from serving import server

    loaded: dict[str, Any] = {}

    def load_graph(**arguments: Any) -> Any:
        loaded.update(arguments)
        return make()

    monkeypatch.setattr("graphs.load_graph", load_graph, raising=False)
    monkeypatch.setattr(server, "serve", lambda graph, config, on_ready: loaded.update(config=config))
    words = "--index mine --adapter none --top-k 3 --record off --retriever bm25 --capacity 2 --name wiki"
    assert jade(["serve", "--server", "http://h:1", *words.split()]) == 0
    config = loaded.pop("config")
    assert (config.capacity, config.queue, config.name) == (2, 16, "wiki")
    del loaded["progress"]
    rest = {"index": "mine", "adapter": None, "top_k": 3, "record": "off", "retriever_mode": "bm25"}
    assert loaded == {"server": "http://h:1", **rest}


def test_a_graph_of_ones_own_keeps_its_model_unless_one_is_named(tmp_path: Path) -> None:
    from examples.own_graph import graph
    from graphs.recorded import RecordedGraph

    def served(**chosen: Any) -> RecordedGraph:
        return _served("examples.own_graph:graph", chosen, "off")

    own = served()
    assert own.recorder.batcher is graph.recorder.batcher
    assert own.recorder.defaults.record == "off" and own.recorder.defaults.decoding == "constrained"
    other = served(model="some/folder", ledger=tmp_path)
    assert other.recorder.batcher is not graph.recorder.batcher and other.recorder.adapters == {}
    assert other.recorder.ledger is not None and other.recorder.ledger.folder == tmp_path


def test_a_taken_port_is_a_message(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from serving.config import ServeConfig
    from serving.server import listen

    monkeypatch.setenv("JADE_HOME", str(tmp_path))
    with listen(ServeConfig(port=0)) as taken:
        assert jade(["serve", "--graph", GRAPH, "--port", str(taken.getsockname()[1])]) == 2
    assert "choose another --port" in " ".join(capsys.readouterr().err.split())
