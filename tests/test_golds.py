"""Gold answers of recorded runs: given, from a file, from the bundled sets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from agents.errors import ConfigError
from evaluation.dataset import load_examples
from evaluation.golds import Golds
from tests.test_recorded_credit import RUN


def test_what_is_given_counts_for_every_run() -> None:
    assert Golds(["Salzburg", "Salzburg, Austria"]).of(RUN) == ("Salzburg", "Salzburg, Austria")
    with pytest.raises(ConfigError, match="no gold answer"):
        Golds([" "])


def test_a_file_is_joined_by_id_and_else_by_question(tmp_path: Path) -> None:
    file = tmp_path / "gold.jsonl"
    rows = [{"id": "a", "question": "Who?", "answers": ["Ada"]}, {"id": "b", "question": "Q", "answers": ["Bob"]}]
    file.write_text("\n".join(map(json.dumps, rows)))
    golds = Golds(file=file)
    assert golds.of(replace(RUN, question_id="a")) == ("Ada",)  # the id comes before the question
    assert golds.of(replace(RUN, question_id="unknown")) == ("Bob",)
    assert golds.of(replace(RUN, question="never asked")) == ()
    with pytest.raises(ConfigError, match="no dataset or file"):
        Golds(file=tmp_path / "missing.jsonl")


def test_bundled_sets_are_searched_the_runs_collection_first(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def load(name: str, split: str) -> object:
        read.append(f"{name}/{split}")
        return load_examples(name, split, limit=3)

    monkeypatch.setattr("evaluation.golds.load_examples", load)
    example = load_examples("musique", "dev", limit=1)[0]
    golds = Golds()
    run = replace(RUN, question_id=example.id, identity={"retriever": {"collection": "musique"}})
    assert golds.of(run) == example.answers and read == ["musique/dev"]
    assert golds.of(replace(run, question_id=None, question=example.question)) == example.answers
    assert golds.of(replace(RUN, question="What was never asked anywhere?")) == ()
    assert read[:2] == ["musique/dev", "nq/dev"] and len(read) == len(set(read)) > 10
