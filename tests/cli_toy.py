"""The command line at toy size: run in this process with a home of its own, over a graph that a script plays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.main import run as jade
from graphs.jade import build_jade
from graphs.ledger import ledger_folder
from tests.scripted import record, says

SINGLE = {"planner": "R,AG", "answer_generator": "Salzburg"}
SERIAL = {
    "planner": lambda user: "QDS" if "mayor" in user and "town" in user else "R,AG",
    "serial_decomposer": "<q1>Where was Mozart born?</q1><q2>Who is the mayor of #1?</q2>",
    "answer_generator": lambda user: "Bernhard Auinger" if "Who is the mayor" in user else "Salzburg",
    "answer_summariser": "Bernhard Auinger",
}
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JADE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "home"


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = jade(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Let `load_graph` return the scripted graph; return the dict that keeps what it was called with."""

    def install(script: dict[str, Any], **extra: Any) -> dict[str, Any]:
        seen: dict[str, Any] = {}

        def load_graph(**arguments: Any) -> Any:
            seen.update(arguments)
            arguments["progress"]("loading the toy")
            folder = arguments.get("ledger") or ledger_folder()
            return record(build_jade, says(**script), folder, **extra).graph

        monkeypatch.setattr("graphs.app.load_graph", load_graph)
        return seen

    return install
