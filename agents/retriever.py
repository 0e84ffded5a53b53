"""The frozen retriever R: a Chroma collection behind LangChain's BaseRetriever and JADE's Retriever protocol.

    retriever = open_retriever()                          the starter corpus, built in seconds at first use
    retriever = open_retriever("hotpotqa", mode="hybrid") a collection that `jade index` built
    retriever.search(["who wrote Emma?", "..."], k=5)     batched: lists of Passage, best first
    retriever.invoke("who wrote Emma?")                   LangChain Documents

What is asked again is answered from a cache of queries.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from threading import RLock
from typing import Any

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, Field, PrivateAttr

from agents.chroma import STARTER, user_name
from agents.chroma_place import Server, index_place
from agents.chroma_search import MODES, ChromaSearch, Mode
from agents.embedder import Embedder, open_embedder
from agents.errors import ConfigError
from agents.index import Progress, build_index, starter_is_current
from agents.passage import Passage

__all__ = ["MODES", "ChromaRetriever", "Mode", "open_retriever"]
BATCH = 256
"""Most queries embedded and searched at a time."""


class ChromaRetriever(BaseRetriever):
    """Search one collection; opened at first use, safe to share between threads.

    Raises (from every method that searches):
        RetrieverError: The collection is missing, empty, unfinished, or was built with another embedder.
        ConfigError: A blank query, or k below 1.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)

    collection: str
    """As a user names it; "hotpotqa" means the bundled corpus."""
    embedder: Any = Field(default=None, exclude=True, repr=False)
    """An Embedder; None = the embedded MiniLM, loaded at the first query that needs it."""
    k: int = Field(default=5, ge=1)
    """Passages a query."""
    mode: Mode = "exact"
    folder: Path | Server | None = None
    """Folder of the Chroma store, or a Chroma server; None = `JADE_CHROMA`, else index/ in JADE's home."""
    cache_size: int = Field(default=4096, ge=0)
    """Queries whose results are kept."""
    patience_seconds: float = Field(default=20.0, ge=0, exclude=True)
    """How long an HNSW search waits for a Chroma server that is away: no try is begun later."""
    answer_seconds: float = Field(default=10.0, gt=0, exclude=True)
    """How long a try of an HNSW search may take; a server that says nothing for longer is away."""

    _lock: Any = PrivateAttr(default_factory=RLock)
    _cache: OrderedDict[tuple[str, int], list[Passage]] = PrivateAttr(default_factory=OrderedDict)

    def search(self, queries: Sequence[str], k: int | None = None) -> list[list[Passage]]:
        """Return the k closest passages of each query, best first; k defaults to the retriever's own.

        Scores are cosines (exact, hnsw), BM25 scores, or reciprocal-rank sums (hybrid). BM25 returns fewer than
        k passages where fewer share a word with the query.

        Raises:
            RetrieverError: The collection cannot answer.
            ConfigError: A blank query, or k below 1.
        """
        count = self.k if k is None else k
        if count < 1:
            raise ConfigError(f"k is {count}; wanted at least 1 passage a query")
        blank = next((place for place, query in enumerate(queries) if not query.strip()), None)
        if blank is not None:
            raise ConfigError(f"query {blank} of {len(queries)} is blank; wanted words to search for")
        with self._lock:
            found = {query: self._cache[query, count] for query in queries if (query, count) in self._cache}
        fresh = [query for query in dict.fromkeys(queries) if query not in found]
        for start in range(0, len(fresh), BATCH):  # without the lock: nobody else waits for a server
            batch = fresh[start : start + BATCH]
            found.update(zip(batch, self._collection.rank(batch, count), strict=True))
        with self._lock:
            self._remember(found, count)
        return [[passage.copy() for passage in found[query]] for query in queries]

    @property
    def identity(self) -> Mapping[str, str]:
        """Return {"environment": hash, ...} with the parts that make the hash (DESIGN §6)."""
        return self.identity_for(self.k)

    def identity_for(self, k: int) -> Mapping[str, str]:
        """Return the identity of searching for k passages; the parts stand beside the hash, readable.

        Raises:
            RetrieverError: The collection cannot answer.
        """
        card = self._collection.card
        dense = self.mode != "bm25"
        parts = {
            "collection": user_name(self.collection),
            "embedder": card.embedder if dense else "-",
            "embedder_digest": card.embedder_digest if dense else "-",
            "distance": card.distance if dense else "-",
            "mode": self.mode,
            "k": str(k),
            "content": card.content,
        }
        digest = blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()
        return {"environment": digest, **parts}

    @property
    def passages(self) -> int:
        """Return how many passages the collection holds.

        Raises:
            RetrieverError: The collection cannot answer.
        """
        return self._collection.card.wanted

    def warm(self) -> None:
        """Read the vectors and load the embedder now: one search that is not cached."""
        self._collection.rank(["warm up"], 1)

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        return [
            Document(
                id=passage["id"],
                page_content=passage["text"],
                metadata={
                    "id": passage["id"],
                    "title": passage["title"],
                    "score": passage["score"],
                    "source": self._collection.source(passage["id"]),
                },
            )
            for passage in self.search([query])[0]
        ]

    def _remember(self, found: Mapping[str, list[Passage]], k: int) -> None:
        for query, passages in found.items():
            self._cache[query, k] = passages
            self._cache.move_to_end((query, k))
        while len(self._cache) > self.cache_size:
            self._cache.popitem(last=False)

    @cached_property
    def _collection(self) -> ChromaSearch:
        return ChromaSearch(
            self.collection, self.embedder, self.mode, self.folder, self.patience_seconds, self.answer_seconds
        )


def open_retriever(
    collection: str | None = None,
    *,
    mode: Mode = "exact",
    k: int = 5,
    embedder: Embedder | str | None = None,
    folder: str | Path | Server | None = None,
    progress: Progress | None = None,
) -> ChromaRetriever:
    """Open a collection and check that it can answer; the starter corpus is built if need be.

    Args:
        collection: A collection's name or a bundled dataset; None = "starter".
        mode: One of `MODES`.
        k: Passages a query.
        embedder: An Embedder or a name for `open_embedder`; None = the embedded MiniLM.
        folder: Folder of the Chroma store, or a Chroma server; None = `JADE_CHROMA`, else index/ in JADE's home.
        progress: Told about downloads and about building the starter corpus.

    Raises:
        ConfigError: An unknown mode, or k below 1.
        RetrieverError: The collection is missing, empty, unfinished, or was built with another embedder.
    """
    if mode not in MODES:
        raise ConfigError(f'there is no retrieval mode "{mode}"; there are {", ".join(MODES)}')
    if k < 1:
        raise ConfigError(f"k is {k}; wanted at least 1 passage a query")
    if embedder is None or isinstance(embedder, str):
        embedder = open_embedder(embedder, progress and (lambda line: progress(line, 0, 0)))
    name = STARTER if collection is None else collection
    place = index_place(folder)
    if user_name(name) == STARTER and not starter_is_current(place):
        build_index(embedder=embedder, folder=place, progress=progress)
    retriever = ChromaRetriever(collection=name, embedder=embedder, k=k, mode=mode, folder=place)
    _ = retriever.identity
    return retriever
