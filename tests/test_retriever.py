"""Searching a collection: exact against brute force, every mode, identity, and what a user is told when it cannot."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import agents.ranking
from agents.chroma import open_client
from agents.embedder import HashEmbedder, Matrix, SentenceEmbedder, open_embedder, unit_rows
from agents.errors import ConfigError, RetrieverError, SetupError
from agents.index import build_index
from agents.ranking import Lexical, exact, fuse
from agents.recall import recall_at_k
from agents.retriever import MODES, ChromaRetriever, Mode, open_retriever

TOY = HashEmbedder(512)
TEXTS = {
    "p1": ("Emma", "Jane Austen wrote the novel Emma."),
    "p2": ("Jane Eyre", "Charlotte Bronte wrote the novel Jane Eyre."),
    "p3": ("Paris", "Paris is the capital of France."),
    "p4": ("Berlin", "Berlin is the capital of Germany."),
    "p5": ("Danube", "The river Danube flows through Vienna."),
    "p6": ("", "Untitled words about a river in France."),
}


class Counting(HashEmbedder):
    """A hash embedder that counts the queries it is asked for."""

    def __init__(self) -> None:
        super().__init__(512)
        self.queries: list[str] = []

    def encode_queries(self, texts: Sequence[str]) -> Matrix:
        self.queries += texts
        return self.encode(texts)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("retriever")
    lines = [json.dumps({"id": key, "title": title, "text": text}) for key, (title, text) in TEXTS.items()]
    (folder / "books.jsonl").write_text("\n".join(lines))
    build_index(folder / "books.jsonl", collection="books", embedder=TOY, folder=folder / "store")
    return folder / "store"


def opened(store: Path, mode: Mode = "exact", k: int = 5) -> ChromaRetriever:
    return open_retriever("books", mode=mode, k=k, embedder=TOY, folder=store)


def test_exact_search_is_brute_force(store: Path) -> None:
    query = "Who wrote the novel Jane Eyre?"
    scores = TOY.encode([f"{title}\n{text}" if not text.startswith(title) else text for title, text in TEXTS.values()])
    cosines = dict(zip(TEXTS, scores.astype(float) @ TOY.encode([query])[0].astype(float), strict=True))
    wanted = sorted(cosines, key=lambda key: (-round(cosines[key], 6), key))
    (found,) = opened(store).search([query], 6)
    assert [passage["id"] for passage in found] == wanted
    assert found[0] == {
        "id": "p2",
        "title": "Jane Eyre",
        "text": TEXTS["p2"][1],
        "score": pytest.approx(cosines["p2"], abs=2e-6),
    }


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_finds_the_obvious_passage(store: Path, mode: Mode) -> None:
    retriever = opened(store, mode, k=2)
    results = retriever.search(["the capital of France", "Who wrote Emma?", "river Danube"])
    assert [passages[0]["id"] for passages in results] == ["p3", "p1", "p5"]
    assert all(len(passages) <= 2 for passages in results)
    for passages in results:
        scores = [passage["score"] for passage in passages]
        assert scores == sorted(scores, reverse=True)


def test_hnsw_gives_the_same_scores_as_exact(store: Path) -> None:
    queries = ["the capital of Germany", "novel"]
    assert opened(store, "hnsw").search(queries, 2) == opened(store).search(queries, 2)
    assert len(opened(store, "hnsw").search(["novel"], 50)[0]) == 6


def test_bm25_leaves_out_what_shares_no_word(store: Path) -> None:
    retriever = opened(store, "bm25")
    assert [p["id"] for p in retriever.search(["capital"])[0]] == ["p3", "p4"]
    assert retriever.search(["zebra", "the of"]) == [[], []]


def test_results_do_not_depend_on_the_batch(store: Path) -> None:
    queries = ["the capital of France", "novel", "river", "Jane", "Vienna", "of the", "novel"]
    for mode in ("exact", "bm25", "hybrid"):  # HNSW breaks ties as it likes
        together = opened(store, mode).search(queries, 4)
        assert together == [opened(store, mode).search([query], 4)[0] for query in queries]


def test_the_scores_of_many_queries_are_not_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    vectors, queries = (unit_rows(draw.standard_normal((size, 8))) for size in (40, 7))
    whole = exact(vectors, queries, 3)
    for most in (1, 100, 120):  # 1, 2 and 3 queries at a time
        monkeypatch.setattr(agents.ranking, "SCORES", most)
        assert exact(vectors, queries, 3) == whole and len(whole) == 7


def test_the_cache_is_asked_first_and_stays_small(store: Path) -> None:
    counting = Counting()
    retriever = ChromaRetriever(collection="books", embedder=counting, folder=store, cache_size=2)
    first = retriever.search(["a novel", "a river", "a novel"])
    assert counting.queries == ["a novel", "a river"]
    first[0][0]["text"] = "changed by a caller"
    assert retriever.search(["a novel"])[0][0]["text"] in dict(TEXTS.values()).values()
    assert counting.queries == ["a novel", "a river"]
    retriever.search(["a town"])
    retriever.search(["a novel"])
    assert counting.queries == ["a novel", "a river", "a town"]
    retriever.search(["a river"])
    assert counting.queries[-1] == "a river"
    assert len(retriever.search(["a novel"], 2)[0]) == 2


def test_threads_share_a_retriever(store: Path) -> None:
    retriever = ChromaRetriever(collection="books", embedder=TOY, folder=store)
    queries = [f"{word} {n}" for n in range(20) for word in ("novel", "river", "capital")]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda query: retriever.search([query], 3)[0], queries))
    assert results == opened(store).search(queries, 3)


def test_identity_changes_with_what_is_searched_and_how(store: Path, tmp_path: Path) -> None:
    base = opened(store)
    assert base.identity == opened(store).identity == base.identity_for(5)
    assert set(base.identity) == {
        *("environment", "collection", "embedder", "embedder_digest", "distance", "mode", "k", "content")
    }
    (tmp_path / "books.jsonl").write_text('{"id": "p1", "title": "Emma", "text": "Another text."}')
    build_index(tmp_path / "books.jsonl", collection="books", embedder=TOY, folder=tmp_path / "store")
    build_index(tmp_path / "books.jsonl", collection="books2", embedder=TOY, folder=tmp_path / "store")
    build_index(tmp_path / "books.jsonl", collection="books", embedder=HashEmbedder(8), folder=tmp_path / "8")
    others = [
        *(opened(store, mode) for mode in MODES),
        opened(store, k=3),
        opened(tmp_path / "store"),
        open_retriever("books2", embedder=TOY, folder=tmp_path / "store"),
        open_retriever("books", embedder=HashEmbedder(8), folder=tmp_path / "8"),
    ]
    hashes = {retriever.identity["environment"] for retriever in others}
    assert len(hashes) == 8
    assert base.identity["environment"] in hashes
    assert all(isinstance(value, str) for value in base.identity.values())


def test_the_langchain_face(store: Path) -> None:
    retriever = opened(store, k=2)
    documents = retriever.invoke("Who wrote Emma?")
    assert len(documents) == 2
    assert (documents[0].id, documents[0].page_content) == ("p1", TEXTS["p1"][1])
    assert documents[0].metadata["title"] == "Emma"
    assert documents[0].metadata["source"] == "books.jsonl"
    assert asyncio.run(retriever.ainvoke("Who wrote Emma?")) == documents
    assert retriever.batch(["Who wrote Emma?", "river"])[0] == documents


def test_bad_queries_and_arguments(store: Path) -> None:
    with pytest.raises(ConfigError, match="query 1 of 2 is blank"):
        opened(store).search(["fine", " \n"])
    with pytest.raises(ConfigError, match="k is 0"):
        opened(store).search(["fine"], 0)
    with pytest.raises(ConfigError, match="k is 0"):
        opened(store, k=0)
    with pytest.raises(ConfigError, match='no retrieval mode "dense"; there are exact, hnsw, bm25, hybrid'):
        opened(store, "dense")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match='"" cannot be the name of a collection'):
        open_retriever("", embedder=TOY, folder=store)  # not the starter corpus by silence
    assert opened(store).search([]) == []


def test_missing_and_empty_collections_name_the_command(store: Path, tmp_path: Path) -> None:
    with pytest.raises(RetrieverError, match=r"no index in .*; build it: jade index FOLDER --collection books"):
        open_retriever("books", embedder=TOY, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RetrieverError, match=r'no collection "other" in .*jade index FOLDER --collection other'):
        open_retriever("other", embedder=TOY, folder=store)
    with pytest.raises(RetrieverError, match="jade index --dataset nq"):
        open_retriever("nq", embedder=TOY, folder=store)
    open_client(tmp_path, create=True).create_collection("hollow", embedding_function=None)
    with pytest.raises(RetrieverError, match='collection "hollow" is empty; fill it: jade index'):
        open_retriever("hollow", embedder=TOY, folder=tmp_path)


def test_a_damaged_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "chroma.sqlite3").write_bytes(b"this is no database" * 100)
    with pytest.raises(RetrieverError, match="cannot be opened"):
        open_retriever("books", embedder=TOY, folder=tmp_path)


def test_foreign_collections_are_read(tmp_path: Path) -> None:
    client = open_client(tmp_path, create=True)
    theirs = client.create_collection("theirs", embedding_function=None)
    texts = [text for _, text in TEXTS.values()]
    theirs.add(ids=list(TEXTS), embeddings=3 * TOY.encode(texts), documents=texts)
    for mode in MODES:
        retriever = open_retriever("theirs", mode=mode, embedder=TOY, folder=tmp_path)
        assert retriever.search(["Paris capital France"])[0][0] == {
            "id": "p3",
            "title": "",
            "text": TEXTS["p3"][1],
            "score": pytest.approx(retriever.search(["Paris capital France"])[0][0]["score"]),
        }
        assert retriever.identity["content"]
    with pytest.raises(RetrieverError, match=r'vectors of 512 dimensions, the embedder "hash-8" makes 8'):
        open_retriever("theirs", embedder=HashEmbedder(8), folder=tmp_path).search(["Paris"])
    bare = client.create_collection("bare", embedding_function=None)
    bare.add(ids=["1"], embeddings=TOY.encode(["x"]))
    with pytest.raises(RetrieverError, match="entries without a document text"):
        open_retriever("bare", embedder=TOY, folder=tmp_path)


def test_bm25_needs_no_embedder(store: Path) -> None:
    retriever = open_retriever("books", mode="bm25", embedder="/nowhere/at/all", folder=store)
    assert retriever.search(["Danube"])[0][0]["id"] == "p5"
    assert retriever.identity["embedder"] == "-"


def test_recall_counts_passages_and_questions(store: Path) -> None:
    questions = [("capital of France", ["p3"]), ("river Danube", ["p5", "p2"]), ("novel Emma", ["p3", "p4"])]
    recall = recall_at_k(opened(store), questions, 1, batch=2)
    assert (recall.k, recall.questions, recall.found, recall.complete) == (1, 3, 0.5, pytest.approx(1 / 3))
    assert recall_at_k(opened(store), questions, 6).complete == 1.0
    with pytest.raises(ConfigError, match="at least one question"):
        recall_at_k(opened(store), [])
    with pytest.raises(ConfigError, match='the question "bare" has no supporting passages'):
        recall_at_k(opened(store), [("bare", [])])


def test_ties_go_to_the_smaller_id_however_many() -> None:
    vectors = unit_rows(np.ones((40, 8)))
    assert [row for row, _ in exact(vectors, vectors[:1], 3)[0]] == [0, 1, 2]


@given(
    arrays(np.int8, st.tuples(st.integers(1, 30), st.just(6)), elements=st.integers(-3, 3)),
    st.integers(1, 35),
)
def test_exact_equals_a_full_sort(numbers: np.ndarray, k: int) -> None:
    vectors = unit_rows(numbers)
    queries = unit_rows(np.eye(6)[:2] + 0.25)
    for query, ranking in zip(queries, exact(vectors, queries, k), strict=True):
        scores = np.round(vectors.astype(float) @ query.astype(float), 6)
        wanted = sorted(range(len(vectors)), key=lambda row: (-scores[row], row))[:k]
        assert [scores[row] for row, _ in ranking] == pytest.approx([scores[row] for row in wanted], abs=2e-6)
        assert len({row for row, _ in ranking}) == min(k, len(vectors))


def test_fusion_by_hand() -> None:
    fused = fuse([[(7, 0.9), (3, 0.8)], [(3, 12.0), (5, 2.0)]], 3)
    assert fused == [
        (3, pytest.approx(1 / 62 + 1 / 61)),
        (7, pytest.approx(1 / 61)),
        (5, pytest.approx(1 / 62)),
    ]


def test_bm25_prefers_the_rare_word() -> None:
    lexical = Lexical(["common rare", "common word", "common thing"])
    assert lexical.search(["common rare"], 1)[0][0][0] == 0


def test_hash_embedder_is_stable_and_normalised() -> None:
    vectors = TOY.encode(["Emma by Jane Austen", "", "!?"])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1.0, 0.0, 0.0])
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors[:1], HashEmbedder(512).encode_queries(["emma BY jane austen"]))
    assert open_embedder("hash-512").digest == TOY.digest != open_embedder("hash").digest


def test_an_unknown_embedder_is_named(tmp_path: Path) -> None:
    assert isinstance(open_embedder(None), SentenceEmbedder)
    assert open_embedder(None).name == "all-MiniLM-L6-v2"
    with pytest.raises(SetupError, match='the embedder "no such/model!" is neither a folder here nor to be had'):
        _ = open_embedder("no such/model!").digest
    with pytest.raises(SetupError, match=r"is no sentence-transformers model \(no modules.json or config.json"):
        _ = open_embedder(str(tmp_path)).digest
