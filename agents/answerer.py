"""The two roles that answer: the generator (AG) from documents, the summariser (AS) from answered hops.

The generator is always told when it has no documents, so an empty selection never turns it into a closed-book
reader unawares. Neither is told to say "I don't know": under an F1 reward that teaches avoidance.
"""

from __future__ import annotations

from agents.call import Constraint
from agents.rewriter import read_words, words_regex
from agents.role import Inputs, Role, strip_tags, unquote
from agents.view import document_lines, field, hop_line, trace_lines

TAG = "answer"
MAX_WORDS = 40


def _parse(text: str, inputs: Inputs) -> str:
    return read_words(text, TAG, MAX_WORDS)


def _constraint(inputs: Inputs) -> Constraint:
    return Constraint(regex=words_regex(TAG, MAX_WORDS))


def _generator_user(inputs: Inputs) -> str:
    lines = [*trace_lines(inputs), *document_lines(inputs["documents"])]
    if inputs.get("query", inputs["question"]) != inputs["question"]:
        lines.append(field("Query", inputs["query"]))
    return "\n".join([*lines, field("Question", inputs["question"])])


def _generator_fallback(inputs: Inputs, text: str) -> str:
    """Return the text without tags, cut to the word limit."""
    return " ".join(unquote(strip_tags(text)).split()[:MAX_WORDS])


def _summariser_user(inputs: Inputs) -> str:
    hops = [hop_line(hop) for hop in inputs["hops"]]
    return "\n".join([*trace_lines(inputs), *hops, field("Question", inputs["question"])])


def _summariser_fallback(inputs: Inputs, text: str) -> str:
    """Return the last answer that a hop gave; empty when none did."""
    answers = [hop["answer"] for hop in inputs["hops"] if hop.get("answer")]
    return str(answers[-1]) if answers else ""


GENERATOR: Role[str] = Role(
    name="answer_generator",
    instruction=(
        f"Answer the question in a few words, from the documents if there are any. Reply only <{TAG}>words</{TAG}>."
    ),
    examples=(
        "Document0: Jaws | Jaws is a 1975 film by Steven Spielberg.\nQuestion: Who directed Jaws?\n"
        f"<{TAG}>Steven Spielberg</{TAG}>\n"
        f"Documents: none\nQuestion: Is Paris in France?\n<{TAG}>yes</{TAG}>"
    ),
    user=_generator_user,
    parse=_parse,
    fallback=_generator_fallback,
    max_new_tokens=72,
    stop=f"</{TAG}>",
    constraint=_constraint,
)

SUMMARISER: Role[str] = Role(
    name="answer_summariser",
    instruction=(
        f"Answer the last question in a few words from the answered questions. Reply only <{TAG}>words</{TAG}>."
    ),
    examples=(
        "Who directed Jaws? = Steven Spielberg\nWhen was Steven Spielberg born? = 18 December 1946\n"
        f"Question: When was the director of Jaws born?\n<{TAG}>18 December 1946</{TAG}>\n"
        "How tall is K2? = 8,611 m\nHow tall is Mont Blanc? = 4,806 m\n"
        f"Question: Which is taller, K2 or Mont Blanc?\n<{TAG}>K2</{TAG}>"
    ),
    user=_summariser_user,
    parse=_parse,
    fallback=_summariser_fallback,
    max_new_tokens=72,
    stop=f"</{TAG}>",
    constraint=_constraint,
)
