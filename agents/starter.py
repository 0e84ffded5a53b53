"""The starter corpus: 7,000 bundled passages that come with their vectors, so that a newcomer waits seconds.

`data/starter/passages.jsonl.gz` refers to passages of the bundled corpora (no text twice); `vectors.npz` holds their
embedded-MiniLM vectors as int8. Made again by `python -m agents.starter` (about 80 s on two cores with bf16).
"""

from __future__ import annotations

import gzip
import json
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.corpora import DATASETS, data_folder, has_split, read_corpus, read_supporting
from agents.documents import Document, content_digest
from agents.embedder import Embedder, Matrix, SentenceEmbedder, unit_rows
from agents.errors import ConfigError, SetupError

SOURCES = DATASETS[:7]
"""The paper's seven sets; SQuAD's questions make sense only beside their paragraph."""


def choose(size: int = 7000) -> list[tuple[str, str]]:
    """Choose the starter's passages: all that support a dev question, then train support and distractors by hash.

    Each dataset gets the same number of places; duplicates of a text across corpora count once.

    Args:
        size: Passages wanted.

    Returns:
        (dataset, passage id), sorted.
    """
    seen: set[bytes] = set()
    chosen: list[tuple[str, str]] = []
    for place, dataset in enumerate(SOURCES):
        quota = (size - len(chosen)) // (len(SOURCES) - place)
        ranks = dict.fromkeys(_supporting(dataset, "train"), 1) | dict.fromkeys(_supporting(dataset, "dev"), 0)
        rows = sorted(read_corpus(dataset), key=lambda row: (ranks.get(row["id"], 2), _hash(row["id"])))
        # A train question's passages are a third of what is not dev support; short texts make poor distractors.
        train = [row for row in rows if ranks.get(row["id"]) == 1]
        dev = [row for row in rows if ranks.get(row["id"]) == 0]
        rest = [row for row in rows if row["id"] not in ranks and row["title"] and 200 <= len(row["text"]) <= 1200]
        room = max(0, quota - len(dev))
        for row in [*dev, *train[: room // 3], *rest, *train[room // 3 :]]:
            text = _hash(f"{row['title']}\n{row['text']}")
            if quota > 0 and text not in seen:
                seen.add(text)
                chosen.append((dataset, row["id"]))
                quota -= 1
    return sorted(chosen)


def read_starter() -> list[Document]:
    """Return the starter's passages, read from the bundled corpora.

    Raises:
        SetupError: data/starter is missing or refers to passages that the corpora do not have.
    """
    path = data_folder() / "starter" / "passages.jsonl.gz"
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            wanted = [(row["dataset"], row["id"]) for row in map(json.loads, lines)]
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise SetupError(f"{path} cannot be read ({error}); {_REMEDY}") from error
    return _documents(wanted, path)


def starter_content() -> str:
    """Return the content digest of the passages that ship, as the collection built from them has it.

    Raises:
        SetupError: The vectors are missing or damaged.
    """
    with _shipped() as stored:
        return str(stored["content"])


def starter_vectors(documents: list[Document], embedder: Embedder) -> Matrix | None:
    """Return the shipped vectors of `read_starter`'s documents, or None where another embedder is in use.

    Returns:
        float32 [documents, 384], rows of length 1.

    Raises:
        SetupError: The vectors are missing, or were made of other texts.
    """
    with _shipped() as stored:
        if str(stored["embedder"]) != embedder.digest:
            return None
        if str(stored["content"]) != _content(documents):
            raise SetupError(f"data/starter/vectors.npz is of other passages than the data folder's; {_REMEDY}")
        return unit_rows(stored["vectors"])


@contextmanager
def _shipped() -> Iterator[Mapping[str, NDArray[Any]]]:
    path = data_folder() / "starter" / "vectors.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            yield stored
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise SetupError(f"{path} cannot be read ({error}); {_REMEDY}") from error


_REMEDY = "restore it (git checkout -- data/starter) or make it again (python -m agents.starter)"


def make_starter(embedder: Embedder, *, size: int = 7000, folder: Path | None = None) -> Path:
    """Choose the passages, embed them and write the two files.

    Args:
        embedder: Whose vectors ship; the embedded MiniLM for the repository's files.
        size: Passages wanted.
        folder: Where to write; None = data/starter.

    Returns:
        The folder.
    """
    folder = folder or data_folder() / "starter"
    folder.mkdir(parents=True, exist_ok=True)
    wanted = choose(size)
    documents = _documents(wanted, folder)
    vectors = embedder.encode([document.embedded_text for document in documents])
    lines = "".join(json.dumps({"dataset": dataset, "id": passage}) + "\n" for dataset, passage in wanted)
    (folder / "passages.jsonl.gz").write_bytes(gzip.compress(lines.encode(), 9, mtime=0))
    np.savez_compressed(
        folder / "vectors.npz",
        vectors=quantise(vectors),
        embedder=np.array(embedder.digest),
        name=np.array(embedder.name),
        content=np.array(_content(documents)),
    )
    return folder


LEVELS = 31
"""Largest stored component: 6 of int8's 8 bits, which shrinks the compressed file by a quarter."""


def quantise(vectors: Matrix) -> NDArray[np.int8]:
    """Scale each row [dimension] to its own largest component and round to whole numbers in ±31.

    The scale is not stored: the cosine needs a vector's direction only (mean cosine to the original .9995).
    """
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    rounded: NDArray[np.int8] = np.rint(vectors * (LEVELS / np.maximum(largest, 1e-12))).astype(np.int8)
    return rounded


def _supporting(dataset: str, split: str) -> set[str]:
    if not has_split(dataset, split):
        return set()
    return {passage for _, passages in read_supporting(dataset, split) for passage in passages}


def _documents(wanted: list[tuple[str, str]], path: Path) -> list[Document]:
    passages: dict[str, dict[str, Any]] = {}
    for dataset in sorted({dataset for dataset, _ in wanted}):
        passages.update({row["id"]: row for row in read_corpus(dataset)})
    missing = [passage for _, passage in wanted if passage not in passages]
    if missing:
        raise SetupError(f'{path} refers to "{missing[0]}", which no bundled corpus has; {_REMEDY}')
    return [
        Document(passage, passages[passage]["title"], passages[passage]["text"], dataset) for dataset, passage in wanted
    ]


def _content(documents: list[Document]) -> str:
    return content_digest((document.id, document.digest) for document in documents)


def _hash(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()


def main() -> None:
    """Write data/starter anew with the embedded MiniLM."""
    if len(sys.argv) > 1:
        raise ConfigError("python -m agents.starter takes no arguments")
    folder = make_starter(SentenceEmbedder())
    sys.stdout.write(f"wrote {folder}\n")


if __name__ == "__main__":
    main()
