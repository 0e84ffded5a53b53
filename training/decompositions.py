"""Published decompositions as splits that the serial and the parallel decomposer can be taught.

Dependent ones abound: MuSiQue and Break write `#k`, 2WikiMultiHopQA's chains get it where a step repeats an
earlier answer. Independent ones are few and templated: 2WikiMultiHopQA's comparisons (two templates make most of
them); to balance them, StrategyQA and Break comparisons are used without their last step, which only compares.
Break's steps are phrases; they are put into question form by one template and weigh half.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from agents.decomposer import MAX_ITEMS, MIN_ITEMS, REFERENCE
from evaluation.dataset import Example

Kind = Literal["serial", "parallel"]

WEIGHTS = {"gold": 1.0, "triples": 1.0, "subquestions": 0.8, "qdmr": 0.5}
"""Weight of a row by who wrote the decomposition."""
_ASKS = re.compile(r"(who|whom|whose|what|which|when|where|why|how|is|are|was|were|do|does|did|can|has|have)\b", re.I)
_COMPARES = re.compile(r"(is|are|ia|was|were|do|does|did|can|could|would|will|has|have|had|if|which|what|who)\b", re.I)
_CLUMSY = re.compile(
    r"\bthe (located|applies|owned|followed|contains|part) \w*\s*(in|by|to|of)\b"
    r"|\bof of\b|^What is (if\b|#[0-9] (that|who|which|where)\b)|Ã",
    re.I,
)
"""What templates and broken encodings left: "the located in the …", "What is #1 that …"."""
_DEPENDENT = ("bridge", "compositional", "inference", "bridge_comparison")
"""Question types whose later steps need earlier answers."""


@dataclass(frozen=True)
class Step:
    """One sub-question."""

    text: str
    """As a decomposer writes it: `#k` for the answer of step k."""
    question: str | None
    """With `#k` replaced by the answers; None where an answer is not known."""
    answer: str | None
    supporting: str | None
    """Id of the passage that answers it, where known."""


@dataclass(frozen=True)
class Split:
    """A question with its sub-questions."""

    question: str
    kind: Kind
    steps: tuple[Step, ...]
    answer: str | None
    source: str
    weight: float
    dataset: str
    """Whose corpus the supporting ids belong to."""


def read_splits(examples: Iterable[Example]) -> tuple[list[Split], Counter[str]]:
    """Return the usable splits of `examples`, and how many were left out for which reason."""
    splits: list[Split] = []
    dropped: Counter[str] = Counter()
    for example in examples:
        if not example.decomposition:
            continue
        found = _split(example)
        if isinstance(found, str):
            dropped[f"decomposition: {found}"] += 1
        else:
            splits.append(found)
    return splits, dropped


def _split(example: Example) -> Split | str:
    texts = [_tidy(text, example.decomposition_kind) for text, _ in example.decomposition]
    answers = [tidy_answer(answer) if answer else None for _, answer in example.decomposition]
    if example.decomposition_kind == "subquestions" and example.type in _DEPENDENT:
        texts = _with_references(texts, answers)
    compared = _only_compares_last(example, texts)
    if compared:
        texts, answers = texts[:-1], answers[:-1]
    serial = any(REFERENCE.search(text) for text in texts)
    problem = _problem(example, texts, serial)
    if problem:
        return problem
    aligned = len(example.supporting) == len(example.decomposition)
    steps = tuple(
        Step(text, _resolved(text, answers), answers[index], example.supporting[index] if aligned else None)
        for index, text in enumerate(texts)
    )
    origin = example.origin if example.dataset == "decompositions" else example.dataset
    return Split(
        question=example.question,
        kind="serial" if serial else "parallel",
        steps=steps,
        answer=tidy_answer(example.answers[0]) if example.answers else None,
        source=f"{origin}/{example.decomposition_kind}",
        weight=WEIGHTS[example.decomposition_kind],
        dataset=origin,
    )


def _problem(example: Example, texts: list[str], serial: bool) -> str:
    """Return why a decomposition cannot be taught, or ""."""
    if not MIN_ITEMS <= len(texts) <= MAX_ITEMS:
        return f"not {MIN_ITEMS} to {MAX_ITEMS} steps"
    if any(REFERENCE.match(text) or _CLUMSY.search(text) or text.count('"') % 2 for text in texts):
        return "a step that is no question by itself"
    if any(not 3 <= len(text.split()) <= 25 for text in texts):
        return "a step of fewer than 3 or more than 25 words"
    if not serial and example.type in _DEPENDENT:
        return "dependent steps without a reference"
    return ""


def _tidy(text: str, kind: str) -> str:
    """Return a step as a plain question: Break's phrases get a question word, all a question mark."""
    plain = re.sub(r"\s+([,?.'])", r"\1", " ".join(text.split())).rstrip("?. ")
    if kind == "qdmr" and not _ASKS.match(plain):
        plain = f"What is {plain}"
    return f"{plain[:1].upper()}{plain[1:]}?"


def tidy_answer(text: str) -> str:
    """Return a gold answer without the quote marks and spaces that tokenisers left."""
    return " ".join(text.replace("``", "").replace("''", "").split()).strip(" \"'")


def _with_references(texts: list[str], answers: list[str | None]) -> list[str]:
    """Put `#k` where a later step spells out the answer of step k."""
    result = list(texts)
    for earlier, answer in enumerate(answers):
        if not answer or len(answer) < 3:
            continue
        name = re.compile(rf"(?<!\w){re.escape(answer)}(?!\w)", re.I)
        for later in range(earlier + 1, len(result)):
            result[later] = name.sub(f"#{earlier + 1}", result[later])
    return result


def _only_compares_last(example: Example, texts: list[str]) -> bool:
    """Return whether the last step needs no passage: it weighs earlier answers, which the summariser does."""
    if example.origin != "strategyqa" and example.decomposition_kind != "qdmr":
        return False
    last = texts[-1]
    return len(texts) > MIN_ITEMS and len(set(REFERENCE.findall(last))) >= 2 and bool(_COMPARES.match(last))


def _resolved(text: str, answers: list[str | None]) -> str | None:
    """Return a step with every reference replaced by its answer, or None if one is not known."""
    question = text
    for reference in set(REFERENCE.findall(text)):
        place = int(reference) - 1
        answer = answers[place] if 0 <= place < len(answers) else None
        if not answer:
            return None
        question = re.sub(rf"#{reference}(?![0-9])", answer.replace("\\", "\\\\"), question)
    return question
