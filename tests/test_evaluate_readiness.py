"""What is found before a model loads: indexes missing, unfinished, stale or without gold passages, and bad rows."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from agents.embedder import HashEmbedder
from agents.errors import ConfigError, RetrieverError
from agents.holdings import holdings
from agents.index import build_index
from evaluation.evaluate import evaluate, open_retrievers
from evaluation.evaluate_config import EvalConfig
from evaluation.readiness import ready

TOY = HashEmbedder(32)
CORPUS = [{"id": f"nq-p{n}", "title": f"Title {n}", "text": f"Text number {n}."} for n in range(6)]
DEV = [
    {"id": "a", "question": "Where?", "answers": ["here"], "hops": 1, "supporting": ["nq-p0"]},
    {"id": "b", "question": "When?", "answers": ["now"], "hops": 2, "supporting": ["nq-p1", "nq-p2"]},
]


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Bundle two tiny sets and give JADE an empty home."""
    monkeypatch.setenv("JADE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("JADE_DATA", str(tmp_path / "data"))
    for name in ("nq", "popqa"):
        write(tmp_path / "data" / name / "corpus.jsonl.gz", CORPUS)
        write(tmp_path / "data" / name / "dev.jsonl.gz", DEV)
    return tmp_path


def config(**changes: Any) -> EvalConfig:
    return EvalConfig(**{"sets": ["nq"], "embedder": "hash-32", "systems": ["AG@none"], **changes})


def test_a_sound_index_is_ready_and_gives_its_gold_passages_back(home: Path) -> None:
    build_index(dataset="nq", embedder=TOY)
    (asked,) = ready(config())
    assert [example.id for example in asked.examples] == ["a", "b"] and asked.notes == ()
    assert asked.gold["nq-p2"]["text"] == "Text number 2." and set(asked.gold) == {"nq-p0", "nq-p1", "nq-p2"}
    found = open_retrievers(config(), [asked])["nq"].search(["Text number 1"], 2)
    assert found[0][0]["id"] in {row["id"] for row in CORPUS}
    assert evaluate(config(), dry_run=True) is None


def test_all_missing_indexes_are_named_with_their_commands() -> None:
    with pytest.raises(RetrieverError) as error:
        ready(config(sets=["nq", "popqa"]))
    assert "jade index --dataset nq" in str(error.value) and "jade index --dataset popqa" in str(error.value)


def test_an_index_without_the_gold_passages_is_refused(home: Path) -> None:
    write(home / "data" / "nq" / "corpus.jsonl.gz", CORPUS[:2])
    build_index(dataset="nq", embedder=TOY)
    write(home / "data" / "nq" / "corpus.jsonl.gz", CORPUS)
    with pytest.raises(
        RetrieverError, match=r"lacks 1 of the 3 gold passages of nq, such as \['nq-p2'\].*index --dataset nq"
    ):
        ready(config())
    (asked,) = ready(config(lacking="allow"))
    assert any("1 of 3 gold passages" in note for note in asked.notes)


def test_a_gold_passage_with_another_text_counts_as_lacking(home: Path) -> None:
    build_index(dataset="nq", embedder=TOY)
    changed = [{**row, "text": "New."} if row["id"] == "nq-p1" else row for row in CORPUS]
    write(home / "data" / "nq" / "corpus.jsonl.gz", changed)
    with pytest.raises(RetrieverError, match=r"lacks 1 of the 3.*nq-p1"):
        ready(config())
    harmless = [{**row, "text": "New."} if row["id"] == "nq-p5" else row for row in CORPUS]
    write(home / "data" / "nq" / "corpus.jsonl.gz", harmless)
    (asked,) = ready(config())
    assert asked.notes == ("the index does not hold exactly the bundled corpus",)


def test_an_unfinished_index_is_refused() -> None:
    class Unplugged(HashEmbedder):
        def encode(self, texts: Any) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(dataset="nq", embedder=Unplugged(32))
    with pytest.raises(RetrieverError, match=r"unfinished.*jade index --dataset nq"):
        ready(config())


def test_another_embedder_is_refused_before_the_model_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    build_index(dataset="nq", embedder=TOY)
    monkeypatch.setattr("evaluation.evaluate.load_model", lambda config: pytest.fail("a model was loaded"))
    with pytest.raises(RetrieverError, match="was built with the embedder"):
        evaluate(config(embedder="hash-64"))


def test_own_questions_may_name_gold_passages_by_id_or_by_title(home: Path) -> None:
    notes = write(home / "notes.jsonl", [{"id": f"n{row['id']}", **row} | {"id": row["id"]} for row in CORPUS])
    build_index(notes, collection="mine", embedder=TOY)
    ids = holdings("mine").by_title(["Title 3", "Title 4", "Title 9"])
    assert set(ids) == {"Title 3", "Title 4"}
    rows = [{**DEV[0], "supporting": [ids["Title 3"][0]]}, {**DEV[1], "supporting": ["Title 4"]}]
    data = write(home / "my-questions.jsonl", rows)
    (asked,) = ready(config(sets=[], data=str(data), index="mine"))
    assert asked.name == "my-questions" and asked.collection == "mine"
    assert asked.examples[1].supporting == (ids["Title 4"][0],) and asked.gold[ids["Title 4"][0]]["title"] == "Title 4"
    write(data, [{**DEV[0], "supporting": ["Nowhere"]}])
    with pytest.raises(RetrieverError, match=r"lacks 1 of the 1 gold passages.*Nowhere.*correct 'supporting'"):
        ready(config(sets=[], data=str(data), index="mine"))


def test_rows_without_gold_are_refused_with_their_place(home: Path) -> None:
    data = write(home / "mine.jsonl", [DEV[0], {"question": "Why?", "answers": []}, {"answers": ["x"]}])
    with pytest.raises(ConfigError, match=r"(?s)line 2: no gold answer.*line 3: no question"):
        ready(config(sets=[], data=str(data), index="mine"))
    clash = write(home / "nq.jsonl", [DEV[0]])
    with pytest.raises(ConfigError, match="rename the file"):
        ready(config(data=str(clash), index="mine"))
