"""Question files on the hub: a real small server that answers as the hub does, asked through the hub's own client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest

from agents.errors import ConfigError
from evaluation.dataset import load_examples

COMMIT = "c" * 40
ROW = {"id": "dev_0", "question": "who wrote dune", "golden_answers": ["Frank Herbert"], "metadata": {}}
FILES = {"/datasets/somebody/sets/resolve/main/nq/dev.jsonl": json.dumps(ROW).encode() + b"\n"}


class Hub(BaseHTTPRequestHandler):
    """Files with the headers that the client wants, and nothing else."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        body = FILES.get(self.path)
        self.send_response(200 if body else 404)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str(len(body or b"")))
        if body is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()
        if body and self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *words: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    Hub.asked.clear()
    yield server
    server.shutdown()
    server.server_close()


def test_a_file_is_fetched_once_and_then_found_without_the_hub(
    hub: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    address = "hf://datasets/somebody/sets/nq/dev.jsonl"
    (example,) = load_examples(address)
    assert (example.question, example.answers, example.dataset) == ("who wrote dune", ("Frank Herbert",), "dev")
    assert "/datasets/somebody/sets/resolve/main/nq/dev.jsonl" in Hub.asked
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    seen = len(Hub.asked)
    assert load_examples(address) == [example] and len(Hub.asked) == seen


def test_what_is_not_there_and_what_is_no_address_are_told(hub: ThreadingHTTPServer) -> None:
    with pytest.raises(ConfigError, match=r"the hub did not deliver hf://datasets/somebody/sets/nq/none.jsonl"):
        load_examples("hf://datasets/somebody/sets/nq/none.jsonl")
    for wrong in ("hf://somebody/sets/nq/dev.jsonl", "hf://datasets/somebody/sets/dev.parquet", "hf://datasets/x"):
        with pytest.raises(ConfigError, match="names no question file on the hub"):
            load_examples(wrong)
