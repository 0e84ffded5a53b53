"""A collection that is searched: opened, checked and read once, then ranked in one of four modes.

Exact search is the default: the vectors are read once into a float32 matrix. HNSW results can differ between starts.
"""

from __future__ import annotations

from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from agents.chroma import (
    Card,
    Rows,
    chroma_errors,
    index_command,
    open_collection,
    read_card,
    read_rows,
)
from agents.chroma_patience import Patience
from agents.chroma_place import Server
from agents.documents import content_digest, embedded_text, text_digest
from agents.embedder import Embedder, open_embedder
from agents.errors import RetrieverError
from agents.index import wrong_embedder
from agents.passage import Passage
from agents.ranking import Lexical, Ranking, exact, fuse

if TYPE_CHECKING:
    from chromadb.api.models.Collection import Collection

Mode = Literal["exact", "hnsw", "bm25", "hybrid"]
MODES: tuple[Mode, ...] = ("exact", "hnsw", "bm25", "hybrid")
FUSED = 50
"""Passages of each ranking that the hybrid merges."""


class ChromaSearch:
    """One collection in one mode, opened at first use; whoever shares it between threads holds a lock.

    Raises (from everything but its making):
        RetrieverError: The collection is missing, empty, unfinished, or was built with another embedder.
    """

    def __init__(
        self,
        collection: str,
        embedder: Embedder | str | None,
        mode: Mode,
        folder: Path | Server | None,
        patience_seconds: float,
    ) -> None:
        """Note what is searched and how; the arguments are `ChromaRetriever`'s fields."""
        self._name, self._given, self._mode, self._folder = collection, embedder, mode, folder
        self._patience, self._patience_seconds = Patience(), patience_seconds

    @cached_property
    def card(self) -> Card:
        """Return what is known of the collection, checked; a foreign one is described by what it holds."""
        card = read_card(self._collection)
        if card is None:
            hashes = zip(self._rows.ids, map(text_digest, self._rows.titles, self._rows.texts), strict=True)
            dense = self._mode != "bm25"
            return Card(
                self._embedder.name if dense else "-",
                self._embedder.digest if dense else "-",
                content_digest(hashes),
                "complete",
                len(self._rows.ids),
            )
        if card.state != "complete":
            raise RetrieverError(
                f'collection "{self._name}" is unfinished: {self._collection.count()} of {card.wanted} '
                "passages (interrupted, or being built right now); run the same command again to finish it: "
                f"{index_command(self._name)}"
            )
        if self._mode != "bm25" and card.embedder_digest != self._embedder.digest:
            raise RetrieverError(wrong_embedder(self._name, card, self._embedder))
        return card

    def rank(self, queries: list[str], k: int) -> list[list[Passage]]:
        """Return the k best passages of each query, best first."""
        rows = self._rows
        return [
            [
                Passage(id=rows.ids[row], title=rows.titles[row], text=rows.texts[row], score=score)
                for row, score in ranking
            ]
            for ranking in self._rankings(queries, k)
        ]

    def source(self, identifier: str) -> str:
        """Return from where the passage of this id was indexed."""
        return self._rows.sources[self._places[identifier]]

    def _rankings(self, queries: list[str], k: int) -> list[Ranking]:
        if self._mode == "exact":
            return exact(self._rows.vectors, self._vectors(queries), k)
        if self._mode == "bm25":
            return self._lexical.search(queries, k)
        if self._mode == "hnsw":
            return self._approximate(queries, k)
        depth = max(FUSED, k)
        dense = exact(self._rows.vectors, self._vectors(queries), depth)
        return [fuse(pair, k) for pair in zip(dense, self._lexical.search(queries, depth), strict=True)]

    def _approximate(self, queries: list[str], k: int) -> list[Ranking]:
        """Ask Chroma's HNSW index; scores are cosines of the vectors it names."""
        vectors, most = self._vectors(queries), min(k, len(self._rows.ids))
        ask = chroma_errors(f'searching collection "{self._name}"')(self._collection.query)
        asked = partial(ask, query_embeddings=vectors, n_results=most, include=[])
        got, rankings = self._patience.search(asked, self._patience_seconds), []
        for vector, ids in zip(vectors, got["ids"], strict=True):
            rows = np.array(sorted(self._places[key] for key in ids if key in self._places), dtype=np.intp)
            (ranking,) = exact(self._rows.vectors[rows], vector[None], k)
            rankings.append([(int(rows[place]), score) for place, score in ranking])
        return rankings

    def _vectors(self, queries: list[str]) -> Any:
        """Return the queries' unit vectors [queries, dimension], of the collection's dimension."""
        vectors = self._embedder.encode_queries(queries)
        stored = self._rows.vectors.shape[1]
        if vectors.shape[1] != stored:
            raise RetrieverError(
                f'collection "{self._name}" has vectors of {stored} dimensions, the embedder '
                f'"{self._embedder.name}" makes {vectors.shape[1]}; give the --embedder that built it'
            )
        return vectors

    @cached_property
    def _embedder(self) -> Embedder:
        known = self._given
        return open_embedder(known) if known is None or isinstance(known, str) else known

    @cached_property
    def _collection(self) -> Collection:
        return open_collection(self._name, self._folder)

    @cached_property
    def _rows(self) -> Rows:
        dense = self._mode != "bm25"
        if read_card(self._collection) is None:
            return read_rows(self._collection, dense=dense)
        self.__dict__.pop("_collection")
        self.__dict__.pop("card", None)  # it may have been updated since it was opened
        card = self.card  # unfinished, or of another embedder: say so before reading
        rows = read_rows(self._collection, dense=dense)
        self.__dict__.pop("_collection")
        if read_card(self._collection) != card:
            raise RetrieverError(f'collection "{self._name}" was updated while it was read; open it again')
        return rows

    @cached_property
    def _places(self) -> dict[str, int]:
        return {identifier: row for row, identifier in enumerate(self._rows.ids)}

    @cached_property
    def _lexical(self) -> Lexical:
        return Lexical(list(map(embedded_text, self._rows.titles, self._rows.texts)))
