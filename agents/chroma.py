"""The door to Chroma: open a client, read a collection, know what JADE wrote about it.

A collection that JADE built carries a Card in its metadata; one without a Card is foreign and is only ever read.
Chroma's stores are not safe for several writing processes, so building takes `build_lock`.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agents.chroma_failures import chroma_errors
from agents.chroma_place import Place, Server, has_store, index_place, lock_file
from agents.corpora import DATASETS
from agents.embedder import Matrix, unit_rows
from agents.errors import ConfigError, RetrieverError
from agents.home import only_one

if TYPE_CHECKING:
    from chromadb.api import ClientAPI
    from chromadb.api.models.Collection import Collection

MAX_ROWS = 5461
"""Most rows that Chroma takes in one insert (SQLite's variables divided by six columns)."""
STARTER = "starter"
"""The corpus of the first question: bundled passages with their vectors."""
BUNDLED = (STARTER, *DATASETS)
_SCHEMA = 1
_PAGE = 5000
"""Passages read at a time."""
_IDS = 100_000
"""Ids read at a time."""


@dataclass(frozen=True)
class Card:
    """What JADE writes into the metadata of a collection that it built."""

    embedder: str
    embedder_digest: str
    content: str
    """Digest of all (id, text hash) pairs; "" while building."""
    state: str
    """"building" from the first change to the last, else "complete"."""
    wanted: int
    """Passages that the collection has when complete."""
    distance: str = "cosine"

    def to_metadata(self) -> dict[str, Any]:
        """Return the collection metadata."""
        return {"jade": _SCHEMA, **asdict(self)}


@dataclass(frozen=True)
class Rows:
    """A collection read into memory, sorted by id."""

    ids: list[str]
    titles: list[str]
    texts: list[str]
    sources: list[str]
    vectors: Matrix
    """float32 [passages, dimension], rows of length 1; [0, 0] where they were not read."""


@dataclass(frozen=True)
class CollectionInfo:
    """One line about a collection, for listings and `jade doctor`."""

    name: str
    """As a user names it: "hotpotqa" for the bundled "data-hotpotqa"."""
    passages: int
    embedder: str
    """Name of the embedder; "" for a foreign collection."""
    state: str
    """"complete", "building" (or interrupted), or "foreign"."""


def collection_name(name: str) -> str:
    """Return Chroma's name for what a user calls a collection; bundled corpora are prefixed ("nq" is too short).

    Raises:
        ConfigError: Not a name that Chroma takes.
    """
    if name in BUNDLED:
        return f"data-{name}"
    if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,510}[a-zA-Z0-9]", name):
        raise ConfigError(
            f'"{name}" cannot be the name of a collection; wanted 3 to 512 letters, digits, ".", "_" or "-", '
            f"the first and last a letter or digit; or a bundled corpus: {', '.join(BUNDLED)}"
        )
    return name


def user_name(name: str) -> str:
    """Undo `collection_name`."""
    return name.removeprefix("data-") if name.removeprefix("data-") in BUNDLED else name


def index_command(name: str) -> str:
    """Return the command that builds the collection called `name`."""
    name = user_name(name)
    return f"jade index --dataset {name}" if name in BUNDLED else f"jade index FOLDER --collection {name}"


def open_client(place: Place, *, create: bool = False, remedy: str = "jade index FOLDER") -> ClientAPI:
    """Open the store; telemetry off.

    Args:
        place: The store's folder, or a server.
        create: Make the folder if it does not exist.
        remedy: The command that builds what is wanted from it.

    Raises:
        RetrieverError: No store there, one that Chroma cannot read, or a server that does not answer.
    """
    if not create and not has_store(place):
        raise RetrieverError(f"there is no index in {place}; build it: {remedy}")
    if isinstance(place, Server):
        from agents.chroma_server import connect

        return connect(place)
    import chromadb
    from chromadb.config import Settings

    try:
        return chromadb.PersistentClient(path=str(place), settings=Settings(anonymized_telemetry=False))
    except Exception as error:  # a damaged SQLite file surfaces as almost any type
        raise RetrieverError(
            f"the index in {place} cannot be opened ({error}); remove the folder and build it again: {remedy}"
        ) from error


def find_collection(client: ClientAPI, name: str) -> Collection | None:
    """Return the collection with Chroma's name `name`, or None."""
    from chromadb.errors import NotFoundError

    try:
        return client.get_collection(name, embedding_function=None)
    except NotFoundError:
        return None


def open_collection(
    name: str, folder: str | Path | Server | None = None, *, client: ClientAPI | None = None
) -> Collection:
    """Return a collection of the store, as it is.

    Args:
        name: As a user names it; a bundled dataset's name means its corpus.
        folder: Folder of the Chroma store, or a Chroma server; None = `JADE_CHROMA`, else index/ in JADE's home.
        client: An open client of it, to be used instead of a new one.

    Raises:
        RetrieverError: It is missing; the message holds the command that builds it.
    """
    place, inner = index_place(folder), collection_name(name)
    command = index_command(inner)
    with chroma_errors(f'opening collection "{name}" in {place}'):
        found = find_collection(client or open_client(place, remedy=command), inner)
    if found is None:
        raise RetrieverError(f'there is no collection "{name}" in {place}; build it: {command}')
    return found


def read_card(collection: Collection) -> Card | None:
    """Return what JADE wrote about a collection, or None for a foreign one.

    Raises:
        RetrieverError: Written by another version of JADE.
    """
    metadata = dict(collection.metadata or {})
    schema = metadata.pop("jade", None)
    if schema is None:
        return None
    if schema != _SCHEMA:
        raise RetrieverError(
            f'collection "{user_name(collection.name)}" has schema {schema}, this version reads {_SCHEMA}; '
            f"build it again: {index_command(collection.name)} --rebuild"
        )
    return Card(**{key: metadata[key] for key in Card.__dataclass_fields__})


def read_rows(collection: Collection, *, dense: bool = True) -> Rows:
    """Copy a collection into memory; later changes by other processes are not seen.

    Read page by page, each put where it belongs, so that no second copy of the vectors is made.

    Args:
        collection: Which.
        dense: Whether vectors are wanted; without them there are none of any dimension, [0, 0].

    Raises:
        RetrieverError: It cannot be read, is empty, has passages without text, or is changed meanwhile.
    """
    name = user_name(collection.name)
    with chroma_errors(f'reading collection "{name}"'):
        rows = Rows(_ids(collection), [], [], [], np.empty((0, 0), dtype=np.float32))
        if not rows.ids:
            raise RetrieverError(f'collection "{name}" is empty; fill it: {index_command(name)}')
        wanted: Any = ["documents", "metadatas", *(["embeddings"] if dense else [])]
        for start in range(0, len(rows.ids), _PAGE):
            page = rows.ids[start : start + _PAGE]
            got = collection.get(ids=page, include=wanted)
            rows = _add_page(rows, page, dict(got), name)
    return rows


def _ids(collection: Collection) -> list[str]:
    """Return all ids, sorted; a server answers each page with one message."""
    ids: list[str] = []
    while True:
        got = collection.get(include=[], limit=_IDS, offset=len(ids))["ids"]
        ids += got
        if len(got) < _IDS:
            return sorted(ids)


def _add_page(rows: Rows, page: list[str], got: dict[str, Any], name: str) -> Rows:
    """Append some passages, in the order of their ids, and fill in their vectors if there are any."""
    places = {identifier: place for place, identifier in enumerate(got["ids"])}
    if len(places) < len(page):
        raise RetrieverError(f'collection "{name}" was changed while it was read; open it again')
    order = [places[identifier] for identifier in page]
    documents, metadatas = got["documents"] or [None] * len(page), got["metadatas"] or [None] * len(page)
    if any(text is None for text in documents):
        raise RetrieverError(
            f'collection "{name}" has entries without a document text, so there is nothing to read answers from; '
            "store the texts as Chroma documents, or build a collection of them: jade index FOLDER"
        )
    start = len(rows.texts)
    for place in order:
        about = metadatas[place] or {}
        rows.titles.append(str(about.get("title") or ""))
        rows.texts.append(str(documents[place]))
        rows.sources.append(str(about.get("source") or ""))
    if got["embeddings"] is not None:
        vectors = unit_rows(got["embeddings"])[order]
        if not start:
            rows = replace(rows, vectors=np.empty((len(rows.ids), vectors.shape[1]), dtype=np.float32))
        rows.vectors[start : start + len(page)] = vectors
    return rows


def list_collections(folder: str | Path | Server | None = None) -> list[CollectionInfo]:
    """Return every collection of the store, by name; none if there is no store yet.

    Raises:
        RetrieverError: The store cannot be read.
    """
    place = index_place(folder)
    if not has_store(place):
        return []
    infos = []
    with chroma_errors(f"listing the collections in {place}"):
        for collection in open_client(place).list_collections():
            card = read_card(collection)
            infos.append(
                CollectionInfo(
                    user_name(collection.name),
                    collection.count(),
                    card.embedder if card else "",
                    card.state if card else "foreign",
                )
            )
    return sorted(infos, key=lambda info: info.name)


def build_lock(place: Place) -> AbstractContextManager[None]:
    """Hold the store's lock file while writing.

    Raises:
        RetrieverError: Another process is building.
    """
    return only_one(lock_file(place), RetrieverError(f"another process is building in {place}; wait until it is done"))
