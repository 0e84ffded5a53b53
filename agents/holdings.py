"""Which passages a collection holds, looked up by id or title: no vectors, no embedder, so it answers in moments.

For checks before anything expensive starts, and for reading single passages back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.chroma import (
    index_command,
    open_collection,
    read_card,
    user_name,
)
from agents.chroma_failures import chroma_errors
from agents.chroma_place import Server
from agents.documents import text_digest
from agents.errors import RetrieverError
from agents.passage import Passage

if TYPE_CHECKING:
    pass

_BLOCK = 1000
"""Ids or titles of one query; SQLite bounds its variables."""


@dataclass(frozen=True)
class Holdings:
    """A finished collection, seen from outside."""

    name: str
    """As a user names it."""
    content: str
    """Digest of all its passages; "" for a foreign collection."""
    _collection: Any

    def digests(self, ids: Sequence[str]) -> dict[str, str]:
        """Return id → digest of the passage's title and text, for those that it holds."""
        return {passage["id"]: text_digest(passage["title"], passage["text"]) for passage in self._get(ids)}

    def passages(self, ids: Sequence[str]) -> dict[str, Passage]:
        """Return id → passage, for those that it holds."""
        return {passage["id"]: passage for passage in self._get(ids)}

    def by_title(self, titles: Sequence[str]) -> dict[str, list[str]]:
        """Return title → ids of its passages, sorted, for the titles that it holds."""
        found: dict[str, list[str]] = {}
        for start in range(0, len(titles), _BLOCK):
            block = list(titles[start : start + _BLOCK])
            with chroma_errors(f'reading collection "{self.name}"'):
                got = self._collection.get(where={"title": {"$in": block}}, include=["metadatas"])
            for identifier, about in zip(got["ids"], got["metadatas"], strict=True):
                found.setdefault(str(about["title"]), []).append(identifier)
        return {title: sorted(ids) for title, ids in found.items()}

    def _get(self, ids: Sequence[str]) -> Iterator[Passage]:
        for start in range(0, len(ids), _BLOCK):
            with chroma_errors(f'reading collection "{self.name}"'):
                got: Mapping[str, Any] = self._collection.get(
                    ids=list(ids[start : start + _BLOCK]), include=["documents", "metadatas"]
                )
            for identifier, text, about in zip(got["ids"], got["documents"], got["metadatas"], strict=True):
                yield Passage(id=identifier, title=str((about or {}).get("title") or ""), text=text or "", score=0.0)


def holdings(name: str, folder: str | Path | Server | None = None) -> Holdings:
    """Look at a collection.

    Args:
        name: As a user names it; a bundled dataset's name means its corpus.
        folder: Folder of the Chroma store, or a Chroma server; None = `JADE_CHROMA`, else index/ in JADE's home.

    Raises:
        RetrieverError: It is missing or unfinished; the message holds the command that builds it.
    """
    found = open_collection(name, folder)
    card = read_card(found)
    if card is not None and card.state != "complete":
        raise RetrieverError(
            f'collection "{name}" is unfinished; run the same command again to finish it: {index_command(name)}'
        )
    return Holdings(user_name(found.name), card.content if card is not None else "", found)
