"""Rows that the public formats nest or write otherwise: none vanishes, and none is read as something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agents.errors import ConfigError
from evaluation.dataset import load_examples
from tests.test_dataset import write


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (["T"], r"data\[0\]: a JSON str where an object is expected"),
        ([{"title": "T"}], r"data\[0\]: 'paragraphs' is None, and must be a list"),
        ([{"paragraphs": {"qas": []}}], r"data\[0\]: 'paragraphs' is \{'qas': \[\]\}, and must be a list"),
        ([{"paragraphs": [3]}], r"data\[0\].paragraphs\[0\]: a JSON int where an object"),
        ([{"paragraphs": [{"context": "…"}]}], r"data\[0\].paragraphs\[0\]: 'qas' is None, and must be a list"),
        ([{"paragraphs": [{"qas": "Q?"}]}], r"data\[0\].paragraphs\[0\]: 'qas' is 'Q\?', and must be a list"),
        ([{"paragraphs": [{"qas": ["Q?"]}]}], r"paragraphs\[0\].qas\[0\]: a JSON str where an object"),
        (
            [{"paragraphs": [{"qas": [{"question": "Q?", "answers": ["a"]}]}]}],
            r"a gold answer is 'a', and must be an obj",
        ),
        (
            [{"paragraphs": [{"qas": [{"question": "Q?", "answers": "a"}]}]}],
            r"a gold answer is 'a', and must be an obj",
        ),
        (
            [{"paragraphs": [{"qas": [{"question": "Q?", "answers": [{"text": []}]}]}]}],
            r"a gold answer is \[\], and must",
        ),
    ],
)
def test_squads_nested_rows_never_vanish(tmp_path: Path, data: list[Any], reason: str) -> None:
    good = {"paragraphs": [{"qas": [{"id": "s1", "question": "When?", "answers": [{"text": "1988"}]}]}]}
    path = tmp_path / "dev.json"
    path.write_text(json.dumps({"data": [*data, good]}))
    with pytest.raises(ConfigError, match=f"1 row.s. cannot be used(.|\n)*{reason}"):
        load_examples(path)
    path.write_text(json.dumps({"data": [{"paragraphs": []}, good]}))
    assert [example.id for example in load_examples(path)] == ["s1"], "an empty article is no mistake"


def test_hotpotqa_as_the_hub_has_it_keeps_its_titles(tmp_path: Path) -> None:
    facts = {"title": ["A", "B", "A"], "sent_id": [0, 1, 2]}
    row = {"id": "h", "question": "Who?", "answer": "Ann", "type": "bridge", "supporting_facts": facts}
    (example,) = load_examples(write(tmp_path / "hub.jsonl", [row]))
    assert (example.supporting, example.hops, example.id) == (("A", "B"), 2, "h")
    with pytest.raises(ConfigError, match=r"'supporting_facts' is .*must be a list of texts"):
        load_examples(write(tmp_path / "odd.jsonl", [{**row, "supporting_facts": {"sent_id": [0]}}]))


@pytest.mark.parametrize("gold", [float("nan"), float("inf"), ["x", float("-inf")]])
def test_a_gold_that_is_no_number_is_refused(tmp_path: Path, gold: Any) -> None:
    with pytest.raises(ConfigError, match=r"line 1: a gold answer is -?(nan|inf), and must be text"):
        load_examples(write(tmp_path / "mine.jsonl", [{"question": "A?", "answer": gold}]))
