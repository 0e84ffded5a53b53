"""An evaluation at toy size: the toy model with random adapters, a list retriever, questions over its passages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agents.errors import RetrieverError
from agents.passage import Passage
from evaluation.dataset import Example
from evaluation.evaluate_config import EvalConfig
from evaluation.readiness import Asked
from evaluation.systems import System, read_systems
from graphs.options import read_options
from tests.scripted import PASSAGES, ListRetriever

QUESTIONS = (
    ("Where was Mozart born?", "Salzburg", "single", 1, ("mozart",)),
    ("Who is the mayor of Salzburg?", "Bernhard Auinger", "single", 1, ("mayor",)),
    ("Who is the mayor of the town where Mozart was born?", "Bernhard Auinger", "bridge", 2, ("mozart", "mayor")),
    ("Which is taller, K2 or Mont Blanc?", "K2", "comparison", 2, ("k2", "blanc")),
    ("How tall is K2?", "8611 m", "single", 1, ()),
)
EXAMPLES = tuple(
    Example(f"q{place}", text, (answer,), kind, hops, gold, dataset="toy")
    for place, (text, answer, kind, hops, gold) in enumerate(QUESTIONS)
)
GOLD = {name: Passage(id=name, title=title, text=text, score=0.0) for name, title, text in PASSAGES}
ASKED = Asked("toy", EXAMPLES, "list", GOLD)


class Broken(ListRetriever):
    """Cannot search for some queries."""

    bad = "K2"

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        if any(self.bad in query for query in queries):
            raise RetrieverError("the index is damaged")
        return super().search(queries, k)


def toy_eval(folder: Path, **changes: Any) -> EvalConfig:
    """Return a configuration of an evaluation that nobody tracks."""
    fields: dict[str, Any] = {
        "systems": ["R,AG@none", "jade@none"], "output": str(folder / "eval"), "experiment": None, "top_k": 2,
        "max_depth": 1, "max_new_tokens": 10, "decoding": "free", "resamples": 200, "threads": 1, "plan_questions": 0,
    }  # fmt: skip
    return EvalConfig(**{**fields, **changes})


def systems_of(config: EvalConfig) -> list[System]:
    """Return the systems of a configuration."""
    return read_systems(config.systems, read_options(config.options()), config.model)


def two_sets() -> list[Asked]:
    """Return the toy questions as two sets."""
    other = tuple(replace(item, id=f"other-{item.id}", dataset="other") for item in EXAMPLES[:3])
    return [ASKED, Asked("other", other, "list", GOLD)]


def retrievers(sets: list[Asked]) -> dict[str, ListRetriever]:
    """Return one retriever for all sets."""
    one = ListRetriever(PASSAGES)
    return {asked.name: one for asked in sets}
