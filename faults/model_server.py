"""An inference server at toy size: the warm model behind HTTP, in the words of llama.cpp's own server.

It really plays the model and streams token by token, with the probability of each; it is a process that can be killed,
stopped and started again at its port.
"""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.context import ForkServerProcess
from typing import Any

from agents.call import Prompt, Request
from agents.model import SharedModel
from faults.lives import PATIENCE, start
from faults.ports import free_port, listens
from faults.toy import load


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int, model: SharedModel, pace: float) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.model, self.pace, self.lock = model, pace, threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up: that is what is tested."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of requests."""

    def do_GET(self) -> None:
        """Say what the server is."""
        context = self.server.model.context_length
        known: dict[str, Any] = {
            "/props": {"default_generation_settings": {"n_ctx": context}, "model_path": "toy.gguf"},
            "/lora-adapters": [],
            "/v1/models": {"data": [{"id": "toy", "owned_by": "llamacpp"}]},
        }
        found = known.get(self.path)
        data = json.dumps(found).encode()
        self.send_response(404 if found is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        """Answer a prompt, an event a token."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in self._events(body):
            self._chunk(f"data: {json.dumps(event)}\n\n".encode())
            time.sleep(self.server.pace)
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _events(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        prompt = Prompt(tuple(body["prompt"]), 0)
        asked = Request((body["seed"],), "server", prompt, body["n_predict"], body["temperature"])
        with self.server.lock:
            (said,) = self.server.model.sample([asked])
        for place, (token, logprob) in enumerate(zip(said.response_ids, said.logprobs, strict=True), 1):
            shown = {"id": token, "prob": math.exp(logprob)}
            yield {"content": "", "tokens": [token], "tokens_predicted": place, "stop": False,
                   "completion_probabilities": [{**shown, "top_probs": [shown]}]}  # fmt: skip
        yield {"content": "", "tokens": [], "tokens_predicted": len(said.response_ids), "stop": True,
               "stop_type": "limit" if said.truncated else "eos"}  # fmt: skip


def serve(model: str, port: int, pace: float) -> None:
    """Be the server.

    Args:
        model: Folder of the model.
        port: Where it listens on loopback.
        pace: Seconds between two tokens.
    """
    _Server(port, load(model), pace).serve_forever()


class ModelServer:
    """The server as a process."""

    def __init__(self, model: str, pace: float = 0.0) -> None:
        """Choose its port."""
        self._model, self._pace, self.port = model, pace, free_port()
        self._process: ForkServerProcess | None = None

    @property
    def address(self) -> str:
        """Return where it is."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it (again) at its port and wait until it listens."""
        self._process = start(serve, self._model, self.port, self._pace)
        listens(self.port)

    def kill(self) -> None:
        """Do kill -9; nothing happens where it is dead."""
        if self._process is not None:
            self._process.kill()
            self._process.join(PATIENCE)

    def stall(self, seconds: float) -> None:
        """Stop it for a while: connections stay, and nothing comes."""
        assert self._process is not None and self._process.pid is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(self._process.pid, signal.SIGCONT)
