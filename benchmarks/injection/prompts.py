"""The prompts of every role with hostile text in every foreign field, against the same prompts with harmless text.

A prompt holds when the two differ in nothing but the words: the same special tokens in the same order, the same lines
under the same headings, the same tags, the same static head, the same grammar, and no character that nobody sees.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from agents.call import Message, Prompt
from agents.role import Prompts, Role
from agents.roster import ROLES
from agents.solo import SOLO
from benchmarks.injection.families import Family, families
from graphs.observe import observe
from graphs.question import MAX_QUESTION_CHARACTERS

HARMLESS = "a river in France"
SELECTS = ("role", "full")
_HIDDEN_BLOCKS = (
    (0x34F, 0x34F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x3164, 0x3164), (0xFE00, 0xFE0F),
    (0xFFA0, 0xFFA0), (0xE0100, 0xE01EF),
)  # fmt: skip
"""Characters that nobody sees although Unicode counts them among letters and marks."""
_HEADING = re.compile(r"^(Document\d+|Documents|Question|Main question|Query|Known|Left|Search|Searches left): ?")


def hidden(character: str) -> bool:
    """Return whether a character is a control, format or half character, or one that shows nothing."""
    place = ord(character)
    return unicodedata.category(character) in ("Cc", "Cf", "Cs") or any(a <= place <= b for a, b in _HIDDEN_BLOCKS)


def state_with(text: str, select: str) -> dict[str, Any]:
    """Return the state of a node that holds `text` wherever something foreign may stand."""
    asked = text[:MAX_QUESTION_CHARACTERS]
    document = {"number": 0, "id": "d0", "title": text, "text": text, "score": 1.0}
    hops = [{"question": f"{asked} h", "answer": asked, "index": 0}, {"question": asked, "answer": None, "index": 1}]
    return {
        "question": f"{asked} q",
        "main": f"{asked} m",
        "query": f"{asked} s",
        "documents": [document, {**document, "number": 1, "title": "Paris"}],
        "trace": hops,
        "solved": hops,
        "select": select,
        "depth_left": 1,
        "turns_left": 3,
        "retrievals_left": 2,
        "max_hops": 3,
    }


def observed(text: str, role: str, select: str) -> dict[str, Any]:
    """Return what a role sees of that state."""
    state = state_with(text, select)
    if role != SOLO.name:
        return observe(state, role)
    return {
        "question": state["question"],
        "searches": [{"query": state["query"], "documents": state["documents"]}],
        "left": 1,
    }


def spoken(
    text: str, selects: Sequence[str] = SELECTS
) -> Iterator[tuple[str, Role[Any], Mapping[str, Any], list[Message]]]:
    """Yield (name, role, inputs, chat turns) of every role in the given views."""
    for select in selects:
        for name, role in {**ROLES, SOLO.name: SOLO}.items():
            if name != SOLO.name or select == "role":
                inputs = observed(text, name, select)
                yield f"{name}/{select}", role, inputs, role.messages(inputs, Prompts())


@cache
def _twins() -> Mapping[str, tuple[list[Message], Any]]:
    found = {}
    for name, role, inputs, turns in spoken(HARMLESS):
        constraint = role.constraint(inputs)
        found[name] = turns, constraint
    return found


@cache
def _twin_prompt(name: str, family: str) -> tuple[Prompt, list[int], str]:
    chosen = families()[family]
    prompt = chosen.encoder.encode(_twins()[name][0])
    return prompt, specials(prompt, chosen), written(prompt, chosen)


def specials(prompt: Prompt, family: Family) -> list[int]:
    """Return the special tokens of a prompt, in order."""
    special = family.special
    return [token for token in prompt.ids if token in special]


def written(prompt: Prompt, family: Family) -> str:
    """Return a prompt as the model reads it, its static head left out."""
    text: str = family.tokenizer.decode(list(prompt.ids[prompt.head :]), skip_special_tokens=False)
    return text


def text_faults(turns: list[Message], twin: list[Message]) -> Iterator[str]:
    """Yield what is wrong with the text of a prompt."""
    if turns[:-1] != twin[:-1]:
        yield "the system turn differs"
    lines, others = turns[-1]["content"].split("\n"), twin[-1]["content"].split("\n")
    if len(lines) != len(others):
        yield f"{len(lines)} lines instead of {len(others)}"
    for line, other in zip(lines, others, strict=False):
        heading = _HEADING.match(other)
        if heading and not line.startswith(heading[0].rstrip()):
            yield f"a line lost its heading {heading[0]!r}"
    for sign in "<>":
        if sign in turns[-1]["content"]:
            yield f"the sign {sign} in the user turn"
    unseen = [f"U+{ord(sign):04X}" for sign in sorted(set(turns[-1]["content"]) - {"\n"}) if hidden(sign)]
    if unseen:
        yield f"hidden characters {', '.join(unseen[:4])}"


def token_faults(name: str, turns: list[Message], family: Family) -> Iterator[str]:
    """Yield what is wrong with the tokens of a prompt."""
    twin, expected, twin_text = _twin_prompt(name, family.name)
    prompt = family.encoder.encode(turns)
    if specials(prompt, family) != expected:
        yield "special tokens of foreign text"
    if prompt.ids[: prompt.head] != twin.ids[: twin.head]:
        yield "the static head differs"
    text = written(prompt, family)
    for sign in ("<", ">", *family.markers):
        if text.count(sign) != twin_text.count(sign):
            yield f"{sign} written in tokens"


def prompt_faults(
    text: str, names: Sequence[str] | None = None, selects: Sequence[str] = SELECTS
) -> tuple[int, list[str]]:
    """Return how many prompts were made with `text` in them, and what is wrong with them.

    Args:
        text: What stands in every foreign field.
        names: The families whose templates are used; None = all.
        selects: The views that roles have.
    """
    made, faults = 0, []
    chosen = [families()[name] for name in names or families()]
    for name, role, inputs, turns in spoken(text, selects):
        twin, constraint = _twins()[name]
        faults += [f"{name}: {fault}" for fault in text_faults(turns, twin)]
        if role.constraint(inputs) != constraint:
            faults.append(f"{name}: the grammar differs")
        for family in chosen:
            made += 1
            faults += [f"{name} in {family.name}: {fault}" for fault in token_faults(name, turns, family)]
    return made, faults


def conversation_faults(text: str, names: Sequence[str] | None = None) -> list[str]:
    """Return what is wrong with chats whose turns are foreign, as `agents.chat` hands them to the model."""
    faults = []
    for family in (families()[name] for name in names or families()):
        expected = specials(family.encoder.encode(_chat(HARMLESS)), family)
        if specials(family.encoder.encode(_chat(text[:MAX_QUESTION_CHARACTERS])), family) != expected:
            faults.append(f"chat in {family.name}: special tokens of foreign text")
    return faults


def _chat(text: str) -> list[Message]:
    return [
        {"role": "user", "content": text},
        {"role": "assistant", "content": text},
        {"role": "user", "content": f"{text} and?"},
    ]
