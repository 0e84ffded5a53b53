"""Records joined with gold answers: the scores of every system on every set, with full denominators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from evaluation.dataset import Example
from evaluation.records import METRICS, Record, scores_of

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Block:
    """One system on one set: a record for every question and seed."""

    system: str
    set: str
    examples: Sequence[Example]
    records: Sequence[Sequence[Record]]
    """For each question its runs, seed by seed."""
    top_k: int = 5
    """The k of recall@k: passages a search."""

    @cached_property
    def _scores(self) -> list[list[dict[str, float | None]]]:
        pairs = zip(self.records, self.examples, strict=True)
        return [[scores_of(record, example, self.top_k) for record in runs] for runs, example in pairs]

    @cached_property
    def _values(self) -> dict[str, Floats]:
        """Return metric → one number a question."""
        return {metric: self._average(metric) for metric in METRICS}

    def _average(self, metric: str) -> Floats:
        found = []
        for runs in self._scores:
            known = [value for scores in runs if (value := scores[metric]) is not None]
            found.append(sum(known) / len(known) if known else float("nan"))
        return np.array(found, dtype=np.float64)

    def values(self, metric: str) -> Floats:
        """Return one number a question, its runs averaged: (questions,); NaN where it cannot be known."""
        return self._values[metric]

    def run_values(self, metric: str) -> list[float]:
        """Return one number a run, in the order of `runs`; NaN where it cannot be known."""
        found = [scores[metric] for runs in self._scores for scores in runs]
        return [float("nan") if value is None else value for value in found]

    @cached_property
    def runs(self) -> list[tuple[Record, Example]]:
        """Return every run with its question."""
        return [(record, example) for runs, example in zip(self.records, self.examples, strict=True) for record in runs]

    @property
    def failed(self) -> list[Record]:
        """Return the runs without an answer."""
        return [record for record, _ in self.runs if record.failed]
