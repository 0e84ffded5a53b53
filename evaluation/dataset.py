"""Questions with gold answers: the bundled benchmarks, or a file in any of the public formats.

Everything is checked before anything else runs: a row without a gold answer, a duplicate or a malformed row
stops the load with its file, place and reason, since silently dropped questions make every mean a lie (the
JADE code drops them). The bundled sets are subsets of the official ones; say so when reporting a number.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agents.corpora import data_folder
from agents.errors import ConfigError
from evaluation.formats import FORMATS, fields_of, read_rows
from evaluation.hub import SCHEME, hub_file

DATASETS = ("nq", "popqa", "ambigqa", "hotpotqa", "2wikimultihopqa", "musique", "bamboogle")
"""The seven sets that the paper is measured on, in its order (single-hop, then multi-hop)."""
BUNDLED = (*DATASETS, "squad", "decompositions")
"""Everything under data/: the seven, extra single-hop training questions, and question decompositions."""
_REPEATS = ("flashrag", "squad")
"""Public formats whose official files ask some questions twice on purpose (two people of one name, say)."""
_SHOWN = 20
"""Bad rows that an error message lists."""


@dataclass(frozen=True)
class Example:
    """One question with its gold answers."""

    id: str
    question: str
    answers: tuple[str, ...]
    """Any one counts. Empty only where `load_examples(gold=False)` allowed it."""
    type: str = ""
    """Question type as the dataset names it: "bridge", "comparison", "3hop1", "occupation", …"""
    hops: int | None = None
    """How many facts it takes; None where the file does not tell."""
    supporting: tuple[str, ...] = ()
    """Ids of the passages that hold the answer; titles in the public formats, which have no ids."""
    decomposition: tuple[tuple[str, str | None], ...] = ()
    """Steps (sub-question, answer or None); `#1` stands for the answer of step 1."""
    decomposition_kind: str = ""
    """"gold", "triples" (templated), "subquestions" (written by a model), "qdmr" (phrases), or ""."""
    dataset: str = ""
    origin: str = ""
    """Official split, or source, that the question comes from."""


def load_examples(
    name_or_path: str | Path,
    split: str = "dev",
    limit: int | None = None,
    sample: int | None = None,
    seed: int = 0,
    *,
    gold: bool = True,
) -> list[Example]:
    """Load a bundled dataset by name, or a data file (or a folder with <split>.jsonl) by path.

    Args:
        name_or_path: One of `BUNDLED`, or a file in one of the formats of `evaluation.formats`, here or on the hub
            (`evaluation.hub`).
        split: "train" or "dev"; ignored for a file.
        limit: Keep the first so many.
        sample: Keep so many, drawn by a hash of (seed, id): the same ones whatever the file's order, in file
            order; all where there are fewer.
        seed: Key of the sample.
        gold: Refuse rows without a gold answer. False is for decompositions, which train no answer.

    Raises:
        ConfigError: Unknown name or split, impossible limit, unreadable or empty file, or rows that are
            malformed, duplicate, or without a gold answer: the message names file, place and reason.
    """
    for option, value in (("limit", limit), ("sample", sample)):
        if value is not None and value < 1:
            raise ConfigError(f"{option}={value}: give a number from 1, or leave it out for all questions")
    path, dataset = _locate(name_or_path, split)
    examples = _checked(path, dataset, gold)
    if sample is not None and sample < len(examples):
        drawn = set(sorted((_key(seed, example.id), example.id) for example in examples)[:sample])
        examples = [example for example in examples if (_key(seed, example.id), example.id) in drawn]
    return examples[:limit]


def splits_of(name: str) -> tuple[str, ...]:
    """Return the splits that a bundled dataset has ("train", "dev").

    Raises:
        ConfigError: No such dataset.
        SetupError: The data folder is missing.
    """
    if name not in BUNDLED:
        raise ConfigError(_unknown(name))
    return tuple(split for split in ("train", "dev") if (data_folder() / name / f"{split}.jsonl.gz").is_file())


def _locate(name_or_path: str | Path, split: str) -> tuple[Path, str]:
    """Return the file to read and the label of its dataset."""
    name = str(name_or_path)
    if name in BUNDLED:
        available = splits_of(name)
        if split not in available:
            raise ConfigError(f"{name} has no {split!r} part; it has: {', '.join(available) or 'none here'}")
        return data_folder() / name / f"{split}.jsonl.gz", name
    path = hub_file(name) if name.startswith(SCHEME) else Path(name_or_path).expanduser()
    if path.is_dir():
        files = [path / f"{split}{suffix}" for suffix in (".jsonl.gz", ".jsonl", ".json", ".json.gz")]
        found = next((file for file in files if file.is_file()), None)
        if found is None:
            raise ConfigError(f"{path} holds none of {', '.join(file.name for file in files)}")
        return found, path.name
    if not path.is_file():
        raise ConfigError(_unknown(name))
    return path, path.name.split(".")[0]


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name.casefold(), BUNDLED, n=1, cutoff=0.5)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return (
        f"there is no dataset or file {name!r}{hint}; bundled: {', '.join(BUNDLED)}; "
        f"or give the path of a file, or hf://datasets/OWNER/NAME/PATH: {FORMATS}"
    )


def _checked(path: Path, dataset: str, gold: bool) -> list[Example]:
    """Read every row of a file; all problems are gathered before one error is raised."""
    examples: list[Example] = []
    problems: list[str] = []
    places: dict[str, str] = {}
    for place, found in _parsed(path, dataset):
        if isinstance(found, str):
            problems.append(f"{place}: {found}")
            continue
        if gold and not found.answers:
            problems.append(f"{place}: no gold answer (question {found.question!r:.60})")
        twin = places.setdefault(found.id, place)
        if twin != place:
            problems.append(f"{place}: duplicate of {twin} (id {found.id!r})")
        examples.append(found)
    if problems:
        more = f"\n  … and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        listed = "\n  ".join(problems[:_SHOWN])
        raise ConfigError(f"{path}: {len(problems)} row(s) cannot be used; mend or remove them:\n  {listed}{more}")
    if not examples:
        raise ConfigError(f"{path} holds no questions; expected: {FORMATS}")
    return examples


def _parsed(path: Path, dataset: str) -> Iterator[tuple[str, Example | str]]:
    contents: dict[str, tuple[str, str]] = {}
    for place, row in read_rows(path):
        if isinstance(row, str):
            yield place, row
            continue
        try:
            example = Example(**fields_of(row), dataset=dataset)
        except ValueError as error:
            yield place, str(error)
            continue
        content = f"{example.question}\x00{example.answers}\x00{example.supporting}\x00{example.type}"
        twin, name = contents.setdefault(content, (place, example.id))
        if twin != place and example.origin not in _REPEATS:
            how = "" if name == example.id else " under another id"
            yield place, f"duplicate of {twin}{how} (question {example.question!r:.60})"
        else:
            yield place, example


def _key(seed: int, identifier: str) -> str:
    return hashlib.sha256(f"{seed}/{identifier}".encode()).hexdigest()
