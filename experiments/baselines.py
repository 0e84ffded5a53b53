"""Trained baselines at equal budget: is it the *joint* training that helps, or any training of anything?

    python -m experiments baselines --adapter adapters/warm --datasets "['nq']" --iterations 40

Every arm starts from the same adapter and gets the same questions, executions and updates; then all are asked the
same dev questions, beside the start itself. Both halves go on after an interrupt: a finished arm is not trained again,
and what is answered is not asked again.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.errors import ConfigError
from evaluation.config import read_config, run_command
from evaluation.evaluate import check
from evaluation.evaluate import log_as as log_asking
from evaluation.evaluate_config import EvalConfig
from evaluation.figures import whiskers
from evaluation.macro import macro_interval
from evaluation.ranks import ALONE
from evaluation.report_markdown import table
from experiments.arms import Arm, Row
from experiments.conduct import TRACKED, Experiment, conduct, parent_of
from experiments.trained import (
    COMPARISON,
    asked,
    comparison_arm,
    difference_table,
    sets_of,
    setting_of,
    split_rows,
    taught,
)
from training.lead import log_as
from training.ppo_config import PPOConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROGRAM = "python -m experiments baselines"
JOINT = "joint"
_log = logging.getLogger("jade.experiments")


@dataclass(frozen=True)
class Recipe:
    """One thing that is trained."""

    changes: Mapping[str, Any]
    """What differs from the joint training."""
    system: str
    """What is evaluated; {start} and {own} are the adapters."""
    untrained: str
    """The same system before training."""
    note: str


RECIPES: Mapping[str, Recipe] = {
    JOINT: Recipe({}, "jade@{own}", "jade@{start}", "planner and executors together"),
    "planner": Recipe(
        {"train": "planner"}, "jade@planner={own};*={start}", "jade@{start}", "the planner alone (MAO-ARAG's shape)"
    ),
    "executors": Recipe(
        {"train": "executors"}, "jade@planner={start};*={own}", "jade@{start}", "the executors alone, under its plans"
    ),
    "r-ag": Recipe({"workflow": "R,AG"}, "R,AG@{own}", "R,AG@{start}", "retrieve and answer, always"),
    "mmoa": Recipe(
        {"workflow": "QR,R,DS,AG"}, "QR,R,DS,AG@{own}", "QR,R,DS,AG@{start}", "the whole chain, always (MMOA-RAG)"
    ),
    "solo": Recipe(
        {"graph": "graphs.solo:build_solo", "decoding": "constrained"},
        "solo@{own}", "solo@{start}", "one role that searches in a loop (Search-R1's shape)",
    ),
}  # fmt: skip
"""Name of an arm → what is trained."""


@dataclass
class BaselinesConfig(PPOConfig):
    """Train each arm with the options of `python -m training.ppo` below, then compare all of them."""

    output: str = "runs/baselines"
    """Folder with one training run an arm, eval/, results.jsonl, table.md and the figure."""
    max_depth: int | None = 1
    """Deepest decomposition."""
    experiment: str = TRACKED
    """MLflow experiment; one run, with the training runs and the comparison as its children."""
    arms: list[str] = field(default_factory=lambda: list(RECIPES))
    """Which arms: joint, planner, executors, r-ag, mmoa, solo."""
    sample: int | None = 50
    """Dev questions of each set in the comparison; none = all."""
    eval_threads: int | None = None
    """CPU threads of the comparison; none = those of training."""

    def __post_init__(self) -> None:
        """Refuse impossible values by name."""
        super().__post_init__()
        unknown = [name for name in self.arms if name not in RECIPES]
        if unknown or not self.arms or len(set(self.arms)) < len(self.arms):
            raise ConfigError(f"arms={self.arms}; name each at most once; allowed: {', '.join(RECIPES)}")
        for name in ("graph", "ledger", "workflow", "data", "parent"):
            if getattr(self, name) is not None:
                raise ConfigError(f"{name} is what the arms differ in or share; leave it out")
        if self.train != "all":
            raise ConfigError(f"train={self.train!r} is an arm here; leave it out and name arms")

    def training(self, arm: str) -> PPOConfig:
        """Return the options of one arm's training, nested in the experiment's MLflow run if that is open."""
        shared = {item.name: getattr(self, item.name) for item in fields(PPOConfig)}
        own = {"output": str(Path(self.output) / arm), "parent": parent_of(Path(self.output))}
        return PPOConfig(**{**shared, **own, **RECIPES[arm].changes})

    def systems(self, arm: str) -> tuple[str, str]:
        """Return what is evaluated of an arm: before its training, and after."""
        start, own = self.adapter or "none", str(Path(self.output) / arm / "adapter")
        recipe = RECIPES[arm]
        return recipe.untrained.format(start=start, own=own), recipe.system.format(start=start, own=own)

    def comparison(self, arms: Sequence[str] | None = None) -> EvalConfig:
        """Return the options of the evaluation: every arm before and after, decoded alike.

        Args:
            arms: Which; None = all.
        """
        systems = [system for name in (self.arms if arms is None else arms) for system in self.systems(name)]
        shared = ("model", "top_k", "max_turns", "max_retrievals", "select", "seed", "dtype", "device")
        return EvalConfig(
            systems=list(dict.fromkeys(systems)),
            sets=list(self.datasets),
            sample=self.sample,
            decoding="constrained",
            output=str(Path(self.output) / "eval"),
            threads=self.eval_threads or self.threads,
            in_flight=self.in_flight,
            max_depth=self.depth,
            experiment=self.experiment,
            **{name: getattr(self, name) for name in shared},
        )

    def starts(self) -> EvalConfig:
        """Return the comparison of what can be asked before anything is trained."""
        return replace(self.comparison(), systems=list(dict.fromkeys(self.systems(name)[0] for name in self.arms)))


def baselines(config: BaselinesConfig) -> Experiment:
    """Return the experiment: one training run an arm, and then the comparison of those that finished."""
    arms = [Arm(name, config.seed, {"iterations": config.iterations, **RECIPES[name].changes}) for name in config.arms]

    def later(rows: Sequence[Row]) -> list[Arm]:
        return [comparison_arm(config.comparison([row["arm"] for row in rows]), rows)]

    return Experiment("baselines", arms, partial(show, config), partial(figures, config), later, config.experiment)


def work(config: BaselinesConfig, arm: Arm) -> dict[str, Any]:
    """Train an arm, or compare all of them, in this process; the job of the experiment.

    Raises:
        JadeError: As `training.ppo.train` and `evaluation.evaluate.evaluate`.
    """
    if arm.name == COMPARISON:
        log_asking(ALONE)
        return asked(replace(config.comparison(), systems=list(arm.options["systems"])), "f1")
    log_as(ALONE)
    _log.info("%s: %s", arm.name, RECIPES[arm.name].note)
    return taught(config.training(arm.name))


def show(config: BaselinesConfig, rows: Sequence[Row]) -> str:
    """Return the tables: every arm before and after its training, joint training against each other arm, the costs."""
    trained, comparison = split_rows(rows)
    notes = table(["arm", "what is trained"], [[row["arm"], RECIPES[row["arm"]].note] for row in trained])
    if comparison is None:
        return notes
    pairs = {row["arm"]: [sets_of(comparison, name) for name in config.systems(row["arm"])] for row in trained}
    gains = difference_table("training", "F1", {name: (after, before) for name, (before, after) in pairs.items()})
    joint = pairs.get(JOINT)
    against = {f"{name} → {JOINT}": (joint[1], pair[1]) for name, pair in pairs.items() if joint and name != JOINT}
    parts = (notes, gains, difference_table("trained alike", "F1", against), f"```text\n{comparison['summary']}\n```")
    return "\n\n".join(part for part in parts if part)


def figures(config: BaselinesConfig, rows: Sequence[Row]) -> Mapping[str, Figure]:
    """Draw F1 of every arm after its training, with its interval, and before (hollow)."""
    from matplotlib.figure import Figure

    trained, comparison = split_rows(rows)
    if comparison is None:
        return {}
    figure = Figure(figsize=(7, 1.2 + 0.35 * len(trained)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(trained):
        before, after = (macro_interval(sets_of(comparison, name)) for name in config.systems(row["arm"]))
        axes.plot([before.mean, after.mean], [place, place], "-", color="0.8", zorder=0)
        axes.plot([before.mean], [place], "o", color="C0", mfc="white", label="before" if place == 0 else None)
        spread = whiskers((after.mean, after.low, after.high))
        axes.errorbar([after.mean], [place], xerr=spread, fmt="o", color="C0", label="after" if place == 0 else None)
    axes.set_yticks(range(len(trained)), [row["arm"] for row in trained])
    axes.invert_yaxis()
    axes.set_xlabel(f"F1 over {', '.join(config.datasets)}")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize="small")
    return {"f1-by-arm.png": figure}


def main() -> int:
    """Run from the command line; a user's mistake is one message on standard error."""
    log_asking(ALONE)
    _log.setLevel(logging.INFO)

    def do() -> int:
        config, dry_run = read_config(BaselinesConfig, sys.argv[1:], PROGRAM)
        check(config.starts())
        if dry_run:
            _log.info("that is before training; what is trained is asked the same after it:")
            for name in config.arms:
                after = config.systems(name)[1]
                _log.info("%s: %s, %d iterations; then %s", name, RECIPES[name].note, config.iterations, after)
            return 0
        setting = setting_of(config)
        return conduct(baselines(config), Path(config.output), lambda: partial(work, config), setting=setting)

    return run_command(do, "interrupted; the same command goes on where it stopped")


if __name__ == "__main__":
    sys.exit(main())
