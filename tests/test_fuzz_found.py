"""What fuzzing found, one test for each: readers that let something through, or broke by an error of another's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agents.documents import read_documents
from agents.errors import ConfigError
from agents.recorded_fields import check_fields, many, number, or_none, text, whole
from evaluation.config import merge_config, read_config
from evaluation.mismatch_config import MismatchConfig
from fuzz.configurations import Sample
from fuzz.ledgers import CALL, RUN
from graphs.question import read_question
from tests.test_ledger import read
from training.ppo_config import PPOConfig


def lines(folder: Path, **changes: Any) -> tuple[list[Any], list[Any]]:
    """Read a ledger whose one close line has some fields changed."""
    header = {"event": "close", "run": "r1", "at": "2026-01-01T00:00:00+00:00"}
    record = json.dumps({**header, **RUN.to_json(), **changes}, separators=(",", ":"))
    (folder / "a.jsonl").write_text(f"{record}\n", encoding="utf-8")
    return read(folder)


@pytest.mark.parametrize(
    "field, value",
    [
        ("question", 5), ("answer", None), ("turns", "3"), ("seed", True), ("options", []), ("hashes", [["a", "b"]]),
        ("evidence", "abc"), ("citations", [1]), ("warnings", {"a": 1}), ("hops", [3]), ("workflow", "R,AG"),
        ("budget_hit", 1), ("error", 4),
        ("retrievals", [{"path": 1, "query": "", "ids": [], "scores": [], "seconds": 0}]),
    ],
)  # fmt: skip
def test_a_run_whose_fields_have_other_types_is_reported(tmp_path: Path, field: str, value: object) -> None:
    runs, problems = lines(tmp_path, **{field: value})
    assert runs == [] and len(problems) == 1
    assert field.rstrip("s") in str(problems[0])


@pytest.mark.parametrize(
    "field, value",
    [
        ("prompt_ids", "12"), ("response_ids", [1.5, 2]), ("logprobs", ["-1", "-2"]), ("logprobs", [-1.0]),
        ("mask", [True, False]), ("parents", "root"), ("greedy", 0), ("seconds", [1]),
        ("constraint", {"choices": "ab"}),
    ],
)  # fmt: skip
def test_a_call_whose_fields_have_other_types_is_reported(tmp_path: Path, field: str, value: object) -> None:
    runs, problems = lines(tmp_path, calls=[{**CALL.to_json(), field: value}])
    assert runs == [] and len(problems) == 1


def test_a_run_below_the_header_of_another_is_reported(tmp_path: Path) -> None:
    header = '{"event":"close","run":"r1","at":"2026-01-01T00:00:00+00:00",'
    (tmp_path / "a.jsonl").write_text(header + json.dumps({**RUN.to_json(), "run": "r2"})[1:] + "\n")
    runs, problems = read(tmp_path)
    assert runs == [] and "'r2' below the header of another" in str(problems[0])


def test_an_unharmed_run_is_read_as_it_was(tmp_path: Path) -> None:
    assert lines(tmp_path) == ([RUN], [])


def test_types_are_told_apart() -> None:
    check_fields("thing", {"a": [1, 2], "b": None, "c": 1}, {"a": many(whole), "b": or_none(text), "c": number})
    for value in ([1, True], [1, 2.0], "12", {1: 2}, [None]):
        with pytest.raises(TypeError, match=r"thing: a is .*; wanted a list of wholes"):
            check_fields("thing", {"a": value}, {"a": many(whole)})


@pytest.mark.parametrize("words", [["--name", "${nowhere}"], ["--count", "${name}"], ["--name", "${oc.env:NOT_SET_9}"]])
def test_a_reference_that_leads_nowhere_is_a_configuration_error(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="impossible value"):
        read_config(Sample, words, "test")


def test_a_mapping_in_a_lists_place_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="impossible value"):
        merge_config(PPOConfig, {"datasets": {"a": "b"}})


def test_a_number_beyond_all_floats_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="too large"):
        merge_config(Sample, {"rate": 10**400})
    with pytest.raises(ConfigError, match="rate=-1"):
        merge_config(Sample, {"rate": -1})


@pytest.mark.parametrize("item", [{"a": 1}, ["x"], ()])
def test_a_list_of_containers_is_a_configuration_error(item: object) -> None:
    with pytest.raises(ConfigError, match=r"datasets holds .*; wanted a list of texts or numbers"):
        merge_config(PPOConfig, {"datasets": ["nq", item]})
    with pytest.raises(ConfigError, match="executors holds"):
        merge_config(MismatchConfig, {"executors": [item]})


@pytest.mark.parametrize("word", ["{[]: 1}", "(" * 400, "{[1]}"])
def test_a_word_that_is_nearly_python_stays_text(word: str) -> None:
    assert read_config(Sample, ["--name", word], "test")[0].name == word


def test_a_question_made_of_a_whole_input_can_key_random_numbers() -> None:
    _, question = read_question({"draft": "half \udcbc pair"}, "question", needed=False)
    assert question.encode("utf-8").decode() == '{"draft": "half \ufffd pair"}'


def test_a_page_that_the_parser_gives_up_is_named(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<p>text</p><![CDAT[x]]>", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"page\.html: not HTML"):
        read_documents(page)
