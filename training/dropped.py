"""What a batch had to leave out: run ids by named reason, so that nothing disappears uncounted; and what to do then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from agents.errors import ConfigError
from graphs.trajectory import FAILED, Trajectory

_FAILED = "`jade show RUN --ledger …` says why they failed; mend that and run the same command again"
_PARITY = (
    "the model gives them other log-probabilities today: load the base and number format that recorded them (--model, "
    "--dtype), or raise --parity_mean and --parity_total where only the machine differs"
)
REMEDIES: Mapping[str, str] = {
    **dict.fromkeys(FAILED, _FAILED),
    "unmatched": "give the gold answers of these questions with --answers FILE",
    "other-text": "they were recorded under another base, tokenizer, prompt set or JADE version: load that one, or "
    "record them again under this one",
    "loo-alone": "estimator loo compares runs of one question, and these have one each: --estimator tree_gae, and "
    "another --output",
    "stale-versions": "each update makes recorded runs a version older: --max_versions says how old they may be, "
    "--max_drift how far from today's policy",
    "stale-drift": "today's policy is too far from the one that recorded them: --max_drift says how far it may be; or "
    "take smaller steps (--lr), or record again under the newest adapter",
    "newer-policy": "a later adapter than the one that learns recorded them: start from that one (--adapter, and "
    "another --output)",
    "unknown-policy": "the adapter that recorded them is not at hand: start from it (--adapter, and another --output)",
    "parity-mean": _PARITY,
    "parity-sum": _PARITY,
    "rolled-back": "alarms undid what was learned from them: smaller steps (--lr), or --on_alarm continue",
    "other-roles": "prompt or grammar of a role of your own changed between them: replay each ledger by itself",
}
"""Main reason why nothing is left of a batch → what to do."""


@dataclass(frozen=True)
class Dropped:
    """Runs left out of training, by reason. Reasons are short and stable: they become metric names."""

    runs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Reason → run ids in the order met."""

    @staticmethod
    def of(pairs: Iterable[tuple[str, str]]) -> Dropped:
        """Group (reason, run id) pairs by reason."""
        grouped: dict[str, list[str]] = {}
        for reason, run in pairs:
            grouped.setdefault(reason, []).append(run)
        return Dropped({reason: tuple(runs) for reason, runs in grouped.items()})

    @property
    def counts(self) -> dict[str, int]:
        """Return how many runs each reason cost."""
        return {reason: len(runs) for reason, runs in self.runs.items()}

    @property
    def total(self) -> int:
        """Return how many runs were left out for any reason."""
        return sum(self.counts.values())

    def __add__(self, other: Dropped) -> Dropped:
        sides = [*self.runs.items(), *other.runs.items()]
        return Dropped.of((reason, run) for reason, runs in sides for run in runs)


class NothingLeftError(ConfigError):
    """None of some recorded runs can be trained on; the message counts why and says what to do."""

    def __init__(self, counts: Mapping[str, int], ledger: str) -> None:
        """Say why.

        Args:
            counts: Reason → runs left out; together all of them.
            ledger: Where they are recorded.
        """
        self.counts = dict(counts)
        why = f": {counted(counts)}" if counts else ""
        super().__init__(
            f"none of {sum(counts.values())} recorded runs can be trained on{why} (ledger {ledger}). "
            f"Nothing was changed; {remedy(counts)}"
        )


def counted(counts: Mapping[str, int]) -> str:
    """Return counts by reason in words, such as "3 unmatched, 1 crashed"."""
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())


def remedy(counts: Mapping[str, int]) -> str:
    """Return what to do about the main one of some reasons."""
    main = max(counts, key=lambda reason: counts[reason], default="")
    return REMEDIES.get(main, "record with record='train' under the adapter that PPO starts from")


def in_company(runs: Sequence[Trajectory]) -> tuple[list[Trajectory], list[tuple[str, str]]]:
    """Keep runs whose question has at least two usable runs, as a leave-one-out baseline needs.

    Returns:
        The runs kept, and (reason, run id) of the others.
    """
    groups: dict[str, int] = {}
    for run in runs:
        if run.trainable:
            key = run.question_id or run.question
            groups[key] = groups.get(key, 0) + 1
    alone = [run for run in runs if run.trainable and groups[run.question_id or run.question] < 2]
    names = {run.run for run in alone}
    return [run for run in runs if run.run not in names], [("loo-alone", run.run) for run in alone]
