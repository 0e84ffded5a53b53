"""Chroma's server: killed and started again while questions are collected, and away for good."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from agents.chroma_place import Server, read_address
from agents.embedder import HashEmbedder
from agents.index import build_index
from agents.passage import Retriever
from agents.retriever import ChromaRetriever
from faults.collected import Scene, now_and_then, through
from faults.ports import answers, free_port
from faults.rows import Plan, Row
from faults.running import running
from faults.toy import load
from training.tinyoracle import TOP_K
from training.tinyworld import tiny_world

COLLECTION = "tiny"
SHORT = 0.5
"""Patience of a retriever that gives up, in seconds."""


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

    def fill(self) -> None:
        """Index the passages through it."""
        rows = [{key: passage[key] for key in ("id", "title", "text")} for passage in tiny_world().passages]
        source = self._folder / "passages.jsonl"
        source.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        build_index(source, collection=COLLECTION, embedder=HashEmbedder(), folder=Server("127.0.0.1", self.port))


def searching(address: str, model: str, mode: Any, patience: float) -> tuple[Any, Retriever]:
    """Return the warm model, and a retriever that is open and has read what it keeps in memory."""
    retriever = ChromaRetriever(
        collection=COLLECTION, embedder=HashEmbedder(), k=TOP_K, mode=mode, folder=read_address(address),
        cache_size=0, patience_seconds=patience,
    )  # fmt: skip
    retriever.warm()
    return load(model), retriever


def run(plan: Plan) -> Iterator[Row]:
    """Kill the server while all questions are answered over it."""
    draw = random.Random(plan.seed)
    server = ChromaServer(plan.folder / "chroma")

    def restart() -> None:
        server.kill()
        time.sleep(draw.uniform(0.0, 0.5))
        server.start()

    def killed(process: ForkServerProcess) -> int:
        return now_and_then(process, plan, restart)

    def away(process: ForkServerProcess) -> int:
        server.kill()
        process.join()
        server.start()
        return 1

    address, again = server.address, "kill -9, started again within 0.5 s"
    scenes = {
        "chroma-hnsw": Scene("Chroma (hnsw)", again, searching, (address, plan.start, "hnsw", 20.0), killed),
        "chroma-exact": Scene("Chroma (exact)", again, searching, (address, plan.start, "exact", 20.0), killed),
        "chroma-away": Scene("Chroma (hnsw)", f"kill -9 in the middle, away for good; {SHORT} s of patience",
                             searching, (address, plan.start, "hnsw", SHORT), away, after=0.25),
    }  # fmt: skip
    with running(server):
        server.fill()
        for name, scene in scenes.items():
            yield through(plan, name, scene)
