"""A hostile question and an innocent one in the same batch of the same model, over the same index and ledger.

The innocent one must get what it gets alone: the same tokens, the same passages, the same record. Batches of other
shapes round differently, so that log-probabilities may differ by rounding there; asked alone again afterwards, they
may not differ at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.embedder import HashEmbedder
from agents.errors import ConfigError
from agents.index import build_index
from agents.model import SharedModel
from agents.passage import Passage
from agents.retriever import ChromaRetriever, open_retriever
from benchmarks.injection.cases import Case
from graphs import collect
from graphs.jade import build_jade
from graphs.ledger import LedgerWriter, read_ledger
from graphs.question import read_question
from graphs.recorded import RecordedGraph, trainable
from graphs.trajectory import Trajectory
from tests.scripted import PASSAGES, ListRetriever
from tests.toy_model import toy_model

INNOCENT = "In which town of the Archbishop was Mozart born?"
FALLBACK = "What does the hostile document say?"
"""Asked in place of a question that is refused; the hostile text then comes by its document alone."""
_ROUNDING = 1e-4
_TIMES = ("seconds", "started", "batch")


@dataclass
class Shelf:
    """A keyword retriever with one more passage for some queries."""

    hostile: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    """Query → (id, title, text) of what stands first for it."""

    @property
    def identity(self) -> Mapping[str, str]:
        """Return one name for all its states: they stand for one index with all cases in it."""
        return {"environment": "shelf", "collection": "shelf"}

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Return what a keyword search finds, behind the hostile passage where a query has one."""
        found = ListRetriever(PASSAGES).search(queries, k)
        return [self._with(query, passages)[:k] for query, passages in zip(queries, found, strict=True)]

    def _with(self, query: str, passages: list[Passage]) -> list[Passage]:
        if query not in self.hostile:
            return passages
        name, title, text = self.hostile[query]
        return [{"id": name, "title": title, "text": text, "score": 9.0}, *passages]


@dataclass
class Guest:
    """What came of one case in a batch with the innocent question."""

    run: Trajectory
    refused: str
    """Why the text itself could not be asked; "" = it was."""
    faults: list[str]
    """What is wrong with the batch."""


@dataclass
class House:
    """One graph for all: toy model, retriever, ledger; and what the innocent question gets when it is alone."""

    folder: Path
    model: SharedModel = field(default_factory=toy_model)
    shelf: Shelf = field(default_factory=Shelf)

    def __post_init__(self) -> None:
        """Ask the innocent question alone, and a harmless one beside it so that all heads are there."""
        graph = build_jade(self.shelf, max_depth=0, top_k=2)
        recorded = trainable(
            graph, policy=self.model, retriever=self.shelf, ledger=LedgerWriter(self.folder / "ledger")
        )
        self.graph: RecordedGraph = recorded
        self.alone = self._collect([INNOCENT])[0]
        self._collect([INNOCENT, FALLBACK])
        self.heads = self._heads()
        self.lines = len(self._lines())

    def batch(self, cases: Sequence[Case]) -> list[Guest]:
        """Ask the innocent question and the hostile ones at once."""
        asked = [_asked(case) for case in cases]
        self.shelf.hostile = {
            question: (f"hostile-{case.id}", case.text, case.text)
            for case, (question, _) in zip(cases, asked, strict=True)
        }
        innocent, *others = self._collect([INNOCENT, *(question for question, _ in asked)])
        faults = [*self._changes(innocent, _ROUNDING), *self._ledger_faults(innocent, *others)]
        if self._heads() != self.heads:
            faults.append("the prefix cache holds other heads")
        return [Guest(run, refused, faults) for run, (_, refused) in zip(others, asked, strict=True)]

    def again(self) -> list[str]:
        """Ask the innocent question alone once more; return what differs."""
        return self._changes(self._collect([INNOCENT])[0], 0.0)

    def _collect(self, questions: Sequence[str]) -> list[Trajectory]:
        return collect(self.graph, questions, workflow="R,AG", max_new_tokens=6, temperature=1.0, decoding="free")

    def _changes(self, now: Trajectory, rounding: float) -> list[str]:
        """Return in which fields of its record the innocent run differs from when it was alone."""
        before, after = _essence(self.alone), _essence(now)
        scores = zip(before.pop("logprobs"), after.pop("logprobs"), strict=False)
        faults = [f"the innocent run's {key} changed" for key in before if before[key] != after[key]]
        if any(abs(left - right) > rounding for left, right in scores):
            faults.append("the innocent run's log-probabilities changed")
        return faults

    def _heads(self) -> set[Any]:
        return set(self.model._layout.prefix._kept)

    def _lines(self) -> list[str]:
        files = sorted((self.folder / "ledger").glob("*.jsonl"))
        return [line for file in files for line in file.read_text("utf-8").splitlines()]

    def _ledger_faults(self, *runs: Trajectory) -> list[str]:
        """Return what is wrong with the lines that a pair added: an open and a close line for each run."""
        new, self.lines = self._lines()[self.lines :], len(self._lines())
        try:
            heads = sorted((row["event"], row["run"]) for row in map(json.loads, new))
        except (ValueError, KeyError, TypeError) as error:
            return [f"a ledger line is torn: {error}"]
        wanted = sorted((event, run.run) for event in ("open", "close") for run in runs)
        return [] if heads == wanted else [f"the ledger got {len(new)} lines instead of {len(wanted)}"]

    def unread(self) -> list[str]:
        """Return what is wrong with the ledger as a whole: every open and close line must be read back as a run."""
        runs, lines = len(list(read_ledger(self.folder / "ledger"))), len(self._lines())
        return [] if 2 * runs == lines else [f"{lines} ledger lines hold {runs} runs"]


def _asked(case: Case) -> tuple[str, str]:
    """Return the question that brings a case in, and why its text cannot be the question; "" = it is."""
    try:
        return read_question(case.text, "question", needed=True)[1], ""
    except ConfigError as error:
        return f"{FALLBACK} ({case.id})", str(error)


def _essence(run: Trajectory) -> dict[str, Any]:
    """Return a record without times and places in batches; log-probabilities apart."""
    data = {key: value for key, value in run.to_json().items() if key not in _TIMES}
    calls = data.pop("calls")
    data["logprobs"] = [score for call in calls for score in call["logprobs"]]
    data["calls"] = [{k: v for k, v in call.items() if k not in (*_TIMES, "logprobs")} for call in calls]
    data["retrievals"] = [{k: v for k, v in item.items() if k not in _TIMES} for item in data["retrievals"]]
    return data


def store_faults(cases: Sequence[Case], folder: Path) -> list[tuple[str, str]]:
    """Index all texts in one Chroma collection and search it for each of them beside the innocent question.

    Returns:
        (case id or "", what is wrong with the innocent one's results).
    """
    rows = [{"id": case.id, "title": _text(case)[:200], "text": _text(case)} for case in cases]
    source = folder / "hostile.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows if row["text"].strip()), "utf-8")
    (folder / "good").mkdir()
    for name, _, text in PASSAGES:
        (folder / "good" / f"{name}.txt").write_text(text, "utf-8")
    place = folder / "index"
    for item in (folder / "good", source):
        build_index(item, collection="both", embedder=HashEmbedder(), folder=place)
    retriever = open_retriever("both", mode="hybrid", embedder=HashEmbedder(), folder=place)
    alone = retriever.search([INNOCENT], 3)
    faults = [
        (case.id, "the innocent search found something else")
        for case in cases
        if _found_beside(retriever, _text(case)) != alone[0]
    ]
    fresh = open_retriever("both", mode="hybrid", embedder=HashEmbedder(), folder=place)
    if fresh.search([INNOCENT], 3) != alone or fresh.identity != retriever.identity:
        faults.append(("", "the query cache differs from a fresh search"))
    return faults


def _found_beside(retriever: ChromaRetriever, query: str) -> list[Passage]:
    """Return what the innocent question finds in one search with a hostile query; a blank one is refused."""
    try:
        return retriever.search([query, INNOCENT], 3)[1]
    except ConfigError:
        return retriever.search([INNOCENT], 3)[0]


def _text(case: Case) -> str:
    """Return the text as a store can hold it, not longer than a table's row may be."""
    return case.text[:1900].encode("utf-8", "replace").decode()
