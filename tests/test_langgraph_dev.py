"""`langgraph dev`, really started, offline and without a key, over a scripted policy; spoken to as anybody would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from graphs.ledger import read_ledger
from graphs.trajectory import Trajectory
from tests.ports import free_port

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
QUESTION = {"question": "Who wrote Dune?"}
SERVED = """
from pathlib import Path

from agents.lazy import LazyPolicy, LazyRetriever
from graphs import load_graph
from tests.scripted import PASSAGES, ListRetriever, ScriptedPolicy, says

SCRIPT = says(
    planner=lambda user: "QDP" if "depth 2" in user else "R,AG",
    parallel_decomposer="<q1>Who was Frank?</q1><q2>Who was Herbert?</q2>",
    answer_generator="Frank Herbert himself",
    answer_summariser="Frank Herbert it was",
)


def slowly(make):
    def load():
        with open(__file__) as file:  # a model is read from disk: that blocks
            file.read()
        return make()

    return load


parts = {
    "policy": LazyPolicy(slowly(lambda: ScriptedPolicy(SCRIPT))),
    "retriever": LazyRetriever(slowly(lambda: ListRetriever(PASSAGES))),
    "ledger": Path(__file__).parent / "ledger",
    "lazy": True,
}
jade = load_graph(**parts)
single_round = load_graph(topology="single_round", **parts)
"""


@dataclass
class Server:
    """A running server, its log and the ledger it writes."""

    url: str
    folder: Path

    def ask(self, path: str, body: Any = None) -> Any:
        """Send a request (POST where there is a body); return the decoded answer."""
        return json.loads(self.raw(path, body))

    def raw(self, path: str, body: Any = None) -> str:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(answer.read().decode())

    def events(self, path: str, body: Any) -> list[tuple[str, Any]]:
        """Return the server-sent events of a stream."""
        events = []
        for block in self.raw(path, body).replace("\r\n", "\n").strip().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
            if "event" in fields:
                events.append((fields["event"], json.loads(fields.get("data", "null"))))
        return events

    def run(self, graph: str, **more: Any) -> Any:
        return self.ask("/runs/wait", {"assistant_id": graph, "input": QUESTION, **more})

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def runs(self) -> list[Trajectory]:
        return list(read_ledger(self.folder / "ledger"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "served.py").write_text(SERVED)
    exports = {name: f"./served.py:{name}" for name in ("jade", "single_round")}
    (folder / "langgraph.json").write_text(json.dumps({"dependencies": ["."], "graphs": exports}))
    port = free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LANGSMITH", "LANGCHAIN"))}
    environment = {**kept, "PYTHONPATH": str(ROOT), "LANGSMITH_TRACING": "false", "LANGGRAPH_NO_VERSION_CHECK": "1"}
    command = [
        str(Path(sys.executable).parent / "langgraph"),
        "dev",
        "--no-browser",
        "--no-reload",
        "--port",
        str(port),
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    made = Server(f"http://127.0.0.1:{port}", folder)
    try:
        wait_for(made, process)
        yield made
    finally:
        process.terminate()
        process.wait(30)


def wait_for(server: Server, process: subprocess.Popen[Any]) -> None:
    for _ in range(240):
        assert process.poll() is None, server.log
        try:
            assert server.ask("/ok")["ok"]
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.25)
    raise AssertionError(f"not up after a minute: {server.log}")


def test_it_answers(server: Server) -> None:
    result = server.run("jade")
    assert result["answer"] == "Frank Herbert it was" and len(result["hops"]) == 2
    assert result["workflow"]["plan"] == "QDP" and result["run"] in {item.run for item in server.runs}
    assert server.run("single_round")["answer"] == "Frank Herbert himself"


def test_options_come_as_context(server: Server) -> None:
    result = server.run("jade", context={"workflow": "AG", "seed": 7})
    assert result["workflow"]["plan"] == "AG" and result["retrievals"] == 0
    assert next(item for item in server.runs if item.run == result["run"]).seed == 7
    assert server.run("jade", context={"workflow": "AG", "record": "off"})["run"] is None
    refused = server.run("jade", context={"max_turns": 0})["__error__"]  # unknown names the server drops by itself
    assert refused["error"] == "ConfigError" and "max_turns=0" in refused["message"]


def test_it_streams_updates_and_tokens(server: Server) -> None:
    body = {"assistant_id": "jade", "input": QUESTION, "stream_mode": ["updates", "custom"]}
    events = server.events("/runs/stream", body)
    assert "".join(data["token"] for name, data in events if name == "custom") == "Frank Herbert it was"
    nodes = [next(iter(data)) for name, data in events if name == "updates"]
    assert nodes == ["open", "plan", "parallel", "close"]


def test_it_draws_the_graphs(server: Server) -> None:
    plain = server.ask("/assistants/jade/graph")
    assert {"plan", "single_round", "serial", "parallel"} <= {node["id"] for node in plain["nodes"]}
    whole = server.ask("/assistants/jade/graph?xray=true")
    assert len(whole["nodes"]) > 3 * len(plain["nodes"]) and any(edge.get("conditional") for edge in whole["edges"])


def test_configuration_is_typed_and_described(server: Server) -> None:
    (assistant,) = server.ask("/assistants/search", {"graph_id": "single_round"})
    schemas = server.ask(f"/assistants/{assistant['assistant_id']}/schemas")
    options = schemas["context_schema"]["properties"]
    assert all(option["description"] for option in options.values()) and {"max_turns", "workflow"} <= set(options)
    assert options["record"]["enum"] == ["off", "on", "train"] and options["seed"]["type"] == "integer"
    assert list(schemas["input_schema"]["properties"]) == ["question"]
    assert {"answer", "citations", "workflow"} <= set(schemas["output_schema"]["properties"])


@pytest.mark.parametrize("node", ["open", "plan", "parallel", "AG", "solved", "close"])
def test_a_breakpoint_before_any_node_and_on(server: Server, node: str) -> None:
    thread = server.ask("/threads", {})["thread_id"]
    body = {"assistant_id": "jade", "input": QUESTION, "interrupt_before": [node]}
    server.ask(f"/threads/{thread}/runs/wait", body)
    state = server.ask(f"/threads/{thread}/state")
    assert state["next"] == ["parallel" if node in ("AG", "solved") else node]
    assert server.ask(f"/threads/{thread}")["status"] == "interrupted"
    result = server.ask(f"/threads/{thread}/runs/wait", {"assistant_id": "jade", "input": None})
    assert result["answer"] == "Frank Herbert it was" and result["warnings"] == []
    made = [item for item in server.runs if item.run == result["run"]]
    assert [item.outcome for item in made] == ["ok"]
    assert [call.id for call in made[0].calls][:2] == ["root/PLAN", "root/QDP"] and len(made[0].calls) == 7
    assert made[0].calls[-1].parents == ("root/0/AG", "root/1/AG")


def test_a_conversation_is_one_run_a_question(server: Server) -> None:
    thread = server.ask("/threads", {})["thread_id"]
    body = {"assistant_id": "single_round", "input": QUESTION}
    results = [server.ask(f"/threads/{thread}/runs/wait", body) for _ in range(2)]
    assert results[0]["run"] != results[1]["run"] and results[1]["model_calls"] == 2


def test_a_failing_run_says_why(server: Server) -> None:
    assert "not blank" in str(
        server.ask("/runs/wait", {"assistant_id": "jade", "input": {"question": " "}})["__error__"]
    )


def test_nothing_blocked_the_event_loop(server: Server) -> None:
    assert "Application started up" in server.log
    assert "BlockingError" not in server.log and "Slow graph load" not in server.log
