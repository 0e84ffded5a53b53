"""The query rewriter (QR): turns a node's question into a search query, with earlier answers filled in.

It changes the query, never the question: the answer generator still reads the original wording, which the
released code lost.
"""

from __future__ import annotations

from agents.call import Constraint
from agents.errors import FormatError
from agents.role import Inputs, Role, read_tag, unquote
from agents.view import field, hop_line, trace_lines

TAG = "query"
MAX_WORDS = 100


def words_regex(tag: str, most: int) -> str:
    """Return `<tag>` around 1 to `most` words separated by single spaces, as a regular expression."""
    word = r"[^<>\s\x00-\x1f\x7f]+"
    return f"<{tag}>{word}(?: {word}){{0,{most - 1}}}</{tag}>"


def read_words(text: str, tag: str, most: int) -> str:
    """Return the words of a single-tag response, separated by single spaces.

    Raises:
        FormatError: Not exactly one such tag, no word, or more than `most` words.
    """
    words = unquote(read_tag(text, tag)).split()
    if not words:
        raise FormatError(f"an empty <{tag}>", text)
    if len(words) > most:
        raise FormatError(f"more than {most} words", text)
    return " ".join(words)


def _user(inputs: Inputs) -> str:
    lines = trace_lines(inputs)
    if not lines:
        if inputs.get("main", inputs["question"]) != inputs["question"]:
            lines.append(field("Main question", inputs["main"]))
        lines += [f"Known: {hop_line(hop)}" for hop in inputs.get("answered", ())]
    return "\n".join([*lines, field("Question", inputs["question"])])


def _parse(text: str, inputs: Inputs) -> str:
    return read_words(text, TAG, MAX_WORDS)


def _fallback(inputs: Inputs, text: str) -> str:
    return str(inputs["question"])


def _constraint(inputs: Inputs) -> Constraint:
    return Constraint(regex=words_regex(TAG, MAX_WORDS))


REWRITER: Role[str] = Role(
    name="query_rewriter",
    instruction=f"Rewrite the question as a short search query. Reply only <{TAG}>words</{TAG}>.",
    examples=(
        "Question: who was it that played batman in that first tim burton movie\n"
        f"<{TAG}>actor who played Batman in Tim Burton's 1989 film</{TAG}>\n"
        "Known: Who directed Jaws? = Steven Spielberg\nQuestion: When was he born?\n"
        f"<{TAG}>Steven Spielberg date of birth</{TAG}>"
    ),
    user=_user,
    parse=_parse,
    fallback=_fallback,
    max_new_tokens=64,
    stop=f"</{TAG}>",
    constraint=_constraint,
)
