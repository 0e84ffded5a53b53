"""A Chroma server that is stopped (SIGSTOP): it accepts and says nothing; nobody waits for it longer than told."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from agents.chroma import list_collections
from agents.chroma_patience import Patience
from agents.chroma_place import Server, read_address
from agents.errors import ConfigError, RetrieverError
from agents.index import build_index
from agents.retriever import ChromaRetriever, Mode
from tests.chroma_process import TOY, ChromaProcess, again, chroma, rows
from tests.ports import free_port

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaProcess]:
    folder = tmp_path_factory.mktemp("stalled")
    (folder / "notes.jsonl").write_text(rows(120, "first"))
    with pytest.MonkeyPatch.context() as patch, chroma(folder / "store", free_port()) as running:
        patch.setenv("JADE_HOME", str(folder / "home"))
        build_index(folder / "notes.jsonl", collection="notes", embedder=TOY, folder=running.server)
        yield running


@contextmanager
def stopped(running: ChromaProcess) -> Iterator[None]:
    running.stop()
    try:
        yield
    finally:
        running.go_on()


def opened(place: Server, patience: float = 0.5, mode: Mode = "hnsw") -> ChromaRetriever:
    return ChromaRetriever(
        collection="notes", mode=mode, embedder=TOY, folder=place, patience_seconds=patience, answer_seconds=0.3
    )


def test_opening_and_listing_wait_for_as_long_as_told(filled: ChromaProcess) -> None:
    hasty = replace(filled.server, seconds=0.3)
    assert [info.name for info in list_collections(hasty)] == ["notes"]
    with stopped(filled):
        for look in (lambda: list_collections(hasty), lambda: opened(hasty).identity):
            began = time.monotonic()
            with pytest.raises(RetrieverError, match=r"did not answer \(ReadTimeout.* or give it longer than JADE_CH"):
                look()
            assert time.monotonic() - began < 2


def test_a_server_that_stops_between_opening_and_reading_is_an_error_for_all_at_once(filled: ChromaProcess) -> None:
    retriever = opened(replace(filled.server, seconds=0.4), mode="exact")
    assert retriever.passages == 120
    with stopped(filled), ThreadPoolExecutor(8) as pool:
        began = time.monotonic()
        for search in [pool.submit(retriever.search, [f"violin {number}"], 3) for number in range(8)]:
            with pytest.raises(RetrieverError, match="did not answer"):
                search.result(10)
        assert time.monotonic() - began < 2.4, "one try, not one after another"
    assert again(retriever, ["violin 7"], 3)


def test_searches_end_with_their_patience_and_keep_nobody_else_waiting(filled: ChromaProcess) -> None:
    retriever, patient = opened(filled.server), opened(filled.server, patience=60)
    known = retriever.search(["violin 7"], 3)
    patient.warm()
    queries = [f"river {number}" for number in range(8)]
    with ThreadPoolExecutor(len(queries) + 1) as pool:
        with stopped(filled):
            waiting = pool.submit(patient.search, ["queen 5"], 3)
            began = time.monotonic()
            searches = [pool.submit(retriever.search, [query], 3) for query in queries]
            assert retriever.identity["collection"] == "notes" and retriever.search(["violin 7"], 3) == known
            assert not any(search.done() for search in searches), "identity and cached answers wait for no server"
            for search in searches:
                with pytest.raises(RetrieverError, match=r'searching collection "notes": .* did not answer'):
                    search.result(10)
            assert time.monotonic() - began < 3, "they wait beside each other"
            began = time.monotonic()
            for query in queries:
                with pytest.raises(RetrieverError, match="did not answer"):
                    retriever.search([query], 3)
            assert time.monotonic() - began < 2, "one patience an outage, not one a search"
            assert not waiting.done()
        assert waiting.result(20), "who is patient waits for the server"
    assert again(retriever, queries, 3), "the same retriever answers again once the server is back"


def test_a_failure_that_took_long_stands_for_as_long() -> None:
    patience, tries = Patience(), []

    def silent() -> str:
        tries.append(time.sleep(0.2))
        raise RetrieverError("silent") from httpx.ReadTimeout("timed out")

    with pytest.raises(RetrieverError, match="silent"):
        patience.search(silent, 0.1)
    began = time.monotonic()
    for _ in range(20):
        with pytest.raises(RetrieverError, match="silent") as caught:
            patience.search(silent, 0.1)
        assert isinstance(caught.value.__cause__, httpx.ReadTimeout)
    assert time.monotonic() - began < 0.1 and len(tries) == 1
    time.sleep(0.2)
    assert patience.search(lambda: "found", 0.1) == "found"


@pytest.mark.parametrize("seconds", ["soon", "0", "-1", "inf", "nan"])
def test_a_time_that_is_none_is_refused(seconds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JADE_CHROMA_SECONDS", seconds)
    with pytest.raises(ConfigError, match=rf"JADE_CHROMA_SECONDS is '{seconds}'; give the longest silence"):
        read_address("http://127.0.0.1:8000")


def test_the_time_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_address("http://host:9000").seconds == 60
    monkeypatch.setenv("JADE_CHROMA_SECONDS", "2.5")
    assert read_address("http://host:9000").seconds == 2.5 and read_address("http://host:9000") == Server("host", 9000)


# ---- jade serve


@contextmanager
def served(folder: Path, address: Server, patience: float) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """Serve questions over the collection as users do; yield the process and a client of it."""
    environment = {
        **os.environ, "JADE_HOME": str(folder), "PYTHONPATH": str(ROOT), "COLUMNS": "200",
        "JADE_CHROMA": str(address), "TOY_PATIENCE": str(patience),
    }  # fmt: skip
    words = ["serve", "--graph", "tests.served_over_chroma:make", "--port", "0", "--capacity", "12"]
    command = [sys.executable, "-m", "cli.main", *words]
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log)
    try:
        yield process, httpx.Client(base_url=_listens(process, folder / "serve.log"), timeout=30, trust_env=False)
    finally:
        process.kill()
        process.wait()


def _listens(process: subprocess.Popen[str], log: Path) -> str:
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        found = re.search(r"listens on (http://\S+)", log.read_text())
        if found:
            return found[1]
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def ask(client: httpx.Client, number: int) -> int:
    return client.post("/ask", json={"question": f"What of violin {number}?"}).status_code


def test_a_service_survives_a_stalled_server_and_ends_when_asked_to(filled: ChromaProcess, tmp_path: Path) -> None:
    with served(tmp_path, filled.server, 1.0) as (process, client), ThreadPoolExecutor(12) as pool:
        assert ask(client, 0) == 200
        with stopped(filled):
            began = time.monotonic()
            asked = [pool.submit(ask, client, number) for number in range(1, 13)]  # more than asyncio has threads
            assert client.get("/health").status_code == 200
            assert {task.result(20) for task in asked} == {500}
            assert time.monotonic() - began < 12, "twelve searches wait beside each other"
        while ask(client, 20) != 200:  # for as long as the last failure stands
            assert time.monotonic() - began < 60
        with stopped(filled):
            asked = [pool.submit(ask, client, number) for number in range(21, 29)]
            _until_running(client, 8)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0, "what runs fails in time"
    assert "did not answer" in (tmp_path / "serve.log").read_text()


def test_a_second_signal_ends_a_service_whose_searches_still_wait(filled: ChromaProcess, tmp_path: Path) -> None:
    with served(tmp_path, filled.server, 600) as (process, client), ThreadPoolExecutor(12) as pool, stopped(filled):
        asked = [pool.submit(ask, client, number) for number in range(12)]
        _until_running(client, 12)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert {task.result(5) for task in asked} == {503}


def _until_running(client: httpx.Client, count: int) -> None:
    until = time.monotonic() + 20
    while client.get("/ready").json()["running"] < count:
        assert time.monotonic() < until
        time.sleep(0.02)
    threading.Event().wait(0.2)  # from the start of a run to its search
