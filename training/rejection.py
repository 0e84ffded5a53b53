"""Rejection sampling: the best of the recorded executions of each question, as supervised rows of every role.

The second source of the warm start. A question's runs compete by reward R (DESIGN §5) among those in which every
response was valid; the winner's calls are learned from exactly as they were recorded, token by token, so the ledger
must be of the same `text` hash. What a constraint had forced is learned too: the trained model decodes freely.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agents.call import Call
from agents.errors import ConfigError
from agents.roster import ROLES
from evaluation.dataset import load_examples
from evaluation.metrics import normalize_squad
from graphs.feedback import read_feedback
from graphs.ledger import read_ledger
from graphs.trajectory import FAILED, Trajectory
from training.dropped import Dropped
from training.gold import Gold, load_score
from training.reward import rewards
from training.rows import letters

REMEDIES = {
    "other-text": "it was recorded under another base, tokenizer or prompt set: record one with "
    "`python -m training.collect --adapter …` under the adapter that is to be improved",
    "unmatched": "give the gold answers of its questions with --answers FILE",
    "low-score": "record more runs a question, or lower min_score",
    "dev-question": "record train questions: dev questions measure, they do not teach",
    "damaged": "record it again: calls without tokens cannot be learned from",
    "invalid": "record runs in which every response is valid, such as with --decoding constrained",
}
"""Reason why nothing is left → what to do; for all others the runs themselves failed."""


@dataclass(frozen=True)
class Rule:
    """Which run of a question is learned from."""

    best_of: int | None = None
    """Runs of a question that compete, the first ones in the ledger; None = all."""
    min_score: float = 0.5
    """Least score of the winner."""
    alpha: float = 0.0
    """Price α of three or more extra turns."""
    beta: float = 0.0
    """Price β of three or more retrievals."""


@dataclass(frozen=True)
class Best:
    """The winners, and what was left out."""

    runs: tuple[Trajectory, ...]
    """One a question, in the order in which the questions were first met."""
    scores: tuple[float, ...]
    """Their scores."""
    questions: int
    """Questions in the ledger."""
    dropped: Dropped

    def summary(self) -> str:
        """Return two lines of text: what was chosen, and what was left out for which reason."""
        mean = sum(self.scores) / len(self.scores) if self.scores else 0.0
        out = ", ".join(f"{count} {reason}" for reason, count in self.dropped.counts.items()) or "nothing"
        calls = Counter(call.role for run in self.runs for call in run.calls)
        roles = ", ".join(f"{role} {count}" for role, count in sorted(calls.items()))
        return (
            f"rejection sampling: {len(self.runs)} of {self.questions} questions, mean score {mean:.3f}; "
            f"calls: {roles}\nleft out: {out}"
        )


def ledger_gold(ledger: Path, answers: str | None, datasets: Sequence[str], score: str | None) -> Gold:
    """Return the scores of a ledger's runs: people's feedback, else a score function on gold answers.

    Args:
        ledger: A ledger file or folder.
        answers: File with gold answers; None = the train files of `datasets`.
        datasets: Bundled sets.
        score: The score function as module:function; None = token F1, exact match for yes/no golds.

    Raises:
        ConfigError: Answers or score cannot be used.
        LedgerError: No ledger at the path.
    """
    sources = [answers] if answers is not None else datasets
    examples = [example for source in sources for example in load_examples(source, "train")]
    feedback = read_feedback(ledger.parent if ledger.is_file() else ledger)
    return Gold(examples, load_score(score), feedback)


def best_runs(ledger: Path, gold: Gold, rule: Rule, *, text: str, dev: Collection[str] = ()) -> Best:
    """Choose the best recorded run of each question; the ledger is streamed, only winners are kept.

    Ties go to fewer turns, then fewer retrievals, then fewer response tokens, then to the run that came first.

    Args:
        ledger: A ledger file or folder.
        gold: Scores of runs.
        rule: How to choose.
        text: The `text` hash under which the rows will be learned.
        dev: `letters` of questions that must not be learned from.

    Raises:
        ConfigError: No run can be learned from; the message counts why and says what to do.
        LedgerError: No ledger at the path.
    """
    winners: dict[str, tuple[tuple[float, ...], Trajectory, float]] = {}
    met: Counter[str] = Counter()
    out: list[tuple[str, str]] = []
    for run in read_ledger(ledger):
        question = run.question_id or normalize_squad(run.question)
        met[question] += 1
        score = _judge(run, met[question], gold, rule, text, dev)
        if isinstance(score, str):
            out.append((score, run.run))
            continue
        rank = _rank(run, score, rule)
        before = winners.get(question)
        if before is not None:
            out.append(("beaten", before[1].run if rank > before[0] else run.run))
        if before is None or rank > before[0]:
            winners[question] = (rank, run, score)
    runs, scores = [run for _, run, _ in winners.values()], [score for _, _, score in winners.values()]
    dropped = Dropped.of(out)
    if not runs:
        raise ConfigError(_nothing(ledger, dropped))
    return Best(tuple(runs), tuple(scores), len(met), dropped)


def _judge(run: Trajectory, place: int, gold: Gold, rule: Rule, text: str, dev: Collection[str]) -> float | str:
    """Return the score of the `place`-th run of a question, or why it may not win."""
    problem = _problem(run, text, dev)
    if problem is not None:
        return problem
    if rule.best_of is not None and place > rule.best_of:
        return "beyond-best-of"
    score = gold(run)
    if score is None:
        return "unmatched"
    return score if score >= rule.min_score else "low-score"


def _rank(run: Trajectory, score: float, rule: Rule) -> tuple[float, ...]:
    """Return what the runs of a question are compared by, the better the greater."""
    reward = rewards(run, score, alpha=rule.alpha, beta=rule.beta).total
    tokens = sum(len(call.response_ids) for call in run.calls)
    return reward, -run.turns, -len(run.retrievals), -tokens


def _problem(run: Trajectory, text: str, dev: Collection[str]) -> str | None:
    """Return why a run may not be learned from, whatever its score; None = it may."""
    if run.outcome in FAILED:
        return run.outcome
    if not run.calls:
        return "no-calls"
    if run.hashes.get("text") != text:
        return "other-text"
    if any(call.format_error is not None for call in run.calls):
        return "invalid"
    if not all(call.prompt_ids and call.response_ids for call in run.calls):
        return "damaged"
    return "dev-question" if letters(run.question) in dev else None


def _nothing(ledger: Path, dropped: Dropped) -> str:
    """Return the message for a ledger of which nothing is left."""
    if not dropped.total:
        return f"ledger {ledger} holds no finished run; record some with `python -m training.collect`"
    counts = ", ".join(f"{count} {reason}" for reason, count in dropped.counts.items())
    main = max(dropped.counts, key=lambda reason: dropped.counts[reason])
    remedy = REMEDIES.get(main, "`jade show RUN --ledger …` says why they failed; mend that and record again")
    return f"none of the {dropped.total} runs in ledger {ledger} can be learned from: {counts}; {remedy}"


def supervised(runs: Iterable[Trajectory], end_token: int) -> Iterator[Call]:
    """Yield the calls of runs as supervised ones: recorded prompts and responses, free decoding, every token counts.

    A constrained response of a role that has no stop tag may lack the end token, since nothing else could follow;
    decoding freely it must be said, so it is added.

    Args:
        runs: As `best_runs` chose them.
        end_token: What ends a response where no tag does.
    """
    for run in runs:
        for call in run.calls:
            ids, role = call.response_ids, ROLES.get(call.role)
            if role is not None and role.stop is None and call.constraint is not None and ids[-1] != end_token:
                ids = (*ids, end_token)
            yield replace(
                call,
                id=f"{run.run}/{call.id}",
                parents=(),
                response_ids=ids,
                logprobs=(0.0,) * len(ids),
                mask=(1,) * len(ids),
                temperature=1.0,
                greedy=False,
                constraint=None,
            )
