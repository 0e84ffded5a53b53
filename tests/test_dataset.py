"""Loading questions: bundled sets, public formats, and refusals that name file, place and reason."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.errors import ConfigError
from evaluation.dataset import BUNDLED, DATASETS, Example, load_examples, splits_of
from evaluation.formats import fields_of, read_rows


def write(path: Path, rows: list[Any]) -> Path:
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def question(number: int, **more: Any) -> dict[str, Any]:
    return {"question": f"Question {number}?", "answers": [f"answer {number}"], **more}


def test_bundled_sets_load_whole_and_in_the_papers_order() -> None:
    counts = {name: len(load_examples(name)) for name in DATASETS}
    assert counts == {
        "nq": 300, "popqa": 300, "ambigqa": 150, "hotpotqa": 300,
        "2wikimultihopqa": 300, "musique": 306, "bamboogle": 60,
    }  # fmt: skip
    assert tuple(counts) == DATASETS
    assert BUNDLED[:7] == DATASETS and splits_of("ambigqa") == ("dev",)


def test_a_bundled_row_keeps_its_fields() -> None:
    example = load_examples("musique", "train", limit=1)[0]
    assert example == Example(
        id="3hop1__210639_147339_47686",
        question="Where do Greyhound buses leave from in the city where the creator of Scene in the "
        "Northwest: Portrait of John Henry Lefroy lived when he died?",
        answers=("Toronto Coach Terminal",),
        type="3hop1",
        hops=3,
        supporting=("musique-p09095", "musique-p07964", "musique-p10553"),
        decomposition=(
            ("What is the creator of Scene in the Northwest: Portrait of John Henry Lefroy?", "Paul Kane"),
            ("Where did #1 live when he died?", "Toronto"),
            ("where do greyhound buses leave from in #2", "Toronto Coach Terminal"),
        ),
        decomposition_kind="gold",
        dataset="musique",
        origin="official-dev",
    )


def test_train_and_dev_share_no_question() -> None:
    for name in BUNDLED:
        if splits_of(name) == ("train", "dev"):
            train = {example.question.casefold() for example in load_examples(name, "train")}
            assert not train & {example.question.casefold() for example in load_examples(name)}


def test_decompositions_load_without_gold_answers_only_when_asked() -> None:
    with pytest.raises(ConfigError, match="no gold answer"):
        load_examples("decompositions", "train")
    rows = load_examples("decompositions", "train", gold=False)
    assert len(rows) == 8386 and {row.origin for row in rows} >= {"musique", "strategyqa"}


def test_flashrag(tmp_path: Path) -> None:
    facts = {"title": ["A", "B", "A"], "sent_id": [0, 1, 2]}
    row = {
        "id": "test_7",
        "question": "Who?",
        "golden_answers": ["Ann", "Anna", "Ann"],
        "metadata": {"type": "bridge", "level": "hard", "supporting_facts": facts},
    }
    (example,) = load_examples(write(tmp_path / "fr.jsonl", [row]))
    assert (example.id, example.answers, example.type) == ("test_7", ("Ann", "Anna"), "bridge")
    assert (example.supporting, example.hops, example.dataset) == (("A", "B"), 2, "fr")


def test_hotpotqa_and_2wiki(tmp_path: Path) -> None:
    rows = [
        {"_id": "a", "question": "Same age?", "answer": "yes", "type": "comparison",
         "supporting_facts": [["A", 0], ["B", 2]], "context": [["A", ["text"]]]},
        {"_id": "b", "question": "Which film?", "answer": "F", "type": "bridge_comparison",
         "supporting_facts": [["A", 0]], "evidences": [["A", "director", "D"]]},
    ]  # fmt: skip
    path = tmp_path / "hotpot_dev.json"
    path.write_text(json.dumps(rows, indent=1))
    first, second = load_examples(path)
    assert (first.id, first.answers, first.hops, first.supporting) == ("a", ("yes",), 2, ("A", "B"))
    assert (second.type, second.hops) == ("bridge_comparison", 4)


def test_musique(tmp_path: Path) -> None:
    row = {
        "id": "2hop__1_2", "question": "Where?", "answer": "Rome", "answer_aliases": ["Roma"],
        "answerable": True,
        "paragraphs": [{"title": "A", "is_supporting": True}, {"title": "B", "is_supporting": False}],
        "question_decomposition": [{"id": 1, "question": "Who?", "answer": "Ann"},
                                   {"id": 2, "question": "Where is #1?", "answer": "Rome"}],
    }  # fmt: skip
    (example,) = load_examples(write(tmp_path / "musique.jsonl.gz", [row]))
    assert (example.answers, example.type, example.hops) == (("Rome", "Roma"), "2hop", 2)
    assert example.decomposition == (("Who?", "Ann"), ("Where is #1?", "Rome"))
    assert example.supporting == ("A",)
    with pytest.raises(ConfigError, match="line 1: 'answerable' is false"):
        load_examples(write(tmp_path / "full.jsonl", [{**row, "answerable": False}]))


def test_squad(tmp_path: Path) -> None:
    item = {
        "id": "s1",
        "question": "When?",
        "answers": [{"text": "1988"}, {"text": "in 1988"}, {"text": "1988"}],
    }
    paragraph = {"context": "…", "qas": [item, {**item, "id": "s2"}]}
    path = tmp_path / "dev-v1.1.json"
    path.write_text(json.dumps({"version": "1.1", "data": [{"title": "T", "paragraphs": [paragraph]}]}))
    first, second = load_examples(path)
    assert (first.id, first.answers, second.id) == ("s1", ("1988", "in 1988"), "s2")
    item["answers"] = []
    path.write_text(json.dumps({"data": [{"title": "T", "paragraphs": [paragraph]}]}, indent=2))
    with pytest.raises(ConfigError, match=r"dev-v1\.1\.json.*\n.*data\[0\]\.paragraphs\[0\]\.qas\[0\]: no gold"):
        load_examples(path)


def test_plain_rows_in_their_spellings(tmp_path: Path) -> None:
    rows = [{"question": "A?", "answer": "x"}, {"question": "B?", "answers": "y"},
            {"question": "C?", "answers": [1988, "1988 "]}, {"question": "D?", "answer": True}]  # fmt: skip
    examples = load_examples(write(tmp_path / "mine.jsonl", rows))
    assert [example.answers for example in examples] == [("x",), ("y",), ("1988",), ("yes",)]
    assert len({example.id for example in examples}) == 4
    assert examples == load_examples(write(tmp_path / "mine.jsonl", rows)), "ids are stable"
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "dev.jsonl", rows)
    assert [example.dataset for example in load_examples(tmp_path / "set")] == ["set"] * 4


@pytest.mark.parametrize(
    ("row", "place", "reason"),
    [
        ({"question": "Two?"}, "line 3", "no gold answer"),
        ({"question": "Two?", "answers": []}, "line 3", "no gold answer"),
        ({"question": "Two?", "answers": [" "]}, "line 3", "no gold answer"),
        ({"answers": ["x"]}, "line 3", "no question"),
        ({"question": " ", "answers": ["x"]}, "line 3", "no question"),
        ({"question": 7, "answers": ["x"]}, "line 3", "no question"),
        ({"question": "Two?", "answers": [{"text": "x"}]}, "line 3", "must be text"),
        ({"question": "Two?", "answers": ["x"], "supporting": "p1"}, "line 3", "list of texts"),
        ({"question": "Two?", "answers": ["x"], "id": ["a"]}, "line 3", "'id'"),
        ({"question": "Two?", "answers": ["x"], "hops": 0}, "line 3", "'hops'"),
        (
            {"question": "Two?", "answers": ["x"], "decomposition": [{"q": "?"}]},
            "line 3",
            "decomposition step",
        ),
        ("{broken", "line 3", "not JSON"),
        ("[1]", "line 3", "a JSON list where an object"),
        ({"answers": ["x"]}, "line 3", "there is no field 'question'"),
        (question(0), "line 3", r"duplicate of line 1 \(question"),
        (question(0, id="other"), "line 3", "duplicate of line 1 under another id"),
        ({"question": "Two?", "answers": ["x"], "id": "one"}, "line 3", r"duplicate of line 2 \(id 'one'\)"),
    ],
)
def test_a_bad_row_is_refused_by_file_place_and_reason(tmp_path: Path, row: Any, place: str, reason: str) -> None:
    path = write(tmp_path / "bad.jsonl", [question(0), question(1, id="one"), row, question(3)])
    with pytest.raises(ConfigError, match=rf"bad\.jsonl: 1 row.*\n  {place}: .*{reason}"):
        load_examples(path)


def test_all_bad_rows_are_counted_and_the_first_shown(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.jsonl", [{"question": f"{n}?"} for n in range(25)])
    with pytest.raises(ConfigError, match="25 row") as caught:
        load_examples(path)
    assert "line 20: no gold" in str(caught.value) and "line 21" not in str(caught.value)
    assert "and 5 more" in str(caught.value)


def test_a_bad_first_line_is_a_line_like_any_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="line 1: not JSON"):
        load_examples(write(tmp_path / "bad.jsonl", ["{broken", question(1)]))


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n\n")
    with pytest.raises(ConfigError, match="holds no questions"):
        load_examples(empty)
    torn = write(tmp_path / "torn.jsonl.gz", [question(n) for n in range(200)])
    torn.write_bytes(torn.read_bytes()[:-20])
    with pytest.raises(ConfigError, match="cannot be read"):
        load_examples(torn)
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes('{"question": "Où?", "answers": ["là"]}'.encode("latin-1"))
    with pytest.raises(ConfigError, match="cannot be read"):
        load_examples(latin)


def test_unknown_names_list_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'hotpot'.*did you mean 'hotpotqa'.*nq, popqa, .*FlashRAG"):
        load_examples("hotpot")
    with pytest.raises(ConfigError, match="ambigqa has no 'train' part; it has: dev"):
        load_examples("ambigqa", "train")
    with pytest.raises(ConfigError, match=r"holds none of dev\.jsonl"):
        load_examples(tmp_path)
    with pytest.raises(ConfigError, match="limit=0"):
        load_examples("nq", limit=0)


def test_the_data_folder_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nq").mkdir()
    write(tmp_path / "nq" / "dev.jsonl.gz", [question(1)])
    monkeypatch.setenv("JADE_DATA", str(tmp_path))
    assert [example.question for example in load_examples("nq")] == ["Question 1?"]


def test_a_sample_is_stable_and_independent_of_order(tmp_path: Path) -> None:
    rows = [question(n, id=n) for n in range(60)]
    sample = load_examples(write(tmp_path / "a.jsonl", rows), sample=20)
    assert len(sample) == 20 and [int(e.id) for e in sample] == sorted(int(e.id) for e in sample)
    random.Random(1).shuffle(rows)
    again = load_examples(write(tmp_path / "b.jsonl", rows), sample=20)
    assert {e.id for e in again} == {e.id for e in sample}
    other = load_examples(tmp_path / "b.jsonl", sample=20, seed=1)
    assert {e.id for e in other} != {e.id for e in sample}
    assert len(load_examples(tmp_path / "b.jsonl", sample=600)) == 60
    assert len(load_examples(tmp_path / "b.jsonl", sample=20, limit=5)) == 5


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = ["question", "answers", "answer", "golden_answers", "metadata", "_id", "id", "supporting_facts",
        "type", "question_decomposition", "paragraphs", "answer_aliases", "hops", "supporting",
        "decomposition"]  # fmt: skip


@given(st.dictionaries(st.sampled_from(KEYS), json_values))
def test_no_row_breaks_the_reader(row: dict[str, Any]) -> None:
    try:
        fields = fields_of(row)
    except ValueError:
        return
    assert Example(**fields).question.strip()
    assert all(isinstance(gold, str) and gold.strip() for gold in fields["answers"])


def test_read_rows_names_places_in_lists(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps([question(1), 5]))
    assert [place for place, _ in read_rows(path)] == ["row 1", "row 2"]
    assert [row for _, row in read_rows(path)][1] == "a JSON int where an object is expected"
