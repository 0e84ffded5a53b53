"""How what a role observes becomes lines of its user turn; everything foreign passes through `quote` here.

One document, one hop, one line: `quote` keeps text on its line, so no document can imitate the next one's
heading, close one of our tags or open a turn. Rollouts are dominated by prompt tokens: documents are cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agents.role import Inputs, quote

DOCUMENT_WORDS = 120
"""Most words of a document that a prompt shows."""
TITLE_WORDS = 40
"""Most words of its title: a page's <title> or a table's cell may hold anything."""
_DOCUMENT_CHARACTERS = 1000
"""The same limit for text without spaces."""
_READ_CHARACTERS = 20_000
"""Most characters that are looked at for it: a line of megabytes must not be escaped anew for every call."""


def field(label: str, text: str) -> str:
    """Return one labelled line."""
    return f"{label}: {quote(text)}"


def cut(text: str, words: int = DOCUMENT_WORDS) -> str:
    """Return the first `words` words of `text`, quoted."""
    return " ".join(quote(text[:_READ_CHARACTERS]).split(" ")[:words])[:_DOCUMENT_CHARACTERS]


def document_lines(documents: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return `Document<number>: title | text` lines, or `Documents: none`.

    Args:
        documents: Mappings with "number" (rank in the retrieval, stable to the end), "title" and "text".
    """
    lines = []
    for document in documents:
        parts = [cut(document["title"], TITLE_WORDS), cut(document["text"])]
        lines.append(f"Document{document['number']}: {' | '.join(filter(None, parts))}")
    return lines or ["Documents: none"]


def hop_line(hop: Mapping[str, Any]) -> str:
    """Return one line for a sub-question: with its answer, "not answered" (pending) or "skipped"."""
    if hop.get("skipped"):
        return f"{quote(hop['question'])} = (skipped: {quote(hop['skipped'])})"
    answer = hop.get("answer")
    if answer is None:
        return f"{quote(hop['question'])} = (not answered yet)"
    return f"{quote(hop['question'])} = {quote(answer) or '(no answer)'}"


def trace_lines(inputs: Inputs) -> list[str]:
    """Return the whole blackboard under `select: full` (an ablation), and nothing under `select: role`."""
    if "trace" not in inputs:
        return []
    known = [f"Known: {hop_line(hop)}" for hop in inputs["trace"]]
    return [field("Main question", inputs["main"]), *known]
