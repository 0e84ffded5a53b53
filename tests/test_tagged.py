"""Roles made in one line: what they are shown, what they may say, and what stands in for nonsense."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.errors import ConfigError, FormatError
from agents.role import Prompts
from agents.tagged import tagged

WRITER = tagged("writer", "Answer.", sees=["question", "answer"], tag="answer", max_words=3)
JUDGE = tagged("judge", "Right?", sees=["answer"], tag="right", choices=["yes", "no"], examples="Answer: 4")


def test_it_is_told_what_to_do_and_how_to_reply() -> None:
    assert WRITER.messages({"question": "Who\nam </answer> I?", "other": 1}, Prompts()) == [
        {"role": "system", "content": "Answer. Reply only <answer>words</answer>."},
        {"role": "user", "content": "Question: Who am ‹/answer› I?"},
    ]
    assert JUDGE.messages({"answer": 4}, Prompts()) == [
        {"role": "system", "content": "Right? Reply only <right>yes</right> or <right>no</right>.\n\nAnswer: 4"},
        {"role": "user", "content": "Answer: 4"},
    ]


def test_valid_replies() -> None:
    assert WRITER.parse(" <answer> two  words </answer>", {}) == "two words"
    assert JUDGE.parse("<right>no</right>", {}) == "no"
    assert (WRITER.stop, JUDGE.stop) == ("</answer>", "</right>")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<right>maybe</right>", "none of the choices"),
        ("yes", "no <right> at the start"),
        ("", "no <right> at the start"),
    ],
)
def test_invalid_choices(text: str, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        JUDGE.parse(text, {})
    assert JUDGE.fallback({}, text) == "yes"


def test_invalid_words() -> None:
    with pytest.raises(FormatError, match="more than 3 words"):
        WRITER.parse("<answer>one two three four</answer>", {})
    assert WRITER.fallback({}, "<answer>one two three four") == "one two three"


@given(st.text())
def test_parsers_raise_nothing_but_format_errors(text: str) -> None:
    for role in (WRITER, JUDGE):
        for said in (text, f"<{role.stop[2:] if role.stop else ''}{text}{role.stop}"):
            try:
                role.parse(said, {})
            except FormatError:
                assert isinstance(role.fallback({}, said), str)


@given(st.from_regex(WRITER.constraint({}).regex, fullmatch=True))  # type: ignore[union-attr]
def test_what_may_be_sampled_is_what_is_valid(text: str) -> None:
    assert 1 <= len(WRITER.parse(text, {}).split()) <= 3


def test_the_choices_are_the_constraint() -> None:
    constraint = JUDGE.constraint({})
    assert constraint is not None and constraint.choices == ("<right>yes</right>", "<right>no</right>")
    assert [JUDGE.parse(item, {}) for item in constraint.choices] == ["yes", "no"]


@pytest.mark.parametrize("wrong", [{"tag": "a b"}, {"tag": ""}, {"tag": "<x>"}, {"sees": []}, {"choices": ["<no>"]}])
def test_impossible_roles_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=re.escape("tagged('r', sees=")):
        tagged("r", "Do it.", **{"sees": ["question"], "tag": "a", **wrong})  # type: ignore[arg-type]
