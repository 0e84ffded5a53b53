"""The bundled data is whole, is what its README says, and fits into the repository."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.corpora import DATASETS, data_folder, has_split, read_corpus, read_supporting
from agents.documents import Document, content_digest, text_digest
from agents.errors import ConfigError, SetupError
from agents.starter import SOURCES, read_starter, starter_content

DATA = Path(__file__).resolve().parent.parent / "data"
README = (DATA / "README.md").read_text(encoding="utf-8")

COUNTS = {
    "nq": (1945, 300, 10015),
    "popqa": (908, 300, 9936),
    "ambigqa": (0, 150, 11617),
    "hotpotqa": (3154, 300, 28011),
    "2wikimultihopqa": (1117, 300, 16903),
    "musique": (673, 306, 11510),
    "bamboogle": (0, 60, 7746),
    "squad": (9619, 300, 2867),
}


def rows(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.mark.parametrize("dataset", DATASETS)
def test_each_dataset_has_the_rows_that_the_readme_says(dataset: str) -> None:
    train, dev, passages = COUNTS[dataset]
    assert re.search(rf"^\| {dataset}\b.*?\| {train} \| {dev} \| \d+ \| {passages} \|", README, re.MULTILINE)
    ids = {row["id"] for row in read_corpus(dataset)}
    assert len(ids) == passages
    assert len(rows(DATA / dataset / "dev.jsonl.gz")) == dev
    assert has_split(dataset, "train") == (train > 0)
    if train:
        assert len(rows(DATA / dataset / "train.jsonl.gz")) == train
    for split in ("train", "dev") if train else ("dev",):
        missing = {passage for _, supporting in read_supporting(dataset, split) for passage in supporting} - ids
        assert not missing


def test_train_and_dev_share_no_question() -> None:
    for dataset in DATASETS:
        if has_split(dataset, "train"):
            parts = [
                {row["question"] for row in rows(DATA / dataset / f"{split}.jsonl.gz")} for split in ("train", "dev")
            ]
            assert not parts[0] & parts[1], dataset


def test_decompositions() -> None:
    assert len(rows(DATA / "decompositions" / "train.jsonl.gz")) == 8386


def test_nothing_sealed_and_small_enough() -> None:
    files = [path for path in DATA.rglob("*") if path.is_file()]
    assert not [path for path in files if "seal" in path.name or "test" in path.name]
    assert "sealed" not in README
    assert sum(path.stat().st_size for path in files) < 26_000_000


def test_attribution_is_kept() -> None:
    for word in ("CC BY-SA 4.0", "Apache-2.0", "nelson-liu/lost-in-the-middle", "OSU-NLP-Group/HippoRAG"):
        assert word in README


@pytest.fixture(scope="module")
def starter() -> list[Document]:
    return read_starter()


def test_the_starter_refers_to_real_passages_and_has_their_vectors(starter: list[Document]) -> None:
    assert len(starter) == len({document.id for document in starter}) == 7000
    assert len({document.digest for document in starter}) == 7000
    assert {document.source for document in starter} == set(SOURCES)
    with np.load(DATA / "starter" / "vectors.npz", allow_pickle=False) as stored:
        assert stored["vectors"].shape == (7000, 384)
        assert stored["vectors"].dtype == np.int8
        assert str(stored["name"]) == "all-MiniLM-L6-v2"
    assert starter_content() == content_digest((document.id, document.digest) for document in starter)


def test_the_starter_supports_every_dev_question(starter: list[Document]) -> None:
    have = {document.digest for document in starter}
    for dataset in SOURCES:
        texts = {row["id"]: text_digest(row["title"], row["text"]) for row in read_corpus(dataset)}
        wanted = {texts[passage] for _, supporting in read_supporting(dataset) for passage in supporting}
        assert not wanted - have, dataset


def test_errors_name_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match='no bundled dataset "triviaqa"; there are nq, popqa'):
        list(read_corpus("triviaqa"))
    monkeypatch.setenv("JADE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(SetupError, match="set JADE_DATA"):
        data_folder()
    monkeypatch.setenv("JADE_DATA", str(tmp_path))
    with pytest.raises(SetupError, match=r"corpus.jsonl.gz is missing; restore it"):
        list(read_corpus("nq"))
    (tmp_path / "nq").mkdir()
    (tmp_path / "nq" / "corpus.jsonl.gz").write_bytes(gzip.compress(b'{"id": "1", "title": "", "text": "x"}\n{'))
    with pytest.raises(ConfigError, match=r"corpus.jsonl.gz, line 2: not readable"):
        list(read_corpus("nq"))
