"""Every role against whatever a model may say and whatever its prompt may have to show.

The first three bytes set the budgets and the breadth, the rest is the response. A parser returns a value of its
role's kind that, printed in the role's own tag, is read as itself; or it refuses by `FormatError`, and the fallback
has a value of the same kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from agents import answerer, rewriter
from agents.answerer import GENERATOR, SUMMARISER
from agents.decomposer import MIN_ITEMS, PARALLEL_DECOMPOSER, REFERENCE, SERIAL_DECOMPOSER
from agents.errors import FormatError
from agents.planner import PLANNER, grammar
from agents.rewriter import REWRITER
from agents.role import Prompts, Role, quote
from agents.roster import ROLES
from agents.selector import SELECTOR
from agents.solo import SOLO
from agents.tagged import tagged
from agents.workflow import PLANS
from fuzz.material import Material
from fuzz.target import Target, hold

QUESTION = "Who wrote Dune?"
LONGEST_REASON = 60
JUDGE = tagged("judge", "Is it right?", sees=["question"], tag="right", choices=["yes", "no", "not at all"])
NOTE = tagged("note", "Say what you see.", sees=["question"], tag="note", max_words=5)
_TAGS = ("workflow", "q1", "q2", "q3", "q4", "query", "id", "answer", "search", "right", "note")
WORDS = (
    *(f"<{slash}{tag}>" for tag in _TAGS for slash in ("", "/")),
    *(plan.plan for plan in PLANS),
    *("Document0", "Document1", ",Document2", "#1", "#2", "#0", "‹", "›", QUESTION, "<|im_end|>", "\u200b", "\u2028"),
    *("\u00a0", "\u3000", "\x1c", "\x85", " ", ",", "yes", "not at all"),
)
Check = Callable[[Any, Mapping[str, Any]], str | None]


def inputs_of(material: Material) -> dict[str, Any]:
    """Return what a role is given: budgets, breadth and documents from three bytes, and fixed texts."""
    depth, most, count = material.below(3), material.below(4), material.below(12)
    document = {"title": "Dune", "text": "Dune is a novel by Frank Herbert."}
    return {
        "question": QUESTION,
        "main": QUESTION,
        "query": "Dune author",
        "documents": [{"number": number * 2, **document} for number in range(count)],
        "hops": [{"question": "Who?", "answer": "Frank Herbert"}] * (count % 3),
        "depth_left": depth,
        "turns_left": (None, 1, 2, 3)[most],
        "retrievals_left": (None, 0, 1)[count % 3],
        "max_hops": MIN_ITEMS + count % 3,
        "left": depth,
    }


def printed(tag: str, text: str) -> str:
    """Return `text` in its tag, as a model would write it: brackets in it as it was shown them."""
    return f"<{tag}>{text.replace('<', '‹').replace('>', '›')}</{tag}>"


def _plan(value: Any, inputs: Mapping[str, Any]) -> str | None:
    hold(value in {plan.plan for plan in grammar(inputs).plans}, f"{value!r} is a plan that fits here")
    return printed("workflow", value)


def _items(value: Any, inputs: Mapping[str, Any], serial: bool) -> str | None:
    if not value:
        return None  # the fallback's, which no response can say
    hold(MIN_ITEMS <= len(value) <= inputs["max_hops"], "as many items as are allowed")
    hold(len(set(value)) == len(value) and all(item.strip() for item in value), "items are distinct and not blank")
    hold(QUESTION not in value, "no item is the question")
    for number, item in enumerate(value, 1):
        references = REFERENCE.findall(item)
        hold(serial or not references, "parallel items refer to nothing")
        hold(all(0 < int(one) < number for one in references), "a reference is to an earlier item")
    return "".join(printed(f"q{number}", item) for number, item in enumerate(value, 1))


def _selection(value: Any, inputs: Mapping[str, Any]) -> str | None:
    hold(value == sorted(set(value)), "a selection is distinct and ascending")
    hold(set(value) <= {document["number"] for document in inputs["documents"]}, "a selection is in range")
    return printed("id", ",".join(f"Document{number}" for number in value))


def _words(tag: str, most: int) -> Check:
    def check(value: Any, inputs: Mapping[str, Any]) -> str | None:
        hold(isinstance(value, str) and len(value.split()) <= most, f"at most {most} words")
        return printed(tag, value) if value else None

    return check


def _choice(value: Any, inputs: Mapping[str, Any]) -> str | None:
    hold(value in ("yes", "no", "not at all"), f"{value!r} is one of the choices")
    return printed("right", value)


def _move(value: Any, inputs: Mapping[str, Any]) -> str | None:
    search = value["kind"] == "search"
    hold(search or value["kind"] == "answer", "a move is a search or an answer")
    hold(inputs["left"] > 0 or not search, "no search beyond the budget")
    most = rewriter.MAX_WORDS if search else answerer.MAX_WORDS
    return _words("search" if search else "answer", most)(value["text"], inputs)


def _role_check(role: Role[Any], good: Check) -> Callable[[bytes], None]:
    """Return the check of one role: what is read, printed and read again is the same; what is not has a fallback."""

    def check(data: bytes) -> None:
        material = Material(data)
        inputs, text = inputs_of(material), material.text()
        try:
            value = role.parse(text, inputs)
        except FormatError as error:
            hold(0 < len(error.reason) <= LONGEST_REASON and error.text == text, "a short reason, and the text apart")
            good(role.fallback(inputs, text), inputs)
            return
        again = good(value, inputs)
        hold(again is not None, "what was read is not empty")
        hold(role.parse(str(again), inputs) == value, f"{again!r} is read as what it was printed from")

    return check


def _prompt_check(data: bytes) -> None:
    """Foreign text adds no line and no bracket to any prompt, however it is placed."""
    foreign = Material(data).text()
    hold(quote(quote(foreign)) == quote(foreign), "quoting twice is quoting once")
    quote(foreign).encode("utf-8")
    for role in (*ROLES.values(), SOLO, JUDGE):
        turns = [role.messages(_shown(text), Prompts())[1]["content"] for text in (foreign, "x")]
        hold(turns[0].count("\n") == turns[1].count("\n"), f"{role.name}: foreign text stays on its line")
        hold(len(turns[0].splitlines()) == len(turns[1].splitlines()), f"{role.name}: no other line break either")
        hold("<" not in turns[0] and ">" not in turns[0], f"{role.name}: foreign text has no bracket")


def _shown(text: str) -> dict[str, Any]:
    document = {"number": 0, "title": text, "text": text}
    hop = {"question": text, "answer": text}
    return {
        "question": text, "main": f"{text} and more", "query": f"{text} too", "documents": [document] * 2,
        "answered": [hop], "hops": [hop, {"question": text, "answer": None, "skipped": text}],
        "searches": [{"query": text, "documents": [document]}], "trace": [hop], "depth_left": 1, "left": 1,
    }  # fmt: skip


GOOD = {
    "planner": "<workflow>QR, R ,DS,AG</workflow>",
    "serial_decomposer": "<q1>Who wrote Dune, then?</q1>\n<q2>When was #1 born?</q2><q3>Where was #2?</q3>",
    "parallel_decomposer": "<q1>How tall is K2?</q1><q2>How tall is Mont Blanc?</q2>",
    "document_selector": "<id>Document0, Document2</id>",
    "query_rewriter": "<query>author of ‹Dune›</query>",
    "answer_generator": "<answer>Frank Herbert</answer>",
    "answer_summariser": "<answer>8 October 1920</answer>",
    "judge": "<right>not at all</right>",
    "note": "<note>a worm in sand</note>",
    "solo": "<search>Dune author</search>",
}
"""A response that each role reads."""


def _seeds(name: str) -> Callable[[], Iterator[bytes]]:
    def seeds() -> Iterator[bytes]:
        for budgets in (b"\x01\x00\x06", b"\x00\x01\x01", b"\x02\x03\x0b"):
            yield budgets + GOOD[name].encode()
            yield budgets + GOOD[name][:-3].encode()
        yield b"\x01\x00\x02" + "".join(GOOD.values()).encode()

    return seeds


_CHECKS: tuple[tuple[Role[Any], Check, int], ...] = (
    (PLANNER, _plan, 700_000),
    (SERIAL_DECOMPOSER, lambda value, inputs: _items(value, inputs, True), 700_000),
    (PARALLEL_DECOMPOSER, lambda value, inputs: _items(value, inputs, False), 700_000),
    (SELECTOR, _selection, 1_000_000),
    (REWRITER, _words("query", rewriter.MAX_WORDS), 1_000_000),
    (GENERATOR, _words("answer", answerer.MAX_WORDS), 1_000_000),
    (SUMMARISER, _words("answer", answerer.MAX_WORDS), 700_000),
    (JUDGE, _choice, 700_000),
    (NOTE, _words("note", 5), 500_000),
    (SOLO, _move, 1_000_000),
)
_PROMISE = "a value of the role's kind that prints back to itself, or FormatError and a fallback of that kind"
TARGETS = (
    *(
        Target(role.name, _PROMISE, _role_check(role, good), _seeds(role.name), WORDS, 400, runs)
        for role, good, runs in _CHECKS
    ),
    Target(
        "prompts",
        "text of others adds no line, no bracket and no invisible character to any role's prompt",
        _prompt_check,
        lambda: (text.encode() for text in ("Who wrote Dune?", "a\r\nb\x0bc\x85d\u2028e", "<|im_end|>\u202e</q1>")),
        WORDS,
        200,
        200_000,
    ),
)
