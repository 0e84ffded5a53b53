"""How much of what a question needs does the retriever find: recall@k over known supporting passages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from agents.errors import ConfigError
from agents.passage import Retriever


@dataclass(frozen=True)
class Recall:
    """Recall@k of a retriever on questions whose supporting passages are known."""

    k: int
    questions: int
    found: float
    """Mean over questions of the share of their supporting passages among the k (0 to 1)."""
    complete: float
    """Share of questions with every supporting passage among the k (0 to 1)."""


def recall_at_k(
    retriever: Retriever, questions: Sequence[tuple[str, Sequence[str]]], k: int = 5, *, batch: int = 64
) -> Recall:
    """Search each question as it stands, once, and compare with its supporting passages.

    A question of more than k supporting passages cannot be complete; it still counts.

    Args:
        retriever: What is measured.
        questions: (question, ids of its supporting passages); `agents.corpora.read_supporting` gives them.
        k: Passages looked at.
        batch: Questions searched at a time.

    Raises:
        ConfigError: No questions, or one without supporting passages.
        RetrieverError: The index cannot answer.
    """
    if not questions:
        raise ConfigError("recall needs at least one question with known supporting passages")
    bare = next((question for question, supporting in questions if not supporting), None)
    if bare is not None:
        raise ConfigError(f'the question "{bare}" has no supporting passages; leave it out of recall')
    texts = [question for question, _ in questions]
    results = chain.from_iterable(
        retriever.search(texts[start : start + batch], k) for start in range(0, len(texts), batch)
    )
    shares = []
    for (_, supporting), passages in zip(questions, results, strict=True):
        ids = {passage["id"] for passage in passages}
        shares.append(len(ids & set(supporting)) / len(set(supporting)))
    return Recall(
        k,
        len(shares),
        found=sum(shares) / len(shares),
        complete=sum(share == 1.0 for share in shares) / len(shares),
    )
