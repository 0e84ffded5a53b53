"""The two decomposers: split a question into 2 to 4 sub-questions, dependent (QDS) or independent (QDP).

In a serial item `#k` stands for the answer of item k; `graphs.serial` replaces it before the item is planned.
The value is the list of items, empty when the response is invalid: the node then runs as a plain chain.
Against the released parser: nothing may stand between the tags, items must be distinct, and none may be the
question.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping

from agents.call import Constraint
from agents.errors import FormatError
from agents.role import Inputs, Role, unquote
from agents.view import field, trace_lines

MIN_ITEMS, MAX_ITEMS = 2, 4
REFERENCE = re.compile(r"#([0-9]+)")
_ITEM = re.compile(r"\s*<q([1-9])>([^<>]*)</q([1-9])>\s*")
_TEXT = r"[^<>#\x00-\x1f\x7f]"
_TEXT_NO_DIGIT = r"[^<>#\x00-\x1f\x7f0-9]"
_FIRST = r"[^<>#\x00-\x1f\x7f\s]"


def _most(inputs: Inputs) -> int:
    """Return the most items allowed here: the graph's breadth cap."""
    return int(inputs.get("max_hops", MAX_ITEMS))


def _same(text: str) -> str:
    """Return the form in which two questions count as the same one."""
    return " ".join(text.casefold().split()).strip(string.punctuation + " ")


def _items(text: str) -> list[str]:
    """Read `<q1>…</q1><q2>…</q2>…`, the whole text.

    Raises:
        FormatError: Anything else between or around the tags, gaps in the numbers, or an empty item.
    """
    items: list[str] = []
    position = 0
    while position < len(text):
        match = _ITEM.match(text, position)
        if match is None:
            raise FormatError("text outside <q> tags", text)
        number, item = len(items) + 1, " ".join(unquote(match[2]).split())
        if match[1] != match[3] or int(match[1]) != number:
            raise FormatError("items not numbered from 1 without gaps", text)
        if not item:
            raise FormatError("an empty item", text)
        items.append(item)
        position = match.end()
    return items


def _parse(text: str, inputs: Inputs, *, serial: bool) -> list[str]:
    items = _items(text)
    if not MIN_ITEMS <= len(items) <= _most(inputs):
        raise FormatError("fewer than two items" if len(items) < MIN_ITEMS else "too many items", text)
    if len({_same(item) for item in items}) < len(items):
        raise FormatError("repeated items", text)
    if _same(unquote(inputs["question"])) in {_same(item) for item in items}:
        raise FormatError("an item repeats the question", text)
    for number, item in enumerate(items, 1):
        for reference in REFERENCE.findall(item):
            # compared as text: a run of a million digits must not be turned into a number
            if not serial or reference not in [str(earlier) for earlier in range(1, number)]:
                raise FormatError("a reference to no earlier item" if serial else "a reference", text)
    return items


def _parse_serial(text: str, inputs: Inputs) -> list[str]:
    return _parse(text, inputs, serial=True)


def _parse_parallel(text: str, inputs: Inputs) -> list[str]:
    return _parse(text, inputs, serial=False)


def _fallback(inputs: Inputs, text: str) -> list[str]:
    """Return no items: the graph then answers the question itself with a chain."""
    return []


def _item_regex(number: int, serial: bool) -> str:
    body = f"{_FIRST}{_TEXT}*"
    if serial and number > 1:
        reference = f"#[1-{number - 1}]"
        body += f"(?:{reference}{_TEXT_NO_DIGIT}{_TEXT}*)*(?:{reference})?"
    return f"<q{number}>{body}</q{number}>"


def items_regex(most: int, serial: bool) -> str:
    """Return the items' grammar as a regular expression; that items differ is beyond it."""
    parts = [_item_regex(number, serial) for number in range(1, most + 1)]
    tail = ""
    for part in reversed(parts[MIN_ITEMS:]):
        tail = f"(?:{part}{tail})?"
    return "".join(parts[:MIN_ITEMS]) + tail


def _constraint_serial(inputs: Inputs) -> Constraint:
    return Constraint(regex=items_regex(_most(inputs), serial=True))


def _constraint_parallel(inputs: Inputs) -> Constraint:
    return Constraint(regex=items_regex(_most(inputs), serial=False))


def _user(inputs: Inputs) -> str:
    return "\n".join([*trace_lines(inputs), field("Question", inputs["question"])])


def _slots(inputs: Inputs) -> Mapping[str, str]:
    most = _most(inputs)
    return {"count": "2" if most == MIN_ITEMS else f"2 to {most}"}


_FORMAT = "Reply only <q1>first</q1><q2>second</q2>."

SERIAL_DECOMPOSER: Role[list[str]] = Role(
    name="serial_decomposer",
    instruction=(
        "Split the question into {count} short questions to be answered in order; write #1 for the answer of "
        f"the first, #2 for the second. {_FORMAT}"
    ),
    examples=(
        "Question: Who is the mayor of the city where Mozart was born?\n"
        "<q1>In which city was Mozart born?</q1><q2>Who is the mayor of #1?</q2>\n"
        "Question: When was the director of Jaws born?\n"
        "<q1>Who directed Jaws?</q1><q2>When was #1 born?</q2>"
    ),
    user=_user,
    parse=_parse_serial,
    fallback=_fallback,
    max_new_tokens=128,
    constraint=_constraint_serial,
    slots=_slots,
)

PARALLEL_DECOMPOSER: Role[list[str]] = Role(
    name="parallel_decomposer",
    instruction=f"Split the question into {{count}} short questions that need no other's answer. {_FORMAT}",
    examples=(
        "Question: Which is taller, K2 or Mont Blanc?\n"
        "<q1>How tall is K2?</q1><q2>How tall is Mont Blanc?</q2>\n"
        "Question: Are Jaws and Alien by the same director?\n"
        "<q1>Who directed Jaws?</q1><q2>Who directed Alien?</q2>"
    ),
    user=_user,
    parse=_parse_parallel,
    fallback=_fallback,
    max_new_tokens=128,
    constraint=_constraint_parallel,
    slots=_slots,
)
