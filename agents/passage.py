"""What a retriever returns and what any retriever must offer. Leaf module: no Chroma here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypedDict


class Passage(TypedDict):
    """One retrieved passage; plain JSON so that it may stand in graph state and checkpoints."""

    id: str
    """Stable id, the same from retrieval to citation."""
    title: str
    text: str
    score: float
    """Similarity to the query under the retriever's own measure; higher is closer."""


class Retriever(Protocol):
    """The frozen retriever R: a tool, never trained."""

    @property
    def identity(self) -> Mapping[str, str]:
        """Return {"environment": hash, ...}: what is searched, and how (DESIGN §6)."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Return the k closest passages of each query, best first; blocking.

        Raises:
            RetrieverError: The index cannot answer.
        """
