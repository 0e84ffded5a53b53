"""What `jade show RUN --credit` adds: the reward of a run, and V, G, A and f of each of its calls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from agents.errors import ConfigError
from cli.terminal import clean

if TYPE_CHECKING:
    from graphs.trajectory import Trajectory
    from training.recorded_credit import RecordedCredit
    from training.restored import Past

COLUMNS = {"V": "value", "G": "returns", "A = G − V": "advantage", "f": "format", "V^f": "format_value",
           "A + f − V^f": "total"}  # fmt: skip


def credit_of(
    run: Trajectory, feedback: float | None, answers: Path | None, critic: Path | None
) -> tuple[RecordedCredit, list[str]]:
    """Return what a run was worth, and remarks on where the numbers come from.

    Args:
        run: The run.
        feedback: Score given by `jade feedback`; it comes before gold answers.
        answers: File with gold answers.
        critic: Output folder of a PPO run, whose critic gives values and whose options give prices and answers.

    Raises:
        ConfigError: No score can be known, the run failed, or the critic does not fit it.
    """
    from training.recorded_credit import recorded_credit

    past = None
    if critic is not None:
        from training.restored import read_past

        past = read_past(critic)
    score = _score(run, feedback, answers, past)
    terms, remarks = _terms(past)
    found = recorded_credit(run, score, terms)  # refuses what has no credit before a model is loaded
    if past is None:
        return found, [*remarks, "values unknown, taken as 0; --critic RUN_FOLDER gives those of a PPO run's critic"]
    from training.restored import load_critic, values_of

    values = values_of(load_critic(past), run, past.config.token_budget)
    return recorded_credit(run, score, terms, values), [*remarks, f"values of the critic in {past.folder}"]


def _score(run: Trajectory, feedback: float | None, answers: Path | None, past: Past | None) -> float:
    """Return the score of a run: given by a person, else from gold answers.

    Raises:
        ConfigError: Neither is known.
    """
    from evaluation.dataset import load_examples
    from training.gold import Gold, load_score

    if feedback is not None:
        return feedback
    files: list[str | Path] = [] if answers is None else [answers]
    if past is not None and answers is None:
        config = past.config
        files = [given] if (given := config.answers or config.data) else list(config.datasets)
    examples = [example for file in files for example in load_examples(file, "train")]
    score = Gold(examples, load_score(None if past is None else past.config.score))(run)
    if score is None:
        where = f"none of {', '.join(map(str, files))} has it" if files else "no answers are given"
        raise ConfigError(
            f"no gold answer for run {run.run} ({run.question!r:.200}): {where}. Give --answers FILE, joined by "
            f"question id or question, or score it: jade feedback {run.run} --score 1"
        )
    return score


def _terms(past: Past | None) -> tuple[Any, list[str]]:
    """Return prices and discounts: those of a PPO run, else the defaults."""
    from training.recorded_credit import ESTIMATORS, Terms

    if past is None:
        return Terms(), []
    from training.duals import in_force  # with the checkpoint, hence torch, which is loaded by now

    config, remarks = past.config, []
    estimator = config.estimator
    if estimator not in ESTIMATORS:
        remarks = [f"the run was trained with {estimator}, which needs a whole batch; shown is tree_gae"]
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
    how = f"α {terms.alpha:g} · β {terms.beta:g} · p {terms.penalty:g} · γ {terms.gamma:g} · λ {terms.lam:g}"
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
