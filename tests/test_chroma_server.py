"""Retrieval on a Chroma server that is really started: the same answers as from a folder, many readers, outages."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agents.chroma import list_collections
from agents.chroma_place import Server, index_place, read_address
from agents.errors import ConfigError, RetrieverError
from agents.holdings import holdings
from agents.index import build_index
from agents.retriever import MODES, ChromaRetriever, Mode, open_retriever
from tests.chroma_process import SECONDS, TOY, again, chroma, rows
from tests.ports import free_port

PAUSE = 0.01
"""Seconds between two searches of a reader, so that a busy machine gets round to building as well."""


def test_a_server_answers_like_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JADE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("agents.chroma._PAGE", 37)  # several pages
    (tmp_path / "notes.jsonl").write_text(rows(120, "first"))
    build_index(tmp_path / "notes.jsonl", collection="notes", embedder=TOY, folder=tmp_path / "store")
    port = free_port()
    with chroma(tmp_path / "served", port) as running:
        server = running.server
        monkeypatch.setenv("JADE_CHROMA", str(server))
        assert index_place() == server and list_collections() == []
        report = build_index(tmp_path / "notes.jsonl", collection="notes", embedder=TOY)
        assert report.added == 120 and list_collections()[0].passages == 120
        assert build_index(tmp_path / "notes.jsonl", collection="notes", embedder=TOY).kept == 120
        queries = ["river words 7", "about the queen", "violin 40"]
        for mode in MODES:
            here = open_retriever("notes", mode=mode, embedder=TOY, folder=tmp_path / "store")
            there = open_retriever("notes", mode=mode, embedder=TOY)
            mine, theirs = there.search(queries, 5), here.search(queries, 5)
            if mode == "hnsw":  # passages of equal score may trade places
                assert [[p["score"] for p in found] for found in mine] == [
                    [p["score"] for p in found] for found in theirs
                ]
            else:
                assert mine == theirs, mode
            assert there.identity == here.identity, "a folder's ledger replays over the server"
        assert holdings("notes").passages(["p0003"])["p0003"]["title"] == "planet 3"
        _many_readers_while_one_builds(tmp_path, server)
        reading = open_retriever("notes", embedder=TOY)
        asking = ChromaRetriever(collection="notes", mode="hnsw", embedder=TOY, patience_seconds=0.3)
        waiting = ChromaRetriever(collection="notes", mode="hnsw", embedder=TOY, patience_seconds=SECONDS)
        assert waiting.search(["violin 41"], 3)
        found = reading.search(["violin 41"], 3)
        assert asking.search(["violin 41"], 3)
    assert reading.search(["violin 42"], 3) and reading.search(["violin 41"], 3) == found, "vectors are in memory"
    with pytest.raises(RetrieverError, match=r"Chroma server at http://127.* did not answer .* see that it runs"):
        asking.search(["violin 43"], 3)
    with pytest.raises(RetrieverError, match="did not answer"):
        before = time.monotonic()
        asking.search(["violin 44"], 3)
    assert time.monotonic() - before < 0.3, "one patience an outage, not one a search"
    with pytest.raises(RetrieverError, match=rf"no Chroma server can be used at http://127.0.0.1:{port} .*chroma run"):
        open_retriever("notes", embedder=TOY)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(waiting.search, ["violin 43"], 3)
        with chroma(tmp_path / "served", port):
            assert again(asking, ["violin 43"], 3), "the same retriever answers again once the server is back"
            assert late.result(SECONDS), "who is patient waits for the server"


def _many_readers_while_one_builds(folder: Path, server: Server) -> None:
    """Readers keep what they read; whoever comes meanwhile is told; afterwards everybody gets the new passages."""
    modes: list[Mode] = ["hnsw", "exact", "hnsw", "hnsw"]
    old = [ChromaRetriever(collection="notes", mode=mode, embedder=TOY, cache_size=0) for mode in modes]
    queries = [f"mountain {number}" for number in range(10, 20)]
    wanted = old[1].search(queries, 5)
    scores = [[passage["score"] for passage in found] for found in wanted]
    for retriever in old:
        retriever.warm()
    (folder / "notes.jsonl").write_text(rows(600, "second"))
    code = (
        "import sys; from agents.index import build_index; from agents.embedder import HashEmbedder; "
        "build_index(sys.argv[1], collection='notes', embedder=HashEmbedder(64))"
    )
    command = [sys.executable, "-c", code, str(folder / "notes.jsonl")]
    builder = subprocess.Popen(command, env={**os.environ, "JADE_CHROMA": str(server)})

    def old_reads(retriever: ChromaRetriever) -> int:
        times = 0
        while not times or builder.poll() is None:
            found = retriever.search(queries, 5)
            assert [[passage["score"] for passage in passages] for passages in found] == scores
            assert all("first" in passage["text"] for passages in found for passage in passages)
            times += 1
            time.sleep(PAUSE)
        return times

    def fresh_reads(mode: Mode) -> Counter[str]:
        seen: Counter[str] = Counter()
        while builder.poll() is None:
            time.sleep(PAUSE)
            try:
                (found,) = open_retriever("notes", mode=mode, embedder=TOY).search(["mountain 12"], 5)
            except RetrieverError as error:
                assert "unfinished" in str(error) or "was updated while it was read" in str(error)
                seen["told"] += 1
                continue
            editions = {passage["text"].split()[0] for passage in found}
            assert len(found) == 5 and len(editions) == 1, "nobody sees half an index"
            seen[editions.pop()] += 1
        return seen

    with ThreadPoolExecutor(8) as pool:
        reading = [pool.submit(old_reads, retriever) for retriever in old]
        opening = [pool.submit(fresh_reads, mode) for mode in ("hnsw", "exact", "hnsw")]
        assert all(job.result(SECONDS) > 1 for job in reading), "they read while it was built"
        seen = sum((job.result(SECONDS) for job in opening), Counter[str]())
    assert builder.returncode == 0 and seen["first"] and seen["told"] and seen.keys() <= {"first", "told", "second"}
    for mode in ("hnsw", "exact"):
        fresh = open_retriever("notes", mode=mode, embedder=TOY)
        assert fresh.passages == 600
        assert all("second" in passage["text"] for passage in fresh.search(["mountain 12"], 5)[0])
    assert [retriever.search(queries, 5) for retriever in old if retriever.mode == "exact"] == [wanted]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("localhost:8000", "wanted http://HOST:PORT"),
        ("http://host:port", "cannot be read"),
        ("http://me:secret@host:8000", "JADE_CHROMA_TOKEN"),
        ("https://host/path", "wanted http://HOST:PORT"),
    ],
)
def test_addresses_that_cannot_be_meant_are_refused(address: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_address(address)
    assert "secret" not in str(caught.value)


def test_addresses_and_tokens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert str(read_address("https://host")) == "https://host:443" and read_address("http://host/").port == 8000
    monkeypatch.setenv("JADE_CHROMA", "http://host:9000")
    assert index_place() == Server("host", 9000) and index_place(tmp_path) == tmp_path
    assert index_place("http://other:1") == Server("other", 1) and Server("host", 9000).headers == {}
    monkeypatch.setenv("JADE_CHROMA_TOKEN", "t")
    assert Server("host", 9000).headers == {"X-Chroma-Token": "t", "Authorization": "Bearer t"}
