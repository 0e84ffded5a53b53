"""A collection that is searched: opened, checked and read once, then ranked in one of four modes.

Exact search is the default: the vectors are read once into a float32 matrix. HNSW results can differ between starts.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from agents.chroma import (
    Card,
    Rows,
    find_collection,
    index_command,
    open_client,
    open_collection,
    read_card,
    read_rows,
)
from agents.chroma_failures import chroma_errors
from agents.chroma_patience import Patience
from agents.chroma_place import Place, Server, index_place
from agents.documents import content_digest, embedded_text, text_digest
from agents.embedder import Embedder, Matrix, open_embedder
from agents.errors import RetrieverError
from agents.index import wrong_embedder
from agents.passage import Passage
from agents.ranking import Lexical, Ranking, exact, fuse

if TYPE_CHECKING:
    from chromadb.api import ClientAPI
    from chromadb.api.models.Collection import Collection

Mode = Literal["exact", "hnsw", "bm25", "hybrid"]
MODES: tuple[Mode, ...] = ("exact", "hnsw", "bm25", "hybrid")
FUSED = 50
"""Passages of each ranking that the hybrid merges."""


def nearest(client: ClientAPI, collection: Collection, vectors: Matrix, k: int) -> list[list[str]] | None:
    """Ask Chroma's HNSW index for the ids of the k passages closest to each vector.

    Returns:
        The ids, or None where the collection is no longer as it was when `collection` was opened: whoever builds says
        so in its metadata first, so that what is found before that is of the passages that were there.
    """
    from chromadb.errors import NotFoundError

    try:
        found: list[list[str]] = collection.query(query_embeddings=vectors, n_results=k, include=[])["ids"]
    except NotFoundError:  # removed, or built again under another id
        return None
    now = find_collection(client, collection.name)
    same = now is not None and (now.id, now.metadata) == (collection.id, collection.metadata)
    return found if same else None


class ChromaSearch:
    """One collection in one mode, opened at first use; safe to share between threads.

    A lock is held while it is opened and while it ranks, never while a server is searched.

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
        answer_seconds: float,
    ) -> None:
        """Note what is searched and how; the arguments are `ChromaRetriever`'s fields."""
        self._name, self._given, self._mode, self._folder = collection, embedder, mode, folder
        self._patience, self._patience_seconds = Patience(), patience_seconds
        self._answer_seconds = answer_seconds
        self._lock = RLock()
        self._card: Card | None = None
        self._updated = False
        """Whether the store has been seen to hold other passages than those that were read."""

    @property
    def card(self) -> Card:
        """Return what is known of the collection, checked; a foreign one is described by what it holds."""
        if self._card is None:
            with self._lock:
                self._card = self._card or self._checked()
        return self._card

    def _checked(self) -> Card:
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
        rows = self._read()
        if self._mode == "hnsw":
            rankings = self._approximate(queries, k)
        else:
            with self._lock:
                rankings = self._rankings(queries, k)
        return [
            [
                Passage(id=rows.ids[row], title=rows.titles[row], text=rows.texts[row], score=score)
                for row, score in ranking
            ]
            for ranking in rankings
        ]

    def _read(self) -> Rows:
        """Return what is searched; where one thread tries in vain, those that wait for it are told at once as well."""
        with self._lock:
            if "_rows" not in self.__dict__:
                self._patience.search(lambda: self._rows, 0.0)
            return self._rows

    def source(self, identifier: str) -> str:
        """Return from where the passage of this id was indexed."""
        return self._rows.sources[self._places[identifier]]

    def _rankings(self, queries: list[str], k: int) -> list[Ranking]:
        if self._mode == "exact":
            return exact(self._rows.vectors, self._vectors(queries), k)
        if self._mode == "bm25":
            return self._lexical.search(queries, k)
        depth = max(FUSED, k)
        dense = exact(self._rows.vectors, self._vectors(queries), depth)
        return [fuse(pair, k) for pair in zip(dense, self._lexical.search(queries, depth), strict=True)]

    def _approximate(self, queries: list[str], k: int) -> list[Ranking]:
        """Ask Chroma's HNSW index; scores are cosines of the vectors it names.

        Where it does not name enough of the passages that were read, they are all searched: what a reader finds belongs
        to what it read, whatever the store holds by now.
        """
        with self._lock:
            vectors, most = self._vectors(queries), min(k, len(self._rows.ids))
        named = self._named(vectors, most)
        with self._lock:
            if named is None:
                return exact(self._rows.vectors, vectors, k)
            return [self._among(vector[None], ids, most) for vector, ids in zip(vectors, named, strict=True)]

    def _named(self, vectors: Matrix, most: int) -> list[list[str]] | None:
        """Return the ids that Chroma finds closest to each vector, or None once the collection was updated."""
        if self._updated:
            return None
        doing = chroma_errors(f'searching collection "{self._name}"')
        ask = partial(doing(nearest), self._client, self._collection, vectors, most)
        with nullcontext() if isinstance(self._place, Server) else self._lock:
            named = self._patience.search(ask, self._patience_seconds)
        self._updated = named is None
        return named

    def _among(self, vector: Matrix, ids: list[str], most: int) -> Ranking:
        """Rank the passages of these ids for a vector [1, dimension], or all where these are too few."""
        known = sorted(self._places[key] for key in ids if key in self._places)
        if len(known) < most:
            return exact(self._rows.vectors, vector, most)[0]
        rows = np.array(known, dtype=np.intp)
        return [(int(rows[place]), score) for place, score in exact(self._rows.vectors[rows], vector, most)[0]]

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
    def _place(self) -> Place:
        return index_place(self._folder)

    @cached_property
    def _client(self) -> ClientAPI:
        """Return the client that is searched by: a search takes milliseconds, so its silence is soon suspicious."""
        place = self._place
        if isinstance(place, Server):
            place = replace(place, seconds=min(place.seconds, self._answer_seconds))
        return open_client(place, remedy=index_command(self._name))

    @cached_property
    def _collection(self) -> Collection:
        return open_collection(self._name, self._place, client=self._client)

    @cached_property
    def _rows(self) -> Rows:
        dense = self._mode != "bm25"
        if read_card(self._collection) is None:
            return read_rows(open_collection(self._name, self._place), dense=dense)
        self.__dict__.pop("_collection")
        self._card = card = self._checked()  # updated since it was opened, unfinished, or of another embedder
        rows = read_rows(open_collection(self._name, self._place), dense=dense)
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
