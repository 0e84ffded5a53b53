"""Chroma's server: killed and started again or stalled while questions are collected, and away or silent for good."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agents.chroma_place import Server, read_address
from agents.embedder import HashEmbedder
from agents.index import build_index
from agents.passage import Retriever
from agents.retriever import ChromaRetriever
from faults.collected import Scene, outages, through
from faults.ports import answers, free_port
from faults.rows import Plan, Row
from faults.running import running
from faults.toy import load
from training.tinyoracle import TOP_K
from training.tinyworld import tiny_world

COLLECTION = "tiny"
SHORT = 0.5
"""Patience of a retriever that gives up, in seconds."""
TRY = 0.3
"""How long a search of a server that is stopped is given, in seconds: less than it is stopped for."""


class ChromaServer:
    """A real Chroma server over the tiny world's passages."""

    def __init__(self, folder: Path) -> None:
        """Choose its port; it keeps everything in a folder."""
        self._folder, self.port = folder, free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Return where it is."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it (again) and wait until it listens."""
        self._folder.mkdir(parents=True, exist_ok=True)
        command = [str(Path(sys.executable).with_name("chroma")), "run", "--path", str(self._folder / "store")]
        command += ["--port", str(self.port), "--host", "127.0.0.1"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        answers(f"{self.address}/api/v2/heartbeat")

    def kill(self) -> None:
        """Do kill -9; nothing happens where it is dead."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """Stop it: it accepts connections and says nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def fill(self) -> None:
        """Index the passages through it."""
        rows = [{key: passage[key] for key in ("id", "title", "text")} for passage in tiny_world().passages]
        source = self._folder / "passages.jsonl"
        source.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        build_index(source, collection=COLLECTION, embedder=HashEmbedder(), folder=Server("127.0.0.1", self.port))


def searching(address: str, model: str, mode: Any, patience: float, answer: float = 10.0) -> tuple[Any, Retriever]:
    """Return the warm model, and a retriever that is open and has read what it keeps in memory."""
    retriever = ChromaRetriever(
        collection=COLLECTION, embedder=HashEmbedder(), k=TOP_K, mode=mode, folder=read_address(address),
        cache_size=0, patience_seconds=patience, answer_seconds=answer,
    )  # fmt: skip
    retriever.warm()
    return load(model), retriever


def run(plan: Plan) -> Iterator[Row]:
    """Kill and stop the server while all questions are answered over it."""
    server = ChromaServer(plan.folder / "chroma")
    with running(server):
        server.fill()
        for name, scene in {**_killed(plan, server), **_stopped(plan, server)}.items():
            yield through(plan, name, scene)


def _killed(plan: Plan, server: ChromaServer) -> dict[str, Scene]:
    again, for_good = outages(plan, server.kill, server.start, (0.0, 0.5))
    address, briefly = server.address, "kill -9, started again within 0.5 s"
    return {
        "chroma-hnsw": Scene("Chroma (hnsw)", briefly, searching, (address, plan.start, "hnsw", 20.0), again),
        "chroma-exact": Scene("Chroma (exact)", briefly, searching, (address, plan.start, "exact", 20.0), again),
        "chroma-away": Scene("Chroma (hnsw)", f"kill -9 in the middle, away for good; {SHORT} s of patience",
                             searching, (address, plan.start, "hnsw", SHORT), for_good, after=0.25),
    }  # fmt: skip


def _stopped(plan: Plan, server: ChromaServer) -> dict[str, Scene]:
    again, for_good = outages(plan, server.stop, server.go_on, (0.5, 2.0))
    address, briefly = server.address, f"stopped for 0.5 to 2 s, longer than a search is given ({TRY} s)"
    return {
        "chroma-stalled": Scene("Chroma (hnsw)", briefly, searching, (address, plan.start, "hnsw", 20.0, TRY), again),
        "chroma-silent": Scene("Chroma (hnsw)", f"stopped in the middle, for good; {SHORT} s of patience",
                               searching, (address, plan.start, "hnsw", SHORT, TRY), for_good, after=0.25),
    }  # fmt: skip
