"""Gold answers of recorded runs: given, from a file, or from the bundled sets, by question id and else by question.

A ledger holds no gold answer, and may hold runs of several sets. The bundled files are read one after the other, the
one named like the run's collection first, until one has the question.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from evaluation.dataset import DATASETS, Example, load_examples, splits_of
from evaluation.metrics import normalize_squad, read_golds
from graphs.trajectory import Trajectory

_SETS = (*DATASETS, "squad")
_SPLITS = ("dev", "train")


class Golds:
    """Looks gold answers up; what was read is kept."""

    def __init__(self, given: Sequence[str] = (), file: str | Path | None = None) -> None:
        """Take what the user gives; without either, the bundled sets are searched.

        Args:
            given: Gold answers, any of which counts, for every run that is asked about.
            file: A data file, or the name of a bundled set.

        Raises:
            ConfigError: Blank answers, or a file that cannot be used.
        """
        self._given = read_golds(given) if given else ()
        self._file = None if file is None else _Answers(load_examples(file, "dev"))
        self._bundled: dict[tuple[str, str], _Answers] = {}

    def of(self, run: Trajectory) -> tuple[str, ...]:
        """Return the gold answers of a run's question; empty where none is known.

        Raises:
            SetupError: The bundled data is missing.
        """
        if self._given:
            return self._given
        if self._file is not None:
            return self._file.of(run)
        found = (answers.of(run) for answers in self._read(_collection(run)))
        return next((golds for golds in found if golds), ())

    def _read(self, first: str) -> Iterator[_Answers]:
        """Yield the bundled sets, those of the set named `first` before all others."""
        for name in sorted(_SETS, key=lambda name: name != first):
            for split in _SPLITS:
                if split in splits_of(name):
                    if (name, split) not in self._bundled:
                        self._bundled[name, split] = _Answers(load_examples(name, split))
                    yield self._bundled[name, split]


class _Answers:
    """Gold answers of some examples by id and by question."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._by_id = {example.id: example.answers for example in examples}
        self._by_question: dict[str, tuple[str, ...]] = {}
        for example in examples:
            self._by_question.setdefault(normalize_squad(example.question), example.answers)

    def of(self, run: Trajectory) -> tuple[str, ...]:
        return self._by_id.get(run.question_id or "") or self._by_question.get(normalize_squad(run.question), ())


def _collection(run: Trajectory) -> str:
    retriever = run.identity.get("retriever")
    return str(retriever.get("collection", "")) if isinstance(retriever, dict) else ""
