"""The document selector (DS): keeps the documents that help; an empty selection is a valid, recorded choice.

The value is the list of kept document numbers, ascending. Numbers are ranks in the retrieval and stay the
same up to the citations; the released code re-numbered them and lost where an answer came from.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from agents.call import Constraint
from agents.errors import FormatError
from agents.role import Inputs, Role, read_tag
from agents.view import document_lines, field, trace_lines

TAG = "id"
_NAME = re.compile(r"Document(0|[1-9][0-9]{0,3})")


def _numbers(inputs: Inputs) -> list[int]:
    return [int(document["number"]) for document in inputs["documents"]]


def _user(inputs: Inputs) -> str:
    documents = document_lines(inputs["documents"])
    return "\n".join([*trace_lines(inputs), *documents, field("Query", inputs["query"])])


def _parse(text: str, inputs: Inputs) -> list[int]:
    inner = read_tag(text, TAG)
    if not inner:
        return []
    numbers: list[int] = []
    for name in inner.split(","):
        match = _NAME.fullmatch(name.strip())
        if match is None:
            raise FormatError("not a document name", text)
        numbers.append(int(match[1]))
    if len(set(numbers)) < len(numbers):
        raise FormatError("a document twice", text)
    if not set(numbers) <= set(_numbers(inputs)):
        raise FormatError("no such document", text)
    return sorted(numbers)


def _fallback(inputs: Inputs, text: str) -> list[int]:
    return _numbers(inputs)


def ids_regex(numbers: Sequence[int]) -> str:
    """Return all ascending selections of `numbers`, the empty one included, as a regular expression."""
    starts = []
    for position, number in enumerate(numbers):
        rest = "".join(f"(?:,Document{later})?" for later in numbers[position + 1 :])
        starts.append(f"Document{number}{rest}")
    inner = f"(?:{'|'.join(starts)})?" if starts else ""
    return f"<{TAG}>{inner}</{TAG}>"


def _constraint(inputs: Inputs) -> Constraint:
    return Constraint(regex=ids_regex(_numbers(inputs)))


SELECTOR: Role[list[int]] = Role(
    name="document_selector",
    instruction=(
        "Which documents help to answer the query? "
        f"Reply only <{TAG}>Document0,Document2</{TAG}>, or <{TAG}></{TAG}> if none does."
    ),
    examples=(
        "Document0: Paris | Paris is the capital of France.\nDocument1: Louvre | The Louvre is a museum.\n"
        f"Query: What is the capital of France?\n<{TAG}>Document0</{TAG}>\n"
        "Document0: Jaws | Jaws is a 1975 film by Steven Spielberg.\nDocument1: Shark | Sharks are fish.\n"
        "Document2: Steven Spielberg | Spielberg was born in 1946.\n"
        f"Query: When was the director of Jaws born?\n<{TAG}>Document0,Document2</{TAG}>"
    ),
    user=_user,
    parse=_parse,
    fallback=_fallback,
    max_new_tokens=48,
    stop=f"</{TAG}>",
    constraint=_constraint,
)
