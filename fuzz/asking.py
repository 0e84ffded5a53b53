"""What may be asked: arbitrary inputs of a graph and arbitrary options."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from agents.errors import ConfigError
from agents.role import quote
from agents.workflow import parse_forced
from fuzz.material import Material
from fuzz.plans import WORDS as PLAN_WORDS
from fuzz.target import Target, hold
from graphs.options import Options, read_options
from graphs.question import MAX_QUESTION_CHARACTERS, read_question

NAMES = (*Options.model_fields, "max_turn", "question", "")
_TEXTS = ("R,AG", "QDS/R,DS,AG", "train", "off", "on", "free", "constrained", "low", "full", "12", "1e3", "", "nan")


def _check_question(data: bytes) -> None:
    material = Material(data)
    needed, shape = bool(material.below(2)), material.below(4)
    key = "question" if material.below(4) else "text"
    given: Any = material.value() if shape == 3 else material.text()
    if shape == 2:
        given = given * 200  # long ones
    if shape == 1:
        given = {key: given, "more": [given]}
    try:
        asked, question = read_question(given, key, needed=needed)
    except ConfigError:
        return
    question.encode("utf-8")
    if not (isinstance(asked, dict) and key in asked):
        hold(not needed, "without a question there is no run where one is needed")
        return
    hold(asked[key] == question == question.strip() and quote(question), "a question is not blank")
    hold(len(question) <= MAX_QUESTION_CHARACTERS, "a question is not too long")
    hold(read_question(asked, key, needed=True) == (asked, question), "and is read as itself")


def _option(material: Material) -> Any:
    return material.pick(_TEXTS) if material.below(2) else material.value(1)


def _check_options(data: bytes) -> None:
    material = Material(data)
    values = {material.pick(NAMES): _option(material) for _ in range(material.below(5))}
    defaults = Options(workflow="QDS", max_depth=1) if material.below(4) == 1 else None
    try:
        options = read_options(values, defaults)
    except ConfigError as error:
        hold(str(error), "a refusal says why")
        return
    hold(read_options(options.model_dump()) == options, "options given again are the same")
    hold(0 <= options.tau <= 5 and options.seed >= 0, "the sampling is possible")
    hold(options.max_turns is None or 1 <= options.max_turns <= 64, "budgets are within their limits")
    if options.workflow:
        workflow = parse_forced(options.workflow)
        hold(parse_forced(str(workflow)) == workflow, "a forced plan prints back to itself")
        hold(workflow.needs.depth <= (2 if options.max_depth is None else options.max_depth), "and fits")
    json.dumps(options.model_dump())


def _question_seeds() -> Iterator[bytes]:
    for text in ("Who wrote Dune?", "  \u200b ", "a" * 30, "\u202eWho?"):
        for head in range(4):
            yield bytes([head % 2, head, 1]) + text.encode()
    yield b"\x00\x03\x01\x07\x02\x03abc\x00\x02xy"


def _option_seeds() -> Iterator[bytes]:
    for name in range(len(NAMES)):
        for text in range(len(_TEXTS)):
            yield bytes([1, name, 1, text, name % 4])
        for kind in range(9):
            yield bytes([2, name, 0, kind, 2, 1, 1, name + 1, 0, kind, 3, 1])


TARGETS = (
    Target(
        "question",
        "a question that is not blank, not too long, UTF-8 and read as itself, or ConfigError",
        _check_question,
        _question_seeds,
        ("Who?", " ", "\u200b", "\u00a0", "\u3000"),
        256,
        700_000,
    ),
    Target(
        "options",
        "options within their limits that, given again, are the same, or ConfigError",
        _check_options,
        _option_seeds,
        PLAN_WORDS,
        96,
        500_000,
    ),
)
