"""The yes/no questions of StrategyQA among the bundled decompositions, as files that any command takes.

A question file in the plain form {id, question, answers, supporting}, and a table of facts to index.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from agents.corpora import data_folder
from agents.documents import content_digest, text_digest
from agents.errors import ConfigError, RetrieverError, SetupError
from evaluation.formats import read_rows
from evaluation.metrics import normalize_squad

SOURCE = "strategyqa"
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """Questions to train on, held-out ones, and the facts that answer both."""

    train: Sequence[Row]
    held_out: Sequence[Row]
    facts: Sequence[Mapping[str, str]]
    """Passages {id, title, text}."""

    @cached_property
    def collection(self) -> str:
        """Return the name of the facts' index: that of their content, so that equal facts are indexed once."""
        return f"{SOURCE}-facts-{self.content[:8]}"

    @cached_property
    def content(self) -> str:
        """Return the digest that a collection of these facts has."""
        return content_digest((fact["id"], text_digest(fact["title"], fact["text"])) for fact in self.facts)

    @cached_property
    def golds(self) -> list[str]:
        """Return "yes" or "no" for each held-out question."""
        return [_gold(row) for row in self.held_out]

    @cached_property
    def majority(self) -> str:
        """Return the commoner gold of the held-out questions: no constant answer does better on them."""
        return "yes" if 2 * self.golds.count("yes") > len(self.golds) else "no"

    @property
    def majority_share(self) -> float:
        """Return on what share of the held-out questions that answer is right: at least a half."""
        return self.golds.count(self.majority) / len(self.golds)

    def train_file(self, folder: str) -> Path:
        """Return where the train questions are."""
        return Path(folder) / f"{SOURCE}-train.jsonl"

    def held_out_file(self, folder: str) -> Path:
        """Return where the held-out questions are."""
        return Path(folder) / f"{SOURCE}-held-out.jsonl"

    def facts_file(self, folder: str) -> Path:
        """Return where the facts are."""
        return Path(folder) / "facts.jsonl"

    def write(self, folder: str) -> None:
        """Write the three files.

        Raises:
            ConfigError: The folder cannot be written.
        """
        files = {self.train_file(folder): self.train, self.held_out_file(folder): self.held_out}
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            for file, rows in {**files, self.facts_file(folder): self.facts}.items():
                lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
                file.write_text("".join(lines), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{folder} cannot be written to ({error}); give another output folder") from None


def read_task(sample: int | None = None, held_out: int = 200) -> Task:
    """Return the task; a smaller sample is part of every larger one, and the held-out questions stay the same.

    Args:
        sample: Questions taken, held-out ones included, drawn by a hash of their ids; None = all.
        held_out: Questions of these that are held out.

    Raises:
        ConfigError: There are too few questions, or the file cannot be read.
        SetupError: The data folder or the file is missing.
    """
    rows = sorted(_rows(), key=lambda row: hashlib.sha256(str(row["id"]).encode()).hexdigest())[:sample]
    if len(rows) <= held_out:
        raise ConfigError(f"{len(rows)} questions leave none to train on beside {held_out} held-out ones; give fewer")
    told = [_told(row) for row in rows]
    facts = [
        {"id": name, "title": "", "text": text}
        for row, question in zip(rows, told, strict=True)
        for name, text in zip(question["supporting"], row["facts"], strict=True)
    ]
    return Task(told[held_out:], told[:held_out], facts)


def _rows() -> list[Row]:
    file = data_folder() / "decompositions" / "train.jsonl.gz"
    if not file.is_file():
        raise SetupError(f"{file} is missing; restore it from the repository (git checkout -- data)")
    return [row for _, row in read_rows(file) if isinstance(row, Mapping) and row.get("source") == SOURCE]


def _told(row: Row) -> dict[str, Any]:
    """Return a question in the plain form; its facts are named, so that recall can be measured."""
    names = [f"{row['id']}-{number}" for number in range(len(row["facts"]))]
    return {"id": row["id"], "question": row["question"], "answers": list(row["answers"]), "supporting": names}


def _gold(row: Row) -> str:
    return normalize_squad(row["answers"][0])


def index_facts(task: Task, folder: str) -> None:
    """Index the facts, unless their collection holds exactly them already; an unfinished one is begun anew.

    Args:
        task: Whose facts.
        folder: Where its files were written.

    Raises:
        RetrieverError: The store cannot be used.
    """
    from agents.holdings import holdings
    from agents.index import build_index

    try:
        if holdings(task.collection).content == task.content:
            return
    except RetrieverError:  # missing or unfinished
        pass
    build_index(task.facts_file(folder), collection=task.collection, rebuild=True)
