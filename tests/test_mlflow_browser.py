"""What a training run leaves, seen in a real browser: `mlflow ui` over its store, looked at by a headless Chromium."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

from tests.ports import free_port
from tests.test_mlflow_server import mlflow_server
from tests.test_ppo_command import config_of, toy_folder
from training.ppo import train

__all__ = ["toy_folder"]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 240
"""Seconds for a page: it fills itself in, slowly where the cores are busy."""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no headless browser: neither chromium nor google-chrome is installed"),
]


class Browser:
    """One tab of a headless browser, spoken to by its debugging protocol."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket, self.asked = socket, 0

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Return the result of a command."""
        self.asked += 1
        self.socket.send(json.dumps({"id": self.asked, "method": method, "params": params}))
        while True:
            answer: dict[str, Any] = json.loads(self.socket.recv(timeout=PATIENCE))
            if answer.get("id") == self.asked:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in the page; None while it has none."""
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def look(self, address: str, *words: str, drawn: str = "body") -> None:
        """Open a page and wait until it shows some words, and an element that matches a selector.

        The text is what a person would read: `innerText` leaves out what is not rendered.
        """
        self.ask("Page.navigate", url="about:blank")  # else another hash would not load the page anew
        self.ask("Page.navigate", url=address)
        until, text = time.monotonic() + PATIENCE, ""
        while time.monotonic() < until:
            text = str(self.evaluate("document.body && document.body.innerText") or "")
            if all(word in text for word in words) and self.evaluate(f"!!document.querySelector({drawn!r})"):
                return
            time.sleep(0.5)
        pytest.fail(f"{address} showed no {drawn} with {words}, but: {text[:3000]}")


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """Start a headless browser of its own profile."""
    profile = tmp_path / "profile"
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--window-size=1600,1200", f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port, until = profile / "DevToolsActivePort", time.monotonic() + PATIENCE
        while not (port.is_file() and port.read_text().strip()):
            assert process.poll() is None and time.monotonic() < until, "the browser did not start"
            time.sleep(0.2)
        tabs = httpx.get(f"http://127.0.0.1:{port.read_text().split()[0]}/json", timeout=PATIENCE).json()
        page = next(tab for tab in tabs if tab["type"] == "page")
        with connect(page["webSocketDebuggerUrl"], max_size=None) as socket:
            yield Browser(socket)
    finally:
        process.kill()
        process.wait()


def test_the_run_a_metrics_chart_and_a_trace_are_shown(toy_folder: Path, browser: Browser) -> None:
    assert train(config_of(toy_folder, output=str(toy_folder / "seen-in-a-browser"))) == 0
    database = (toy_folder / "mlflow" / "mlflow.db").rename(toy_folder / "t.db")
    with sqlite3.connect(database) as store:
        experiment, run = store.execute("select experiment_id, run_uuid from runs").fetchone()
        trace = store.execute("select request_id from trace_info").fetchone()[0]
    port = free_port()
    page = f"http://127.0.0.1:{port}/#/experiments/{experiment}"
    with mlflow_server(toy_folder, port):
        browser.look(f"{page}/runs", "jade-ppo", "seen-in-a-browser")
        metrics = f"{page}/runs/{run}/model-metrics"
        browser.look(metrics, "seen-in-a-browser", "rollout/reward", drawn=".js-plotly-plot .main-svg")
        browser.look(f"{page}/traces?selectedEvaluationId={trace}", "writer", "judge", "Is it right number")
