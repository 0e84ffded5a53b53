"""What may be asked: whatever is given to a graph becomes its input and the run's question, or is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from agents.errors import ConfigError
from agents.role import quote
from graphs.options import Options

MAX_QUESTION_CHARACTERS = 4000
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def as_mapping(given: Any, key: str) -> Any:
    """Return the input with a bare string under `key`."""
    return {key: given} if isinstance(given, str) else given


def read_question(given: Any, key: str, *, needed: bool) -> tuple[Any, str]:
    """Return the input as LangGraph wants it, and the run's question for the record.

    Args:
        given: A text, or a mapping with the graph's input.
        key: Input key that holds the question.
        needed: Whether the graph cannot do without; else the whole input stands for it in the record.

    Raises:
        ConfigError: The question is missing, blank, too long, or not text that can be encoded; options beside it.
    """
    given = as_mapping(given, key)
    if isinstance(given, Mapping) and key in given:
        question = check_question(given[key], key)
        if needed and (misplaced := sorted(set(given) & Options.model_fields.keys())):
            raise ConfigError(
                f"options {misplaced} stand in the input beside the {key}, where nothing reads them; give them as "
                "arguments, such as graph.invoke(question, max_turns=2), or to a server as context"
            )
        return {**given, key: question}, question
    if needed:
        what = type(given).__name__ if not isinstance(given, Mapping) else f"a mapping without {key!r}"
        raise ConfigError(f"the input is {what}; give a question as str or {{{key!r}: …}}")
    written = json.dumps(given, default=str, ensure_ascii=False)
    return given, _LONE_SURROGATE.sub("\ufffd", written)  # it keys random numbers, and so must be UTF-8


def check_question(question: Any, key: str = "question") -> str:
    """Return a question without the white space around it.

    Args:
        question: What was given.
        key: What it is called, for messages.

    Raises:
        ConfigError: It is no text, blank, too long, or not text that can be encoded.
    """
    if not isinstance(question, str) or not quote(question):
        raise ConfigError(f"the {key} is {question!r:.60}; give a text that is not blank")
    if len(question) > MAX_QUESTION_CHARACTERS:
        raise ConfigError(
            f"the {key} has {len(question):,} characters, {MAX_QUESTION_CHARACTERS:,} are allowed: "
            "ask it shorter, and put long material into the index (`jade index`)"
        )
    if _LONE_SURROGATE.search(question):
        raise ConfigError(f"the {key} {question!r:.60} holds bytes that are not UTF-8; give it as UTF-8 text")
    return question.strip()
