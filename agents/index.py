"""Build and update a collection: only what is new or changed is embedded, what vanished from the source is removed.

    build_index()                                   the starter corpus, from its shipped vectors (seconds)
    build_index(dataset="hotpotqa")                 a bundled benchmark (about 100 passages a second)
    build_index("notes/", collection="notes")       one's own files; run it again after changing them

A source owns the passages it brought: indexing a second folder into the same collection adds to it. A build that
was interrupted goes on where it stopped when the same command runs again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agents.chroma import (
    BUNDLED,
    MAX_ROWS,
    STARTER,
    Card,
    build_lock,
    collection_name,
    find_collection,
    index_command,
    open_client,
    read_card,
    user_name,
)
from agents.chroma_failures import chroma_errors
from agents.chroma_place import Place, Server, has_store, index_place
from agents.corpora import read_corpus
from agents.documents import CHUNK, OVERLAP, Document, Reading, content_digest, read_documents
from agents.embedder import Embedder, Matrix, open_embedder
from agents.errors import ConfigError, RetrieverError
from agents.starter import read_starter, starter_content, starter_vectors

if TYPE_CHECKING:
    from chromadb.api import ClientAPI
    from chromadb.api.models.Collection import Collection

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, passages done, passages in all)."""

DEFAULT_COLLECTION = "documents"
"""Where a user's own files go unless named otherwise."""
BLOCK = 1024
"""Passages embedded and stored at a time: what an interrupt can cost, about ten seconds."""
PAGE = 50_000
"""Passages whose metadata are read at a time."""


@dataclass(frozen=True)
class IndexReport:
    """What a build did."""

    collection: str
    """As a user names it."""
    passages: int
    """In the collection now."""
    added: int
    updated: int
    removed: int
    kept: int
    """Of this source, found unchanged."""
    skipped: tuple[str, ...]
    """One line per file left out."""
    content: str
    """Digest of the collection's content."""
    embedder: str
    seconds: float


def build_index(
    source: str | Path | None = None,
    *,
    dataset: str | None = None,
    collection: str | None = None,
    embedder: Embedder | str | None = None,
    folder: str | Path | Server | None = None,
    chunk: int = CHUNK,
    overlap: int = OVERLAP,
    rebuild: bool = False,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> IndexReport:
    """Make a collection hold exactly what `source` (or a bundled `dataset`) holds, beside other sources' passages.

    Args:
        source: Folder or file (see `agents.documents`); None = the bundled `dataset`.
        dataset: Bundled corpus; None without a source = "starter".
        collection: Name; None = "documents" for a source, the dataset's own name for a dataset.
        embedder: An Embedder, or a name for `open_embedder`; None = the embedded MiniLM.
        folder: Folder of the Chroma store, or a Chroma server; None = `JADE_CHROMA`, else index/ in JADE's home.
        chunk: Longest passage split from a document, in characters.
        overlap: Characters shared by neighbouring passages.
        rebuild: Drop the collection first; needed to change the embedder.
        skip_bad: Leave out files with faults instead of raising.
        progress: Called after every block.

    Raises:
        ConfigError: Bad source, dataset or name; a fault in a file (file and line are named); an id that another
            source of the collection has.
        RetrieverError: The collection was built with another embedder, is foreign, or is being built elsewhere.
    """
    began = time.monotonic()
    tell = progress or _silent
    name = _target(source, dataset, collection)
    tell("reading", 0, 0)
    reading = _read(source, dataset, chunk, overlap, skip_bad)
    origin = f"bundled:{dataset or STARTER}" if source is None else _origin(Path(source))
    if embedder is None or isinstance(embedder, str):
        embedder = open_embedder(embedder, progress=lambda line: tell(line, 0, 0))
    place = index_place(folder)
    with build_lock(place), chroma_errors(f'building collection "{user_name(name)}" in {place}'):
        client = open_client(place, create=True)
        target = _open(client, name, embedder, rebuild)
        doing, encode = _encoder(reading.documents, source is None and dataset in (None, STARTER), embedder)
        counts = _synchronise(target, reading.documents, origin, encode, partial(tell, doing))
        card = read_card(target)
    assert card is not None
    return IndexReport(
        user_name(name),
        card.wanted,
        *counts,
        skipped=reading.skipped,
        content=card.content,
        embedder=card.embedder,
        seconds=time.monotonic() - began,
    )


def _origin(source: Path) -> str:
    """Return the source's absolute path; bytes that are not UTF-8 are replaced, for Chroma takes no others."""
    return os.fsencode(source.expanduser().resolve()).decode("utf-8", "replace")


def _silent(what: str, done: int, total: int) -> None:
    """Report nothing."""


def _target(source: str | Path | None, dataset: str | None, collection: str | None) -> str:
    if source is not None and dataset is not None:
        raise ConfigError(f'both a source ({source}) and the dataset "{dataset}" were given; give one of them')
    if dataset is not None and dataset not in BUNDLED:
        raise ConfigError(f'there is no bundled dataset "{dataset}"; there are {", ".join(BUNDLED)}')
    if collection is not None and collection in BUNDLED and collection != (dataset or STARTER):
        raise ConfigError(f'"{collection}" is the name of a bundled corpus; give the collection another name')
    default = DEFAULT_COLLECTION if source is not None else dataset or STARTER
    return collection_name(collection or default)


def _read(source: str | Path | None, dataset: str | None, chunk: int, overlap: int, skip_bad: bool) -> Reading:
    if source is not None:
        return read_documents(source, chunk=chunk, overlap=overlap, skip_bad=skip_bad)
    if dataset in (None, STARTER):
        return Reading(read_starter(), ())
    assert dataset is not None
    return Reading([Document(row["id"], row["title"], row["text"], dataset) for row in read_corpus(dataset)], ())


def _open(client: ClientAPI, name: str, embedder: Embedder, rebuild: bool) -> Collection:
    """Return the collection to write to, made if need be.

    Raises:
        RetrieverError: It is foreign, or was built with another embedder.
    """
    found = find_collection(client, name)
    if found is not None:
        card = read_card(found) if not rebuild else Card(embedder.name, embedder.digest, "", "building", 0)
        if "jade" not in (found.metadata or {}):
            raise RetrieverError(
                f'collection "{user_name(name)}" was not built by JADE, which only reads such collections; '
                "give another --collection"
            )
        if rebuild:
            client.delete_collection(name)
        elif card is not None and card.embedder_digest != embedder.digest:
            raise RetrieverError(wrong_embedder(name, card, embedder))
        else:
            return found
    return client.create_collection(
        name,
        embedding_function=None,
        configuration={"hnsw": {"space": "cosine"}},
        metadata=Card(embedder.name, embedder.digest, "", "building", 0).to_metadata(),
    )


def starter_is_current(place: Place) -> bool:
    """Say whether the starter collection is there, finished, and of the passages that this version ships."""
    if not has_store(place):
        return False
    with chroma_errors(f'looking for collection "{STARTER}" in {place}'):
        found = find_collection(open_client(place), collection_name(STARTER))
    card = found and read_card(found)
    return bool(card and card.state == "complete" and card.content == starter_content())


def wrong_embedder(name: str, card: Card, embedder: Embedder) -> str:
    """Say that a collection was built with another embedder, and what to do."""
    versions = ""
    if card.embedder == embedder.name:
        versions = f" (other weights of that name: {card.embedder_digest[:8]}, now {embedder.digest[:8]})"
    return (
        f'collection "{user_name(name)}" was built with the embedder "{card.embedder}", not with '
        f'"{embedder.name}"{versions}; use --embedder {card.embedder}, another --collection, or build it again: '
        f"{index_command(name)} --rebuild"
    )


def _encoder(
    documents: list[Document], starter: bool, embedder: Embedder
) -> tuple[str, Callable[[list[Document]], Matrix]]:
    """Return what gives passages their vectors, and its name: the shipped file for the starter, else the embedder."""
    shipped = starter_vectors(documents, embedder) if starter else None
    if shipped is None:
        return "embedding", lambda block: embedder.encode([document.embedded_text for document in block])
    rows = {document.id: row for row, document in enumerate(documents)}
    vectors = shipped
    return "storing shipped vectors", lambda block: vectors[np.array([rows[document.id] for document in block])]


def _synchronise(
    target: Collection,
    documents: list[Document],
    origin: str,
    encode: Callable[[list[Document]], Matrix],
    tell: Callable[[int, int], None],
) -> tuple[int, int, int, int]:
    """Bring the collection up to date; return passages (added, updated, removed, kept)."""
    stored = _stored(target)
    wanted = {document.id: document for document in documents}
    for identifier in wanted:
        if identifier in stored and stored[identifier]["origin"] != origin:
            raise ConfigError(
                f'passage id "{identifier}" of {origin} is in the collection already, from '
                f"{stored[identifier]['origin']}; give another --collection, or start anew with --rebuild"
            )
    gone = [key for key, row in stored.items() if row["origin"] == origin and key not in wanted]
    changed = [doc for doc in documents if doc.id in stored and not _same(stored[doc.id], doc)]
    new = [document for document in documents if document.id not in stored]
    hashes = {key: row["hash"] for key, row in stored.items()}
    hashes.update({document.id: document.digest for document in documents})
    dropped = set(gone)
    content = content_digest((key, text) for key, text in hashes.items() if key not in dropped)
    card = read_card(target)
    assert card is not None
    complete = replace(card, state="complete", content=content, wanted=len(hashes) - len(gone))
    if card != complete:
        target.modify(metadata=replace(complete, state="building", content="").to_metadata())
        _write(target, [*changed, *new], origin, encode, tell)
        for start in range(0, len(gone), MAX_ROWS):
            target.delete(ids=gone[start : start + MAX_ROWS])
        target.modify(metadata=complete.to_metadata())
    return len(new), len(changed), len(gone), len(documents) - len(new) - len(changed)


def _stored(target: Collection) -> dict[str, dict[str, Any]]:
    """Return id → metadata, read page by page: a server answers each with one message."""
    stored: dict[str, dict[str, Any]] = {}
    while True:
        got = target.get(include=["metadatas"], limit=PAGE, offset=len(stored))
        stored.update((key, dict(row)) for key, row in zip(got["ids"], got["metadatas"] or [], strict=True))
        if len(got["ids"]) < PAGE:
            return stored


def _same(row: dict[str, Any], document: Document) -> bool:
    return bool(row["hash"] == document.digest and row["source"] == document.source)


def _write(
    target: Collection,
    documents: list[Document],
    origin: str,
    encode: Callable[[list[Document]], Matrix],
    tell: Callable[[int, int], None],
) -> None:
    tell(0, len(documents))
    for start in range(0, len(documents), BLOCK):
        block = documents[start : start + BLOCK]
        target.upsert(
            ids=[document.id for document in block],
            embeddings=encode(block),
            documents=[document.text for document in block],
            metadatas=[
                {"title": doc.title, "source": doc.source, "hash": doc.digest, "origin": origin} for doc in block
            ],
        )
        tell(start + len(block), len(documents))
