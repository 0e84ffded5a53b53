"""An HNSW reader whose collection changes finds what it read, or is told; never fewer passages, never a mix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.chroma import open_client
from agents.errors import RetrieverError
from agents.index import build_index
from agents.ranking import exact
from agents.retriever import ChromaRetriever, Mode, open_retriever
from tests.chroma_process import TOY, rows

QUERIES = ["river words 7", "about the queen", "violin 40"]


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    (tmp_path / "notes.jsonl").write_text(rows(60, "first"))
    index(tmp_path)
    return tmp_path


def index(folder: Path, **more: Any) -> None:
    build_index(folder / "notes.jsonl", collection="notes", embedder=TOY, folder=folder / "store", **more)


def reader(folder: Path, mode: Mode, collection: str = "notes") -> ChromaRetriever:
    retriever = ChromaRetriever(collection=collection, mode=mode, embedder=TOY, folder=folder / "store", cache_size=0)
    retriever.warm()
    return retriever


@pytest.mark.parametrize("rebuild", [False, True], ids=["updated", "rebuilt"])
def test_an_old_reader_finds_what_it_read(notes: Path, rebuild: bool) -> None:
    old, exactly = reader(notes, "hnsw"), reader(notes, "exact")
    identity, wanted = old.identity, exactly.search(QUERIES, 60)
    assert [len(found) for found in old.search(QUERIES, 60)] == [60] * 3
    other = [json.loads(line) for line in rows(90, "second").splitlines()]
    kept = [row for row in other if row["id"] != "p0007"]  # others changed, added and removed
    (notes / "notes.jsonl").write_text("\n".join(map(json.dumps, kept)))
    index(notes, rebuild=rebuild)
    for k in (1, 5, 60):
        found = old.search(QUERIES, k)
        assert found == [passages[:k] for passages in wanted]
        assert all("first" in passage["text"] for passages in found for passage in passages)
    assert old.identity == identity
    new = reader(notes, "hnsw")
    assert all("second" in passage["text"] for passages in new.search(QUERIES, 89) for passage in passages)
    assert new.identity != identity


def test_a_reader_that_opens_meanwhile_is_told(notes: Path) -> None:
    client = open_client(notes / "store")
    collection = client.get_collection("notes", embedding_function=None)
    early = ChromaRetriever(collection="notes", mode="hnsw", embedder=TOY, folder=notes / "store")
    assert early.passages == 60, "open, and not read yet"
    collection.modify(metadata={**collection.metadata, "state": "building", "content": ""})
    for retriever in (early, ChromaRetriever(collection="notes", mode="hnsw", embedder=TOY, folder=notes / "store")):
        with pytest.raises(RetrieverError, match="is unfinished: 60 of 60 passages"):
            retriever.search(QUERIES, 5)


@pytest.mark.parametrize("mode", ["exact", "hnsw"])
def test_a_collection_that_is_gone_when_it_is_read_is_named(notes: Path, mode: Mode) -> None:
    retriever = ChromaRetriever(collection="notes", mode=mode, embedder=TOY, folder=notes / "store")
    assert retriever.passages == 60
    open_client(notes / "store").delete_collection("notes")
    with pytest.raises(RetrieverError, match=r'there is no collection "notes" .* build it: jade index'):
        retriever.search(QUERIES, 5)


def test_a_foreign_collection_that_loses_and_gains_passages(tmp_path: Path) -> None:
    client = open_client(tmp_path / "store", create=True)
    foreign = client.create_collection("foreign", embedding_function=None, configuration={"hnsw": {"space": "cosine"}})
    texts = {f"f{number:02}": f"a river of number {number}" for number in range(20)}
    foreign.add(ids=[*texts], embeddings=TOY.encode([*texts.values()]), documents=[*texts.values()])
    old = reader(tmp_path, "hnsw", "foreign")
    wanted = reader(tmp_path, "exact", "foreign").search(["river number 3"], 20)
    foreign.delete(ids=[*texts][:12])
    near = [f"a river of number 3 and {number}" for number in range(30)]
    foreign.add(ids=[f"g{place}" for place in range(30)], embeddings=TOY.encode(near), documents=near)
    assert [old.search(["river number 3"], k)[0] for k in (3, 20)] == [wanted[0][:3], wanted[0]]
    client.delete_collection("foreign")
    assert old.search(["river number 3"], 20) == wanted


def test_nothing_ranked_is_nothing_found() -> None:
    query = TOY.encode(["river", "town"])
    assert exact(np.empty((0, 64), dtype=np.float32), query, 5) == [[], []]


def test_an_unchanged_collection_is_searched_by_chroma(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the tests above would hold for a reader that never asks Chroma."""
    asked: list[int] = []
    from chromadb.api.models.Collection import Collection

    query = Collection.query

    def counted(self: Collection, *given: Any, **more: Any) -> Any:
        asked.append(more["n_results"])
        return query(self, *given, **more)

    monkeypatch.setattr(Collection, "query", counted)
    retriever = open_retriever("notes", mode="hnsw", embedder=TOY, folder=notes / "store")
    assert retriever.search(QUERIES, 5) and asked == [5]
    index_again = [json.loads(line) for line in rows(61, "second").splitlines()]
    (notes / "notes.jsonl").write_text("\n".join(map(json.dumps, index_again)))
    index(notes)
    assert retriever.search(["engine"], 5) and asked == [5, 5]
    assert retriever.search(["novel"], 5) and asked == [5, 5], "once seen to be updated, it is not asked any more"
