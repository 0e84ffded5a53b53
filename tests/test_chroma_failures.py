"""What answers in Chroma's place: a real proxy before a real server, and what a user is told of each answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import httpx
import pytest

from agents.chroma import list_collections
from agents.chroma_failures import chroma_errors, is_away
from agents.chroma_place import Server
from agents.errors import RetrieverError
from agents.holdings import holdings
from agents.index import build_index
from agents.retriever import ChromaRetriever
from tests.chroma_process import TOY, again, chroma, rows
from tests.ports import free_port

HTML = "text/html; charset=utf-8"


@dataclass
class Said:
    """An answer that the proxy gives by itself."""

    status: int
    body: str
    kind: str = "application/json"


@dataclass
class Proxy:
    """Hands every request on to a Chroma server, or answers it by itself."""

    target: Server
    says: Said | None = None
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        class Handler(_Handler):
            proxy = self

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.address = Server("127.0.0.1", self._server.server_port, seconds=5)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    proxy: ClassVar[Proxy]

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of requests."""

    def _hand_on(self) -> None:
        self.proxy.asked.append(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        said = self.proxy.says
        if said is None:
            url, kind = f"{self.proxy.target}{self.path}", {"Content-Type": "application/json"}
            got = httpx.request(self.command, url, content=body, headers=kind, timeout=10, trust_env=False)
            said = Said(got.status_code, got.text, got.headers["content-type"])
        data = said.body.encode()
        self.send_response(said.status)
        self.send_header("Content-Type", said.kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = _hand_on


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("behind")
    (folder / "notes.jsonl").write_text(rows(60, "first"))
    with (
        pytest.MonkeyPatch.context() as patch,
        chroma(folder / "store", free_port()) as running,
        closing(Proxy(running.server)) as proxy,
    ):
        patch.setenv("JADE_HOME", str(folder / "home"))
        build_index(folder / "notes.jsonl", collection="notes", embedder=TOY, folder=proxy.address)
        yield proxy


@pytest.fixture
def proxy(behind: Proxy) -> Iterator[Proxy]:
    yield behind
    behind.says = None


FOREIGN = [
    (Said(502, "<html><body>Bad Gateway</body></html>", HTML), r"refused \(502 Bad Gateway, <html>.*runs behind", True),
    (Said(503, "", HTML), r"refused \(503 Service Unavailable\); see that it runs behind what answered", True),
    (Said(429, '{"error": "slow down"}'), r"refused \(429 Too Many Requests, slow down\)", True),
    (Said(401, '{"error": "who?"}'), r"refused \(401 Unauthorized, who\?\); give its token in JADE_CHROMA_T", False),
    (Said(403, "no", HTML), r"refused \(403 Forbidden, no\); give its token in JADE_CHROMA_TOKEN", False),
    (Said(404, "no such page", HTML), r"refused \(404 Not Found, no such page\); its log says more", False),
    (Said(500, '{"error": "InternalError", "message": "a bug"}'), r"500 .*InternalError: a bug\); its log", False),
    (Said(200, "<html>Welcome</html>", HTML), r"not speak as Chroma does \(an answer of content type text/html", True),
    (Said(200, '{"half": '), r"what answers is no Chroma server \(.*\); correct JADE_CHROMA", False),
]  # fmt: skip


@pytest.mark.parametrize(("said", "told", "passing"), FOREIGN, ids=[f"{said.status}" for said, _, _ in FOREIGN])
def test_what_answers_a_search_is_told_and_tried_again_where_it_may_pass(
    proxy: Proxy, said: Said, told: str, passing: bool
) -> None:
    retriever = ChromaRetriever(
        collection="notes", mode="hnsw", embedder=TOY, folder=proxy.address, patience_seconds=0.8, cache_size=0
    )
    found = retriever.search(["violin 7"], 3)
    proxy.says = said
    before = len(proxy.asked)
    with pytest.raises(RetrieverError, match=told) as caught:
        retriever.search(["violin 7"], 3)
    text = str(caught.value)
    assert text.startswith('searching collection "notes": ') and "disk" not in text
    assert (len(proxy.asked) - before > 1) is passing is is_away(caught.value)
    if "no Chroma server" not in text:
        assert f"the Chroma server at {proxy.address}" in text
    proxy.says = None
    assert again(retriever, ["violin 7"], 3) == found


@pytest.mark.parametrize("said", [said for said, _, _ in FOREIGN], ids=[f"{said.status}" for said, _, _ in FOREIGN])
def test_what_answers_instead_of_chroma_is_named_with_its_address(
    proxy: Proxy, said: Said, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("JADE_HOME", str(tmp_path))
    held = holdings("notes", proxy.address)
    proxy.says = said
    (tmp_path / "notes.jsonl").write_text(rows(61, "first"))
    for look in (
        lambda: list_collections(proxy.address),
        lambda: ChromaRetriever(collection="notes", embedder=TOY, folder=proxy.address).identity,
        lambda: build_index(tmp_path / "notes.jsonl", collection="notes", embedder=TOY, folder=proxy.address),
    ):
        with pytest.raises(RetrieverError, match=rf"no Chroma server can be used at {proxy.address} .*JADE_CHROMA"):
            look()
    with pytest.raises(RetrieverError, match='reading collection "notes": '):
        held.passages(["p0001"])


def test_who_is_patient_gets_through_a_proxy_that_came_back(proxy: Proxy) -> None:
    retriever = ChromaRetriever(collection="notes", mode="hnsw", embedder=TOY, folder=proxy.address, cache_size=0)
    found = retriever.search(["violin 7"], 3)
    proxy.says = Said(502, "Bad Gateway", HTML)
    before = len(proxy.asked)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(retriever.search, ["violin 7"], 3)
        while len(proxy.asked) < before + 2:
            time.sleep(0.01)
        proxy.says = None
        assert waiting.result(20) == found


def test_a_collection_that_was_removed_is_told_apart_from_a_damaged_store() -> None:
    from chromadb.errors import InternalError, NotFoundError

    with (
        pytest.raises(RetrieverError, match=r"it was removed or built again meanwhile .* open it again"),
        chroma_errors("reading"),
    ):
        raise NotFoundError("Collection [x] does not exist")
    for error in (InternalError("database disk image is malformed"), OSError(28, "No space left on device")):
        with (
            pytest.raises(RetrieverError, match=r"reading: .*; is the disk full or the store damaged\?"),
            chroma_errors("reading"),
        ):
            raise error


def test_a_failure_outside_any_request_is_told_without_an_address() -> None:
    with pytest.raises(RetrieverError, match="an unknown address did not answer") as caught, chroma_errors("reading"):
        raise httpx.PoolTimeout("no connection was free")
    assert is_away(caught.value)
