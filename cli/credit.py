"""What `jade show RUN --credit` adds: the reward of a run, and V, G, A and f of each of its calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from agents.errors import ConfigError
from cli.terminal import clean

if TYPE_CHECKING:
    from graphs.trajectory import Trajectory
    from training.gold import Gold
    from training.recorded_credit import RecordedCredit, Terms
    from training.restored import Past

COLUMNS = {"V": "value", "G": "returns", "A = G − V": "advantage", "f": "format", "V^f": "format_value",
           "A + f − V^f": "total"}  # fmt: skip


def credit_of(
    run: Trajectory, ledger: Path, feedback: Mapping[str, float], answers: Path | None, critic: Path | None
) -> tuple[RecordedCredit, list[str]]:
    """Return what a run was worth, and remarks on where the numbers come from.

    Args:
        run: The run.
        ledger: Ledger file or folder that holds it.
        feedback: Run id → score given by `jade feedback`; it comes before gold answers.
        answers: File with gold answers.
        critic: Output folder of a PPO run, whose options give prices and answers, and whose critic gives values; where
            it was trained with loo, the question's other runs do.

    Raises:
        ConfigError: No score can be known, the run failed, or the critic does not fit it.
    """
    from training.recorded_credit import recorded_credit

    past = None
    if critic is not None:
        from training.restored import read_past

        past = read_past(critic)
    gold, files = _gold(run, feedback, answers, past)
    score = _score(run, gold, files)
    terms, remarks = _terms(past)
    found = recorded_credit(run, score, terms)  # refuses what has no credit before a model is loaded
    if past is None:
        hint = "--critic RUN_FOLDER gives those of a PPO run (with loo, the question's other runs)"
        return found, [*remarks, f"values unknown, taken as 0; {hint}"]
    if terms.estimator == "loo":
        values, remark = _baseline(run, score, ledger, gold, terms)
        return recorded_credit(run, score, terms, values), [*remarks, remark]
    from training.restored import load_critic, values_of

    values = values_of(load_critic(past), run, past.config.token_budget)
    return recorded_credit(run, score, terms, values), [*remarks, f"values of the critic in {past.folder}"]


def _gold(
    run: Trajectory, feedback: Mapping[str, float], answers: Path | None, past: Past | None
) -> tuple[Gold, Sequence[str | Path]]:
    """Return the scores of a run and, where they are needed, of others; and the files that gold answers are from."""
    from evaluation.dataset import load_examples
    from training.gold import Gold, load_score

    if run.run in feedback and (past is None or past.config.estimator != "loo"):
        return Gold([], feedback=feedback), []
    files: list[str | Path] = [] if answers is None else [answers]
    if past is not None and answers is None:
        config = past.config
        files = [given] if (given := config.answers or config.data) else list(config.datasets)
    examples = [example for file in files for example in load_examples(file, "train")]
    return Gold(examples, load_score(None if past is None else past.config.score), feedback), files


def _score(run: Trajectory, gold: Gold, files: Sequence[str | Path]) -> float:
    """Return the score of a run: given by a person, else from gold answers.

    Raises:
        ConfigError: Neither is known.
    """
    score = gold(run)
    if score is None:
        where = f"none of {', '.join(map(str, files))} has it" if files else "no answers are given"
        raise ConfigError(
            f"no gold answer for run {run.run} ({run.question!r:.200}): {where}. Give --answers FILE, joined by "
            f"question id or question, or score it: jade feedback {run.run} --score 1"
        )
    return score


def _baseline(
    run: Trajectory, score: float, ledger: Path, gold: Gold, terms: Terms
) -> tuple[Mapping[str, tuple[float, float]] | None, str]:
    """Return the run's leave-one-out baseline as the value of each call, and a remark on where it comes from."""
    from graphs.ledger import read_ledger
    from graphs.ledger_lines import latest_line
    from training.recorded_credit import baseline_of

    line = latest_line(ledger, lambda line: line.run == run.run and line.event == "close", quiet=True)
    segment = ledger if line is None else line.file
    found = baseline_of(run, score, read_ledger(segment, on_problem=lambda problem: None), gold, terms)
    if found is None:
        return None, f"V taken as 0: {segment} has no other scored run of the question, and loo leaves such a run out"
    baseline, others = found
    told = f"V is the mean R of the question's other {others} runs in {segment}" if others > 1 else (
        f"V is the R of the question's other run in {segment}"
    )  # fmt: skip
    return {call.id: (baseline, 0.0) for call in run.calls}, f"{told}: loo has no critic"


def _terms(past: Past | None) -> tuple[Terms, list[str]]:
    """Return prices and discounts: those of a PPO run, else the defaults."""
    from training.recorded_credit import ESTIMATORS, Terms

    if past is None:
        return Terms(), []
    from training.duals import in_force  # with the checkpoint, hence torch, which is loaded by now

    config, remarks = past.config, []
    estimator = config.estimator
    if estimator not in ESTIMATORS:
        remarks = [f"the run was trained with {estimator}, which has a value for each token; shown is tree_gae"]
        estimator = "tree_gae"
    prices = in_force(config, past.state)
    terms = Terms(prices.alpha, prices.beta, config.format_penalty, config.gamma, config.lam, estimator)
    return terms, remarks


def credit_view(found: RecordedCredit, remarks: list[str]) -> Group:
    """Return the reward and a table of calls for the terminal."""
    reward, terms = found.reward, found.terms
    head = Text(f"reward R {reward.total:+.3f}", style="bold")
    head.append(
        f" = score {reward.score:.3f} − turns {reward.turn_cost:.3f} − retrievals {reward.retrieval_cost:.3f}",
        style="default",
    )
    how = f"α {terms.alpha:g} · β {terms.beta:g} · p {terms.penalty:g}"
    how += "" if terms.estimator == "loo" else f" · γ {terms.gamma:g} · λ {terms.lam:g}"
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("call", "role"):
        table.add_column(name, overflow="fold")
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for call, item in found.calls.items():
        numbers = (f"{getattr(item, attribute):+.3f}" for attribute in COLUMNS.values())
        table.add_row(*(Text(clean(cell)) for cell in (call, item.role, *numbers)))
    notes = [Text(clean(line), style="dim") for line in (f"{terms.estimator} · {how}", *remarks)]
    return Group(Text(""), head, *notes, table)
