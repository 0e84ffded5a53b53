"""Backbone transfer: a trained planner stays, and executors on backbones of several sizes carry out its plans.

    python -m experiments transfer --sets "['nq', 'musique']" --sample 50
    python -m experiments transfer --backbones "['random:2x64', 'base', 'Qwen/Qwen2.5-1.5B-Instruct', '/models/large']"

On every backbone, planning is compared with a fixed workflow; the planner's own executors stand beside them. Each
backbone is an arm in a process of its own, so that only two models are in memory at once. It takes every option of
`python -m evaluation.evaluate`, asks the same questions of all, and goes on after an interrupt.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from agents.adapters import content_hash
from agents.errors import ConfigError
from agents.model_load import weights_hash
from agents.planner import PLANNER
from evaluation.config import read_config, run_command
from evaluation.evaluate import check, gather, publish
from evaluation.evaluate_config import EvalConfig
from evaluation.figures import whiskers
from evaluation.loading import load_base, load_other, open_retrievers
from evaluation.macro import macro_compare
from evaluation.report_markdown import change, detectable, p_value, table
from evaluation.statistics import Comparison, corrected
from evaluation.systems import UNTUNED, slug_of
from experiments.arms import Arm, Row
from experiments.conduct import Experiment, conduct
from training.backbones import BASE, backbone_path, make_random, random_shape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from agents.model import SharedModel
    from agents.passage import Retriever
    from evaluation.readiness import Asked
    from evaluation.systems import System

_log = logging.getLogger("jade.experiments")
PROGRAM = "python -m experiments transfer"
OWN = "its own executors"
_SHARED = ("backbones", "output", "threads", "device", "in_flight", "experiment", "systems")
"""Options that change no answer, or belong to an arm."""


@dataclass
class TransferConfig(EvalConfig):
    """One planner over executors on several backbones: does planning still pay, and from which size on?"""

    derived: ClassVar[tuple[str, ...]] = ("systems", "other")
    backbones: list[str] = field(default_factory=lambda: ["random:2x64", "random:4x128", BASE])
    """Who executes, untuned, beside the planner's own adapter: "base" (the base model itself), "random:LAYERSxWIDTH" (a
    random model of the base's kind), a folder, or a hub id."""
    planner: str = "shipped"
    """The planner's adapter: shipped, a folder, or the id of an MLflow run."""
    fixed: str = "R,AG"
    """The workflow that planning is compared with."""
    decoding: str = "constrained"
    """The same for all: constrained or free."""
    output: str = "runs/transfer"
    """Folder of results.jsonl, table.md, the figure, and an evaluation of each backbone."""
    experiment: str | None = None
    """MLflow experiment of each backbone's whole evaluation; none = its numbers in jade-experiments alone."""

    def __post_init__(self) -> None:
        """Refuse impossible values by name."""
        if self.systems != EvalConfig().systems or self.other is not None or self.baseline is not None:
            raise ConfigError("systems, other and baseline follow from planner and backbones here; leave them out")
        super().__post_init__()
        if self.server is not None:
            raise ConfigError("the backbones are loaded here, one after the other; leave server out")
        if len({slug_of(name) for name in self.backbones}) < len(self.backbones) or not self.backbones:
            raise ConfigError(f"backbones={self.backbones}; name at least one, and each once")
        for name in self.backbones:
            backbone_path(name, self.model)

    def evaluation(self, backbone: str | None) -> EvalConfig:
        """Return the evaluation of one backbone; None = the planner's own adapter executes."""
        own = {item.name: getattr(self, item.name) for item in fields(EvalConfig)}
        executors = self.planner if backbone is None else UNTUNED if backbone == BASE else "other"
        planned = f"jade@{executors}" if backbone is None else f"jade@{PLANNER.name}={self.planner};*={executors}"
        changes = {
            "systems": [f"{self.fixed}@{executors}", planned],
            "other": backbone_path(backbone or "", self.model) if executors == "other" else None,
            "output": str(Path(self.output) / slug_of(backbone or "own")),
        }
        return EvalConfig(**{**own, **changes})


def transfer(config: TransferConfig) -> Experiment:
    """Return the experiment: an arm for the planner's own executors, and one for each backbone.

    Raises:
        ConfigError: A backbone's folder holds no weights.
    """
    names = {OWN: None, **{name: name for name in config.backbones}}
    arms = [Arm(name, config.seed, {"backbone": backbone, **_held(backbone)}) for name, backbone in names.items()]
    return Experiment("transfer", arms, partial(show, config), partial(figures, config))


def _held(backbone: str | None) -> dict[str, str]:
    """Return what tells a folder from itself with other weights."""
    folder = None if backbone is None else Path(backbone).expanduser()
    return {} if folder is None or not folder.is_dir() else {"weights": weights_hash(folder)}


def setting_of(config: TransferConfig, own: Sequence[System]) -> dict[str, Any]:
    """Return what all arms share, and what the planner's adapter holds.

    Args:
        config: The options.
        own: The systems of the planner's own executors.

    Raises:
        ConfigError: An adapter is incomplete.
    """
    told = {key: value for key, value in asdict(config).items() if key not in _SHARED}
    folders = {folder for system in own for folder in system.folders.values() if folder is not None}
    return {**told, "adapter_content": sorted(content_hash(folder) for folder in folders)}


def ask(config: TransferConfig, arm: Arm) -> dict[str, Any]:
    """Evaluate one backbone in this process, and return its row; the job of the experiment.

    Raises:
        JadeError: A model, an adapter or an index cannot be used.
    """
    backbone = arm.options["backbone"]
    mine = config.evaluation(backbone)
    systems, sets = _checked(config, arm)
    retrievers = open_retrievers(mine, sets)  # before any model: a wrong embedder is told at once
    if backbone is not None:
        make_random(backbone, config.model)
    return measure(mine, systems, sets, load_base(mine, mine.model), retrievers, load_other(mine))


def measure(
    config: EvalConfig,
    systems: Sequence[System],
    sets: Sequence[Asked],
    shared: SharedModel,
    retrievers: Mapping[str, Retriever],
    other: SharedModel | None,
) -> dict[str, Any]:
    """Ask both systems of a backbone, and return F1 of every question, its size, and what MLflow is told."""
    found = gather(config, systems, sets, shared, retrievers, other)
    assert found is not None  # one process
    blocks, report = found
    publish(config, report)
    executor = other or shared
    own = [weights for name, weights in executor.module.named_parameters() if "lora_" not in name]
    row: dict[str, Any] = {"model": executor.name, "parameters": sum(weights.numel() for weights in own)}
    metrics: dict[str, float] = {}
    for name, system in zip(("fixed", "planned"), config.systems, strict=True):
        mine = [block for block in blocks if block.system == system]
        row[name] = [[float(value) for value in block.values("f1")] for block in mine]
        for metric in ("f1", "turns", "retrievals", "tokens"):
            keys = [f"eval/{name}/{slug_of(block.set)}/{metric}" for block in mine]
            metrics |= {key: float(block.values(metric).mean()) for key, block in zip(keys, mine, strict=True)}
    return {**row, "metrics": metrics}


def compared(config: TransferConfig, rows: Sequence[Row]) -> list[Comparison]:
    """Compare planning with the fixed workflow on each backbone, over the mean of the sets; Holm over backbones."""
    found = []
    for row in rows:
        planned, fixed = ([np.array(scores) for scores in row[name]] for name in ("planned", "fixed"))
        found.append(macro_compare(planned, fixed, config.level, config.resamples, config.seed))
    return corrected(found)


def show(config: TransferConfig, rows: Sequence[Row]) -> str:
    """Return the Markdown table, one line a backbone."""
    verdicts = {1: "helps", -1: "hurts", 0: "not resolved"}
    lines = []
    for row, item in zip(rows, compared(config, rows), strict=True):
        span = change(item.difference, item.low, item.high)
        lines.append(
            [row["arm"], f"{row['parameters'] / 1e6:,.1f} M", f"{item.baseline:.3f}", f"{item.mean:.3f}", span,
             detectable(item.detectable), p_value(item.p_corrected), verdicts[item.sign]]
        )  # fmt: skip
    head = ["executors", "parameters", f"F1, {config.fixed}", "F1, planned", f"planning ({config.level:.0%})",
            "detectable", "p (Holm)", "planning"]  # fmt: skip
    return table(head, lines)


def figures(config: TransferConfig, rows: Sequence[Row]) -> Mapping[str, Figure]:
    """Draw what planning is worth against the size of the executors, with intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for row, item in zip(rows, compared(config, rows), strict=True):
        spread = whiskers((item.difference, item.low, item.high))
        axes.errorbar([row["parameters"]], [item.difference], yerr=spread, fmt="o", label=row["arm"])
    axes.axhline(0, color="0.5", lw=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("parameters of the executors")
    axes.set_ylabel(f"F1: planned − {config.fixed}")
    axes.legend(fontsize="small")
    return {"planning-by-size.png": figure}


def _checked(config: TransferConfig, arm: Arm) -> tuple[list[System], list[Asked]]:
    """Check the evaluation of one backbone; a random one is made when its turn comes."""
    backbone = arm.options["backbone"]
    _log.info("%s:", arm.name)
    return check(config.evaluation(backbone), models=backbone is None or random_shape(backbone) is None)


def main() -> int:
    """Run from the command line; a user's mistake is one message on standard error."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for name in ("jade.experiments", "jade.evaluate"):
        logging.getLogger(name).setLevel(logging.INFO)

    def work() -> int:
        config, dry_run = read_config(TransferConfig, sys.argv[1:], PROGRAM)
        experiment = transfer(config)
        own, *_ = [_checked(config, arm)[0] for arm in experiment.arms]
        if dry_run:
            return 0
        setting = setting_of(config, own)
        return conduct(experiment, Path(config.output), lambda: partial(ask, config), setting=setting)

    return run_command(work, "stopped; the same command goes on where it was")


if __name__ == "__main__":
    sys.exit(main())
