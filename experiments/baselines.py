"""Trained baselines at equal budget: is it the *joint* training that helps, or any training of anything?

    python -m experiments.baselines --adapter adapters/warm --datasets "['nq']" --iterations 40

Every arm starts from the same adapter and gets the same questions, executions and updates; then all are asked the
same dev questions, beside the start itself. Both halves go on after an interrupt: a finished arm is not trained again,
and what is answered is not asked again.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from agents.errors import ConfigError
from evaluation.config import read_config, run_command
from evaluation.evaluate import evaluate
from evaluation.evaluate_config import EvalConfig
from evaluation.report_markdown import summary
from training.checkpoint import find_checkpoint, read_state
from training.ppo import train
from training.ppo_config import PPOConfig

PROGRAM = "python -m experiments.baselines"
_log = logging.getLogger("jade.baselines")


@dataclass(frozen=True)
class Arm:
    """One thing that is trained."""

    changes: Mapping[str, Any]
    """What differs from the joint training."""
    system: str
    """What is evaluated; {start} and {own} are the adapters."""
    untrained: str
    """The same system before training."""
    note: str


ARMS: Mapping[str, Arm] = {
    "joint": Arm({}, "jade@{own}", "jade@{start}", "planner and executors together"),
    "planner": Arm(
        {"train": "planner"}, "jade@planner={own};*={start}", "jade@{start}", "the planner alone (MAO-ARAG's shape)"
    ),
    "executors": Arm(
        {"train": "executors"}, "jade@planner={start};*={own}", "jade@{start}", "the executors alone, under its plans"
    ),
    "r-ag": Arm({"workflow": "R,AG"}, "R,AG@{own}", "R,AG@{start}", "retrieve and answer, always"),
    "mmoa": Arm(
        {"workflow": "QR,R,DS,AG"}, "QR,R,DS,AG@{own}", "QR,R,DS,AG@{start}", "the whole chain, always (MMOA-RAG)"
    ),
    "solo": Arm(
        {"graph": "graphs.solo:build_solo", "decoding": "constrained"},
        "solo@{own}", "solo@{start}", "one role that searches in a loop (Search-R1's shape)",
    ),
}  # fmt: skip
"""Name → arm."""


@dataclass
class BaselinesConfig(PPOConfig):
    """Train each arm with the options of `python -m training.ppo` below, then compare all of them."""

    output: str = "runs/baselines"
    """Folder with one training run an arm, and eval/."""
    arms: list[str] = field(default_factory=lambda: list(ARMS))
    """Which arms: joint, planner, executors, r-ag, mmoa, solo."""
    sample: int | None = 50
    """Dev questions of each set in the comparison; none = all."""
    eval_threads: int | None = None
    """CPU threads of the comparison; none = those of training."""

    def __post_init__(self) -> None:
        """Refuse impossible values by name."""
        super().__post_init__()
        unknown = [name for name in self.arms if name not in ARMS]
        if unknown or not self.arms:
            raise ConfigError(f"arms={self.arms}; allowed: {', '.join(ARMS)}")
        for name in ("graph", "ledger", "workflow", "data"):
            if getattr(self, name) is not None:
                raise ConfigError(f"{name} is what the arms differ in or share; leave it out")
        if self.train != "all":
            raise ConfigError(f"train={self.train!r} is an arm here; leave it out and name arms")

    def training(self, arm: str) -> PPOConfig:
        """Return the options of one arm's training."""
        shared = {item.name: getattr(self, item.name) for item in fields(PPOConfig)}
        return PPOConfig(**{**shared, "output": str(Path(self.output) / arm), **ARMS[arm].changes})

    def comparison(self) -> EvalConfig:
        """Return the options of the evaluation: every arm before and after, decoded alike."""
        start = self.adapter or "none"
        systems: list[str] = []
        for name in self.arms:
            own = str(Path(self.output) / name / "adapter")
            systems += [text.format(start=start, own=own) for text in (ARMS[name].untrained, ARMS[name].system)]
        shared = ("model", "top_k", "max_depth", "max_turns", "max_retrievals", "select", "seed", "dtype", "device")
        return EvalConfig(
            systems=list(dict.fromkeys(systems)),
            sets=list(self.datasets),
            sample=self.sample,
            decoding="constrained",
            output=str(Path(self.output) / "eval"),
            threads=self.eval_threads or self.threads,
            in_flight=self.in_flight,
            **{name: getattr(self, name) for name in shared},
        )


def train_arms(config: BaselinesConfig, teach: Callable[[PPOConfig], int] = train) -> dict[str, int]:
    """Train every arm that has not finished; return arm → exit status.

    Args:
        config: Arms and options.
        teach: Trains one arm.

    Raises:
        JadeError: As `training.ppo.train`.
    """
    statuses = {}
    for place, name in enumerate(config.arms, start=1):
        options = config.training(name)
        if finished(options):
            _log.info("arm %d of %d, %s: finished before", place, len(config.arms), name)
            statuses[name] = 0
            continue
        _log.info("arm %d of %d, %s: %s", place, len(config.arms), name, ARMS[name].note)
        statuses[name] = teach(options)
        if not finished(options):
            raise ConfigError(f"arm {name} stopped before its last iteration; the same command goes on with it")
    return statuses


def finished(options: PPOConfig) -> bool:
    """Return whether a training run has done all its iterations and left its adapter."""
    folder = Path(options.output)
    checkpoint = find_checkpoint(folder)
    if checkpoint is None or not (folder / "adapter" / "jade.json").is_file():
        return False
    return read_state(checkpoint).iteration >= options.iterations


def main() -> int:
    """Run from the command line; a user's mistake is one message on standard error."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")

    def work() -> int:
        config, dry_run = read_config(BaselinesConfig, sys.argv[1:], PROGRAM)
        if dry_run:
            for name in config.arms:
                _log.info("%s: %s, %d iterations", name, ARMS[name].note, config.iterations)
            evaluate(replace(config.comparison(), systems=["jade@none"]), dry_run=True)
            return 0
        train_arms(config)
        report = evaluate(config.comparison())
        assert report is not None
        sys.stdout.write(summary(report) + "\n")
        return 0

    return run_command(work, "interrupted; the same command goes on where it stopped")


if __name__ == "__main__":
    sys.exit(main())
