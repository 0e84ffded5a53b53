"""A Chroma server that a test really starts, and may stop in the middle of its work."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from agents.chroma_place import Server
from agents.embedder import HashEmbedder
from agents.errors import RetrieverError
from agents.passage import Passage
from agents.retriever import ChromaRetriever

TOY = HashEmbedder(64)
WORDS = ("river", "town", "novel", "planet", "mountain", "queen", "engine", "violin")
SECONDS = 60
"""Longest wait for a server to start: a busy machine takes its time."""


def rows(count: int, edition: str) -> str:
    """Return passages as JSON lines; another edition has the same ids and other texts."""
    lines = [
        {"id": f"p{i:04}", "title": f"{WORDS[i % 8]} {i}", "text": f"{edition} words about {WORDS[i // 8 % 8]} {i}"}
        for i in range(count)
    ]
    return "\n".join(map(json.dumps, lines))


def again(retriever: ChromaRetriever, queries: list[str], k: int) -> list[list[Passage]]:
    """Search until it succeeds: a failure that took long stands for as long."""
    until = time.monotonic() + SECONDS
    while True:
        try:
            return retriever.search(queries, k)
        except RetrieverError:
            assert time.monotonic() < until
            time.sleep(0.05)


@dataclass
class ChromaProcess:
    """A running server."""

    server: Server
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        """Stop it: connections are accepted, and nothing comes."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def chroma(folder: Path, port: int) -> Iterator[ChromaProcess]:
    """Start a server over a folder; yield it once it answers; kill it."""
    command = [str(Path(sys.executable).with_name("chroma")), "run", "--path", str(folder), "--port", str(port)]
    process = subprocess.Popen([*command, "--host", "127.0.0.1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    server = Server("127.0.0.1", port)
    try:
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            try:
                httpx.get(f"{server}/api/v2/heartbeat", timeout=1).raise_for_status()
                break
            except httpx.HTTPError:
                assert process.poll() is None, "the server ended"
                time.sleep(0.05)
        yield ChromaProcess(server, process)
    finally:
        process.kill()
        process.wait()
