"""A served toy: the whole graph over scripted roles and a list of passages, behind a real uvicorn in this loop."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from graphs.jade import build_jade
from graphs.ledger import read_ledger
from graphs.recorded import RecordedGraph
from graphs.trajectory import Trajectory
from serving.app import create_app
from serving.config import ServeConfig
from serving.server import DrainingServer, listen, make_server, url_of
from tests.scripted import Recording, record, says

SECRET = "the inside of the server"


@dataclass
class Toy:
    """A graph that answers "answer to …", fails where the question says boom, and waits where it says hold."""

    folder: Path
    release: threading.Event = field(default_factory=threading.Event)
    holding: threading.Event = field(default_factory=threading.Event)
    """Set while the model is busy with a question that says hold."""

    def __post_init__(self) -> None:
        script = says(planner="R,AG", answer_generator=self._answer)
        self.recording: Recording = record(build_jade, script, self.folder)

    def _answer(self, user: str) -> str:
        if "boom" in user:
            raise RuntimeError(SECRET)
        if "hold" in user:
            self.holding.set()
            assert self.release.wait(20)
        return f"answer to {name_in(user)}"

    @property
    def graph(self) -> RecordedGraph:
        return self.recording.graph

    @property
    def runs(self) -> list[Trajectory]:
        """Return what the ledger holds."""
        return list(read_ledger(self.folder)) if list(self.folder.glob("*.jsonl")) else []


def name_in(text: str) -> str:
    """Return the name of a question, such as Q7; "nobody" where it has none."""
    found = re.findall(r"Q\d+", text)
    return str(found[-1]) if found else "nobody"


@dataclass
class Served:
    """A running server and a client of it."""

    client: httpx.AsyncClient
    server: DrainingServer

    async def ask(self, question: str, **more: Any) -> httpx.Response:
        return await self.client.post("/ask", json={"question": question, **more})

    async def chat(self, question: str, **more: Any) -> httpx.Response:
        body = {"model": "jade", "messages": [{"role": "user", "content": question}], **more}
        return await self.client.post("/v1/chat/completions", json=body)

    def terminate(self) -> None:
        """Do what SIGTERM does."""
        self.server.handle_exit(signal.SIGTERM, None)

    @property
    def counts(self) -> tuple[int, int]:
        """Return how many questions run and wait."""
        return self.server.desk.running, self.server.desk.waiting


@asynccontextmanager
async def serving(graph: RecordedGraph, **config: Any) -> AsyncIterator[Served]:
    """Serve a graph on a free port, and stop gracefully afterwards."""
    settings = ServeConfig(port=0, **config)
    listener = listen(settings)
    server = make_server(graph, settings)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    await until(lambda: server.started)
    limits = httpx.Limits(max_connections=None)
    try:
        async with httpx.AsyncClient(base_url=url_of(listener), timeout=20, trust_env=False, limits=limits) as client:
            yield Served(client, server)
    finally:
        if not server.asked:  # a third signal would end the tests as well
            server.handle_exit(signal.SIGTERM, None)
        await asyncio.wait_for(task, 15)


@asynccontextmanager
async def calling(graph: RecordedGraph, **config: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Call the app without a network: quicker, where nobody hangs up or stops."""
    transport = httpx.ASGITransport(create_app(graph, ServeConfig(**config)), raise_app_exceptions=False)
    async with httpx.AsyncClient(base_url="http://127.0.0.1", transport=transport) as client:
        yield client


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def events(text: str) -> Iterator[tuple[str | None, Any]]:
    """Yield the (name, data) of a stream of server-sent events; "[DONE]" stays as it is."""
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in fields:
            data = fields["data"]
            yield fields.get("event"), data if data == "[DONE]" else json.loads(data)


def play(story: Callable[[], Awaitable[None]]) -> None:
    """Run one asynchronous test."""
    asyncio.run(story())  # type: ignore[arg-type]
