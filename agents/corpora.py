"""The bundled benchmark files: which there are, where they lie, how their passages and questions are read.

One corpus per dataset; retrieval runs over that corpus only. Formats, counts, sources and licences: data/README.md.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agents.errors import ConfigError, SetupError

DATASETS = ("nq", "popqa", "ambigqa", "hotpotqa", "2wikimultihopqa", "musique", "bamboogle", "squad")
"""Datasets with a corpus of their own; the first seven are the paper's."""


def data_folder() -> Path:
    """Return the folder of the bundled data: environment variable JADE_DATA, else data/ beside the packages.

    Raises:
        SetupError: There is no such folder.
    """
    folder = Path(os.environ.get("JADE_DATA") or Path(__file__).resolve().parent.parent / "data").expanduser()
    if not folder.is_dir():
        raise SetupError(
            f"the benchmark data is not at {folder}; set JADE_DATA to the repository's data folder, "
            "or work from a clone of the repository"
        )
    return folder


def read_corpus(dataset: str) -> Iterator[dict[str, str]]:
    """Yield the passages of a bundled dataset as {"id", "title", "text"}, in file order.

    Raises:
        ConfigError: No such dataset, or a broken file.
        SetupError: The data folder or the file is missing.
    """
    for row in _rows(dataset, "corpus"):
        yield {"id": row["id"], "title": row["title"], "text": row["text"]}


def read_supporting(dataset: str, split: str = "dev") -> list[tuple[str, tuple[str, ...]]]:
    """Return (question, ids of its supporting passages) of a split, questions without known passages left out.

    Raises:
        ConfigError: No such dataset or split, or a broken file.
        SetupError: The data folder or the file is missing.
    """
    rows = [(row["question"], tuple(row.get("supporting") or ())) for row in _rows(dataset, split)]
    return [row for row in rows if row[1]]


def has_split(dataset: str, split: str) -> bool:
    """Say whether a bundled dataset has this file (ambigqa and bamboogle have no train part)."""
    return (data_folder() / dataset / f"{split}.jsonl.gz").is_file()


def _rows(dataset: str, part: str) -> Iterator[dict[str, Any]]:
    if dataset not in DATASETS:
        raise ConfigError(f'there is no bundled dataset "{dataset}"; there are {", ".join(DATASETS)}')
    path = data_folder() / dataset / f"{part}.jsonl.gz"
    if not path.is_file():
        raise SetupError(f"{path} is missing; restore it from the repository (git checkout -- data)")
    line = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for text in lines:
                yield json.loads(text)
                line += 1
    except (OSError, EOFError, ValueError) as error:
        raise ConfigError(
            f"{path}, line {line + 1}: not readable ({error}); restore it (git checkout -- data)"
        ) from error
