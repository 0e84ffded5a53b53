"""The starter corpus: chosen evenly, built from its vectors at first use, refused where it does not match the data."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from agents.corpora import DATASETS
from agents.errors import SetupError
from agents.index import build_index
from agents.retriever import open_retriever
from agents.starter import choose, make_starter, quantise, read_starter
from tests.test_index import TOY, Counting


@pytest.fixture
def tiny_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight corpora of 30 passages; the first two share a text."""
    for dataset in DATASETS:
        folder = tmp_path / "data" / dataset
        folder.mkdir(parents=True)
        rows = [
            {"id": f"{dataset}-p{n}", "title": f"Title {n}", "text": f"{dataset} passage {n} " * 20} for n in range(30)
        ]
        rows[0]["text"] = "shared words " * 20
        (folder / "corpus.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
        for split, place in (("dev", 3), ("train", 4)):
            question = {"id": "q", "question": f"{dataset} passage {place}?", "supporting": [f"{dataset}-p{place}"]}
            (folder / f"{split}.jsonl.gz").write_bytes(gzip.compress(json.dumps(question).encode()))
    monkeypatch.setenv("JADE_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def test_the_starter_is_chosen_evenly_without_doubles(tiny_data: Path) -> None:
    chosen = choose(70)
    assert chosen == choose(70)
    assert len(chosen) == len(set(chosen)) == 70
    assert {dataset: [d for d, _ in chosen].count(dataset) for dataset in DATASETS[:7]} == dict.fromkeys(
        DATASETS[:7], 10
    )
    assert all((dataset, f"{dataset}-p3") in chosen for dataset in DATASETS[:7])
    texts = [document.text for document in (make_starter(TOY, size=70), read_starter())[1]]
    assert len(set(texts)) == 70


def test_the_starter_is_built_from_its_vectors_at_first_use(tiny_data: Path, tmp_path: Path) -> None:
    make_starter(TOY, size=70)
    counting = Counting()
    retriever = open_retriever(embedder=counting, folder=tmp_path / "store")
    assert counting.seen == 0
    assert retriever.passages == 70
    assert retriever.search(["nq passage 3"])[0][0]["id"] == "nq-p3"
    told: list[str] = []
    open_retriever(embedder=TOY, folder=tmp_path / "store", progress=lambda what, *_: told.append(what))
    assert told == []

    make_starter(TOY, size=35)
    assert open_retriever(embedder=TOY, folder=tmp_path / "store").passages == 35
    counting = Counting()
    counting.digest = "other"
    assert open_retriever(embedder=counting, folder=tmp_path / "another").passages == 35
    assert counting.seen == 35


def test_a_starter_that_does_not_match_the_data_is_refused(tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"passages.jsonl.gz cannot be read .*git checkout"):
        read_starter()
    make_starter(TOY, size=14)
    corpus = tiny_data / "nq" / "corpus.jsonl.gz"
    corpus.write_bytes(gzip.compress(gzip.decompress(corpus.read_bytes()).replace(b"nq passage", b"nq sentence")))
    with pytest.raises(SetupError, match="of other passages than the data folder's"):
        build_index(embedder=TOY, folder=tmp_path / "store")
    (tiny_data / "starter" / "vectors.npz").write_bytes(b"PK torn")
    with pytest.raises(SetupError, match=r"vectors.npz cannot be read"):
        open_retriever(embedder=TOY, folder=tmp_path / "store")


def test_quantised_vectors_keep_their_direction() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 384)).astype(np.float32)
    stored = quantise(vectors).astype(np.float64)
    assert stored.max() == 31 or stored.min() == -31
    cosine = (stored * vectors).sum(1) / np.linalg.norm(stored, axis=1) / np.linalg.norm(vectors, axis=1)
    assert cosine.min() > 0.999
