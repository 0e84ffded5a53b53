"""Another task without new code: yes/no questions (StrategyQA), trained on and scored through `--data` and `--score`.

    python -m experiments yesno --adapter adapters/warm --iterations 20

It writes the yes/no rows of the bundled decompositions as question files, indexes their facts, trains by
`training.ppo` (whose options it takes), and asks the held-out questions before and after. Accuracy stands beside the
share of the commoner answer, which a model that always says the same would reach.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agents.errors import ConfigError
from evaluation.config import read_config, run_command
from evaluation.evaluate import check
from evaluation.evaluate import log_as as log_asking
from evaluation.evaluate_config import EvalConfig
from evaluation.figures import whiskers
from evaluation.macro import macro_interval
from evaluation.metrics import normalize_squad
from evaluation.ranks import ALONE
from evaluation.report_markdown import table
from experiments.arms import Arm, Job, Row
from experiments.conduct import TRACKED, Experiment, conduct, parent_of
from experiments.trained import (
    COMPARISON,
    Sets,
    asked,
    comparison_arm,
    difference_table,
    sets_of,
    setting_of,
    shown_interval,
    split_rows,
    taught,
)
from experiments.yesno_task import Task, index_facts, read_task
from training.lead import log_as
from training.ppo_config import PPOConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROGRAM = "python -m experiments yesno"
BEFORE, AFTER = "before", "after"
_log = logging.getLogger("jade.experiments")


@dataclass
class YesNoConfig(PPOConfig):
    """Train on yes/no questions with the options of `python -m training.ppo` below; ask held-out ones around it."""

    output: str = "runs/yesno"
    """Folder of the question and fact files, a training run for each seed, eval/, results.jsonl, table.md, figure."""
    max_depth: int | None = 1
    """Deepest decomposition."""
    experiment: str = TRACKED
    """MLflow experiment; one run, with the training runs and the comparison as its children."""
    score: str | None = "evaluation.metrics:exact_match"
    """What a trained answer is worth, as module:function (answer, golds) → number."""
    sample: int | None = None
    """Questions that are taken, held-out ones included, drawn by a hash of their ids; none = all 2,045."""
    held_out: int = 200
    """Questions of these that are never trained on, and asked before and after."""
    seeds: int = 1
    """Training runs, with seeds from `seed` on."""

    def __post_init__(self) -> None:
        """Refuse impossible values by name."""
        super().__post_init__()
        for name in ("held_out", "seeds"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}; must be at least 1")
        if self.sample is not None and self.sample <= self.held_out:
            raise ConfigError(f"sample={self.sample} leaves none to train on beside held_out={self.held_out}")
        for name in ("graph", "data", "eval_data", "ledger", "answers", "parent"):
            if getattr(self, name) is not None:
                raise ConfigError(f"{name} follows from the task here; leave it out")
        if self.datasets != PPOConfig().datasets:
            raise ConfigError("datasets follows from the task here: the index of its facts; leave it out")

    def setting(self) -> dict[str, Any]:
        """Return what all arms share.

        Raises:
            ConfigError: There is no such start adapter.
        """
        return {**setting_of(replace(self, seed=0)), "sample": self.sample, "held_out": self.held_out}

    def training(self, task: Task, seed: int) -> PPOConfig:
        """Return the options of one training run: the task is data, an index and a score."""
        shared = {item.name: getattr(self, item.name) for item in fields(PPOConfig)}
        own = {
            "output": str(Path(self.output) / f"seed-{seed}"),
            "seed": seed,
            "data": str(task.train_file(self.output)),
            "eval_data": str(task.held_out_file(self.output)),
            "datasets": [task.collection],
            "parent": parent_of(Path(self.output)),
        }
        return PPOConfig(**{**shared, **own})

    def systems(self, seeds: Sequence[int]) -> list[str]:
        """Return what is evaluated: the start, and what each training run left."""
        plan = self.workflow or "jade"
        adapters = [self.adapter or "none", *(str(Path(self.output) / f"seed-{seed}" / "adapter") for seed in seeds)]
        return [f"{plan}@{adapter}" for adapter in adapters]

    def comparison(self, task: Task, seeds: Sequence[int] = ()) -> EvalConfig:
        """Return the options of the evaluation: the held-out questions, all decoded alike."""
        shared = ("model", "top_k", "max_turns", "max_retrievals", "select", "seed", "dtype", "device")
        return EvalConfig(
            systems=self.systems(seeds),
            sets=[],
            data=str(task.held_out_file(self.output)),
            index=task.collection,
            sample=None,
            decoding="constrained",
            output=str(Path(self.output) / "eval"),
            experiment=self.experiment,
            threads=self.threads,
            in_flight=self.in_flight,
            max_depth=self.depth,
            **{name: getattr(self, name) for name in shared},
        )


def yesno(config: YesNoConfig, task: Task) -> Experiment:
    """Return the experiment: a training run for each seed, then the comparison of those that finished."""
    seeds = range(config.seed, config.seed + config.seeds)
    arms = [Arm("trained", seed, {"iterations": config.iterations}) for seed in seeds]

    def later(rows: Sequence[Row]) -> list[Arm]:
        return [comparison_arm(config.comparison(task, [row["seed"] for row in rows]), rows)]

    shown = partial(show, config, task), partial(figures, config, task)
    return Experiment("yesno", arms, *shown, later, config.experiment)


def prepare(config: YesNoConfig, task: Task) -> Job:
    """Write the files, index the facts, check what can be checked, and return the job of the experiment.

    Raises:
        JadeError: The folder cannot be written, the index not be built, or the start adapter not be used.
    """
    task.write(config.output)
    index_facts(task, config.output)
    check(config.comparison(task))
    return partial(work, config, task)


def work(config: YesNoConfig, task: Task, arm: Arm) -> dict[str, Any]:
    """Train an arm, or ask the held-out questions, in this process.

    Raises:
        JadeError: As `training.ppo.train` and `evaluation.evaluate.evaluate`.
    """
    if arm.name == COMPARISON:
        log_asking(ALONE)
        return asked(replace(config.comparison(task), systems=list(arm.options["systems"])), "em")
    log_as(ALONE)
    return taught(config.training(task, arm.seed))


def accuracies(config: YesNoConfig, task: Task, rows: Sequence[Row]) -> dict[str, Sets]:
    """Return who answers → 1 or 0 for each held-out question, averaged over seeds; the commoner answer comes first."""
    trained, comparison = split_rows(rows)
    constant = [np.array([float(answer == task.majority) for answer in task.golds], dtype=np.float64)]
    found: dict[str, Sets] = {f"always “{task.majority}”": constant}
    if comparison is not None:
        start, *own = config.systems([row["seed"] for row in trained])
        found[BEFORE] = sets_of(comparison, start)
        found[AFTER] = [np.mean([sets_of(comparison, system)[0] for system in own], axis=0)]
    return found


def show(config: YesNoConfig, task: Task, rows: Sequence[Row]) -> str:
    """Return the tables: accuracy with intervals and what is said, then the paired differences."""
    trained, comparison = split_rows(rows)
    found = accuracies(config, task, rows)
    constant, *_ = found
    start, *own = config.systems([row["seed"] for row in trained])
    said: Mapping[str, Sequence[str]] = {BEFORE: [start], AFTER: own}
    lines = []
    for name, sets in found.items():
        answers = [task.majority] if name == constant else _answers(comparison, said[name])
        seeds = "" if name in (constant, BEFORE) else str(len(own))
        lines.append([name, seeds, shown_interval(sets), *(_share(answers, word) for word in ("yes", "no"))])
    head = ["answered by", "seeds", f"accuracy over {len(task.golds)} held-out questions (95 %)", "says yes", "says no"]
    steps = ((BEFORE, AFTER), (constant, BEFORE), (constant, AFTER))
    pairs = {f"{old} → {new}": (found[new], found[old]) for old, new in steps if new in found}
    parts = (table(head, lines), difference_table("paired by question", "accuracy", pairs))
    return "\n\n".join(part for part in parts if part)


def _answers(comparison: Row | None, systems: Sequence[str]) -> list[str]:
    return [] if comparison is None else [text for system in systems for text in comparison["answers"][system][0]]


def _share(answers: Sequence[str], word: str) -> str:
    return f"{np.mean([normalize_squad(text) == word for text in answers]):.1%}" if answers else ""


def figures(config: YesNoConfig, task: Task, rows: Sequence[Row]) -> Mapping[str, Figure]:
    """Draw accuracy with its intervals beside the commoner answer's share, and the score while training."""
    from matplotlib.figure import Figure

    (constant, share), *asked_ones = accuracies(config, task, rows).items()
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, (_, sets) in enumerate(asked_ones):
        mean = macro_interval(sets)
        left.errorbar([place], [mean.mean], yerr=whiskers((mean.mean, mean.low, mean.high)), fmt="o", color="C0")
    left.axhline(macro_interval(share).mean, color="0.4", ls="--", label=constant)
    left.set_xticks(range(len(asked_ones)), [name for name, _ in asked_ones])
    left.set_xlim(-0.5, max(0.5, len(asked_ones) - 0.5))
    left.set_ylabel("accuracy, held out")
    left.legend(fontsize="small")
    for row in split_rows(rows)[0]:
        points = [(step, metrics["rollout/score"]) for step, metrics in row["curve"] if "rollout/score" in metrics]
        right.plot([step for step, _ in points], [score for _, score in points])
    right.set_xlabel("iteration")
    right.set_ylabel("score of sampled runs, train questions")
    return {"accuracy.png": figure}


def run(config: YesNoConfig, *, dry_run: bool = False) -> int:
    """Do what is left of the experiment; return its exit status.

    Raises:
        JadeError: As `prepare`.
    """
    task = read_task(config.sample, config.held_out)
    _log.info(
        "%d train questions, %d held out, %d facts (collection %s); always %r is right on %.1f %% of the held-out ones",
        len(task.train), len(task.golds), len(task.facts), task.collection, task.majority, 100 * task.majority_share,
    )  # fmt: skip
    if dry_run:
        return 0
    prepared = partial(prepare, config, task)
    return conduct(yesno(config, task), Path(config.output), prepared, setting=config.setting())


def main() -> int:
    """Run from the command line; a user's mistake is one message on standard error."""
    log_asking(ALONE)
    _log.setLevel(logging.INFO)

    def do() -> int:
        config, dry_run = read_config(YesNoConfig, sys.argv[1:], PROGRAM)
        return run(config, dry_run=dry_run)

    return run_command(do, "interrupted; the same command goes on where it stopped")


if __name__ == "__main__":
    sys.exit(main())
