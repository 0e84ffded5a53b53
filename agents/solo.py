"""One role that does everything: it searches in a loop and answers when it knows (the shape of Search-R1).

It is the baseline without a planner and without a division of labour. It is not part of JADE's roster, so it does
not enter the `text` hash of JADE's adapters. Unlike Search-R1 it does not reason aloud before each move.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from agents import answerer, rewriter
from agents.call import Constraint
from agents.errors import FormatError
from agents.rewriter import read_words, words_regex
from agents.role import Inputs, Role, strip_tags, unquote
from agents.view import document_lines, field

SEARCH, ANSWER = "search", answerer.TAG


class Move(TypedDict):
    """What it does next."""

    kind: Literal["search", "answer"]
    text: str


def _left(inputs: Inputs) -> int:
    return int(inputs.get("left", 0))


def _user(inputs: Inputs) -> str:
    lines = []
    for search in inputs.get("searches", ()):
        lines += [field("Search", search["query"]), *document_lines(search["documents"])]
    return "\n".join([*lines, field("Question", inputs["question"]), f"Searches left: {_left(inputs)}"])


def _parse(text: str, inputs: Inputs) -> Move:
    if not text.strip().startswith(f"<{SEARCH}>"):
        return {"kind": "answer", "text": read_words(text, ANSWER, answerer.MAX_WORDS)}
    words = read_words(text, SEARCH, rewriter.MAX_WORDS)
    if _left(inputs) < 1:
        raise FormatError("a search beyond the budget", text)
    return {"kind": "search", "text": words}


def _fallback(inputs: Inputs, text: str) -> Move:
    """Search for the question if nothing was searched yet, else take the text without tags as the answer."""
    if _left(inputs) > 0 and not inputs.get("searches"):
        return {"kind": "search", "text": str(inputs["question"])}
    words = unquote(strip_tags(text)).split()[: answerer.MAX_WORDS]
    return {"kind": "answer", "text": " ".join(words)}


def _constraint(inputs: Inputs) -> Constraint:
    answer = words_regex(ANSWER, answerer.MAX_WORDS)
    search = words_regex(SEARCH, rewriter.MAX_WORDS)
    return Constraint(regex=f"(?:{search}|{answer})" if _left(inputs) > 0 else answer)


def _slots(inputs: Inputs) -> Mapping[str, str]:
    search = f"<{SEARCH}>words</{SEARCH}> to look something up, or " if _left(inputs) > 0 else ""
    return {"moves": f"{search}<{ANSWER}>words</{ANSWER}> with the answer in a few words"}


def without_documents(searches: Sequence[Mapping[str, Any]], count: int) -> list[dict[str, Any]]:
    """Return the searches without `count` documents, dropped from the tail of the oldest search that has any."""
    kept = [{**search, "documents": list(search["documents"])} for search in searches]
    for _ in range(count):
        oldest = next((search for search in kept if search["documents"]), None)
        if oldest is not None:
            oldest["documents"].pop()
    return kept


def _shrink(inputs: Inputs) -> Inputs | None:
    searches = inputs.get("searches", ())
    if not any(search["documents"] for search in searches):
        return None
    return {**inputs, "searches": without_documents(searches, 1)}


SOLO: Role[Move] = Role(
    name="solo",
    instruction="Answer the question. Reply only {moves}.",
    examples=(
        "Question: Who is the mayor of the city where Mozart was born?\nSearches left: 3\n"
        "<search>Mozart birthplace</search>\n"
        "Search: Mozart birthplace\nDocument0: Mozart | Mozart was born in Salzburg.\n"
        "Question: Who is the mayor of the city where Mozart was born?\nSearches left: 2\n"
        "<search>mayor of Salzburg</search>\n"
        "Search: director of Jaws\nDocument0: Jaws | Jaws is a 1975 film by Steven Spielberg.\n"
        "Question: Who directed Jaws?\nSearches left: 2\n<answer>Steven Spielberg</answer>"
    ),
    user=_user,
    parse=_parse,
    fallback=_fallback,
    max_new_tokens=72,
    constraint=_constraint,
    slots=_slots,
    shrink=_shrink,
)
