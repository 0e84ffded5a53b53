"""What a recorded answer is worth: gold answers joined to runs, and the score in force.

A run's score is, first that applies: one appended by `jade feedback`, or the score function on the gold answers found
by question id, else by the normalised question. Runs without either are counted as unmatched, never scored 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from agents.errors import ConfigError
from agents.named import load_object
from evaluation.dataset import Example
from evaluation.metrics import answer_score, normalize_squad, token_f1
from graphs.trajectory import Trajectory

Score = Callable[[str, tuple[str, ...]], float]
"""(answer, gold answers) → correctness, usually in [0, 1]."""


class Gold:
    """Scores of recorded runs."""

    def __init__(
        self, examples: Iterable[Example], score: Score = answer_score, feedback: Mapping[str, float] | None = None
    ) -> None:
        """Index gold answers by id and by question.

        Args:
            examples: Questions with gold answers.
            score: Correctness of an answer.
            feedback: Run id → score given by a person.
        """
        self.score = score
        self._feedback = dict(feedback or {})
        self._by_id: dict[str, tuple[str, ...]] = {}
        self._by_question: dict[str, tuple[str, ...]] = {}
        for example in examples:
            self._by_id[example.id] = example.answers
            self._by_question.setdefault(normalize_squad(example.question), example.answers)

    def golds(self, run: Trajectory) -> tuple[str, ...] | None:
        """Return the gold answers of a run's question; None when none are known."""
        return self._by_id.get(run.question_id or "") or self._by_question.get(normalize_squad(run.question))

    def f1(self, run: Trajectory) -> float | None:
        """Return the token F1 of a run's answer, whatever the score in force; None when no gold answer is known."""
        golds = self.golds(run)
        return None if golds is None else token_f1(run.answer, golds)

    def __call__(self, run: Trajectory) -> float | None:
        """Return the score of a run; None when no gold answer is known.

        Raises:
            ConfigError: The score function gave no finite number.
        """
        if run.run in self._feedback:
            return self._feedback[run.run]
        golds = self.golds(run)
        if golds is None:
            return None
        value = float(self.score(run.answer, golds))
        if not math.isfinite(value):
            raise ConfigError(f"the score function gave {value} for run {run.run}; it must give a finite number")
        return value


def load_score(spec: str | None) -> Score:
    """Return the score function that an option names; none = token F1, exact match for yes/no golds.

    Raises:
        ConfigError: It cannot be imported or called.
    """
    if spec is None:
        return answer_score
    found = load_object(spec, "score")
    if not callable(found):
        raise ConfigError(f"score={spec!r} is {type(found).__name__}; name a function (answer, gold answers) → number")
    score: Score = found
    return score
