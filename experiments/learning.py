"""One arm in the tiny world: trained from a copy of the warm start, and measured on held-out questions around it.

Held-out F1 is reported greedily and at τ = 1; regret is that of the chosen plans against the best one, both in the
oracle's hands.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from evaluation.config import run_command
from experiments.arms import Arm, Job, Results, Row
from experiments.borrowed import borrow
from experiments.conduct import Experiment, conduct
from experiments.measured import Measure, measure
from training.gold import Gold
from training.history import read_metrics
from training.lead import Untracked
from training.ppo import run
from training.ppo_config import PPOConfig
from training.rollout import World
from training.session import Session, begin
from training.tinymodel import TINY_PROMPTS
from training.tinystart import Start, tiny_graph, warm_start

_log = logging.getLogger("jade.experiments")
CURVE = (
    "rollout/reward", "rollout/score", "rollout/turns", "rollout/retrievals", "rollout/charged_turns",
    "rollout/charged_retrievals", "rollout/topology/SINGLE_ROUND", "update/alpha", "update/beta", "update/entropy",
    "update/kl",
)  # fmt: skip
"""Metrics of each iteration that a row keeps."""


@dataclass(frozen=True)
class Learned:
    """One training run."""

    estimator: str
    train: str
    control: bool
    seed: int
    before: Measure
    after: Measure
    cpu_seconds: float
    rewards: tuple[float, ...]
    """Mean sampled R of each iteration."""
    curve: tuple[tuple[int, Mapping[str, float]], ...] = ()
    """(iteration, `CURVE`) of each iteration."""
    status: int = 0
    """As `training.ppo.run` returned it: 3 = ended by an alarm."""


def tiny_options(folder: Path, **changes: Any) -> PPOConfig:
    """Return the options of the proof; format penalty 0, so that only outcomes teach."""
    fields: dict[str, Any] = {
        "output": str(folder), "iterations": 12, "questions": 32, "runs": 4, "in_flight": 128, "rank": 16,
        "temperature": 1.0, "max_depth": 1, "estimator": "tree_gae", "schedule": "constant", "warmup": 0,
        "lora_alpha": 32, "first_layer": 0, "lr": 7e-4, "critic_lr": 5e-3, "critic_warmup": 1, "epochs": 2,
        "minibatches": 4, "token_budget": 8192, "kl": 0.005, "entropy": 0.02, "target_kl": 0.2, "format_penalty": 0.0,
        "lam": 0.95, "max_retrievals": None, "max_turns": None, "top_k": 3, "eval_every": 0, "traces": 0,
        "on_alarm": "continue",
    }  # fmt: skip
    return PPOConfig(**{**fields, **changes})


def learn(
    start: Start, folder: Path, seed: int, *, control: bool = False, before: Measure | None = None, **changes: Any
) -> Learned:
    """Train one arm from a copy of the warm start.

    Args:
        start: The warm start.
        folder: For scratch.
        seed: Of the training run.
        control: Give each question the rewards of another one.
        before: Of the warm start, if it has been measured.
        **changes: Options of `PPOConfig` that differ from `tiny_options`.
    """
    began = time.process_time()
    session = _session(start, tiny_options(folder, seed=seed, permute_rewards=control, **changes))
    config, before = session.config, before or measure(session, start.world)
    status = run(session, Untracked())
    spent = time.process_time() - began
    rows = [(step, metrics) for step, metrics in read_metrics(folder) if "rollout/reward" in metrics]
    curve = tuple((step, {name: row[name] for name in CURVE if name in row}) for step, row in rows)
    rewards = tuple(row["rollout/reward"] for _, row in rows)
    after = measure(session, start.world)
    return Learned(config.estimator, config.train, control, seed, before, after, spent, rewards, curve, status)


def _session(start: Start, config: PPOConfig) -> Session:
    shared, folder = start.policy(), Path(config.output)
    world = World("tiny", tiny_graph(start.world, shared, folder / "ledger"), start.world.train, start.world.dev)
    return begin(config, shared, [world], Gold(start.world.train), TINY_PROMPTS.style)


def learn_all(start: Start, folder: Path, arms: Sequence[Mapping[str, Any]], processes: int = 1) -> Iterator[Learned]:
    """Train several arms, each in a process of its own with one thread, and yield them in order.

    Args:
        start: The warm start.
        folder: For scratch.
        arms: Keyword arguments of `learn`.
        processes: How many at once.
    """
    jobs = [(start, folder / str(number), dict(arm)) for number, arm in enumerate(arms)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_alone, jobs)


def _alone(job: tuple[Start, Path, dict[str, Any]]) -> Learned:
    torch.set_num_threads(1)
    start, folder, arm = job
    return learn(start, folder, arm.pop("seed"), **arm)


# ---- as the job of an experiment


def learned(row: Row) -> Learned:
    """Return what a row of results holds."""
    known = {name: row[name] for name in Learned.__dataclass_fields__}
    before, after = (_measured(row[name]) for name in ("before", "after"))
    curve = tuple((int(step), dict(metrics)) for step, metrics in row["curve"])
    return Learned(**{**known, "before": before, "after": after, "rewards": tuple(row["rewards"]), "curve": curve})


def _measured(found: Mapping[str, Any]) -> Measure:
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}
    return Measure(**fields)


def train_arm(starts: Mapping[str, tuple[Start, Measure]], arm: Arm) -> dict[str, Any]:
    """Train one arm in this process, and return its row; the job of the tiny world's experiments.

    Args:
        starts: `select` → the warm start that learned to read such prompts, measured.
        arm: Its options are those of `learn`.
    """
    start, before = starts[str(arm.options.get("select", "role"))]
    measured = None if "workflow" in arm.options else before  # a fixed workflow begins elsewhere
    with tempfile.TemporaryDirectory() as scratch:
        found = _alone((start, Path(scratch), {**arm.options, "seed": arm.seed, "before": measured}))
    after = found.after
    shown = {"f1": after.f1, "turns": after.turns, "retrievals": after.retrievals, "sampled_f1": after.sampled_f1}
    metrics = {f"eval/tiny/{name}": value for name, value in shown.items()} | {"eval/regret": after.regret}
    return {**asdict(found), "metrics": metrics}


def warm_starts(views: Sequence[str], steps: int) -> Job:
    """Warm up a model for each view of `select`, measure it, and return the job that trains from them."""
    starts = {}
    torch.set_num_threads(1)  # as the arms: the same start wherever it is made
    for view in views:
        with tempfile.TemporaryDirectory() as scratch:
            start = warm_start(Path(scratch), steps=steps, select=view)
            before = measure(_session(start, tiny_options(Path(scratch), select=view)), start.world)
        _log.info("warm start (%s): loss %.3f, F1 %.3f", view, start.losses[-1], before.f1)
        starts[view] = start, before
    return partial(train_arm, starts)


def all_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return all options of an arm's training, defaults filled in; its folder and seed are none of them."""
    control = {"permute_rewards": True} if options.get("control") else {}
    config = tiny_options(Path(), **control, **{name: options[name] for name in options if name != "control"})
    return {name: value for name, value in asdict(config).items() if name not in ("output", "seed")}


def tiny_experiment(
    make: Callable[..., Experiment], seeds: int, about: str | None, own: argparse.ArgumentParser | None = None
) -> int:
    """Be the command of an experiment in the tiny world; return its exit status.

    Args:
        make: Given `seeds`, `iterations` and the experiment's own options by name, returns the experiment.
        seeds: How many unless told otherwise.
        about: The module's docstring, for the help text.
        own: Options of this experiment alone; a parser without --help.
    """
    given = _tiny_options_given(seeds, about, own)
    steps, processes, output = (given.pop(name) for name in ("steps", "processes", "output"))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)

    def work() -> int:
        experiment = make(**given)
        views = list(dict.fromkeys(str(arm.options.get("select", "role")) for arm in experiment.arms))
        folder = output or Path("runs") / "experiments" / experiment.name
        prepare, setting = partial(warm_starts, views, steps), {"steps": steps}
        taken = borrow(experiment.arms, Results(folder / "results.jsonl", setting), all_options)
        if taken:
            _log.info("%d arms were trained by experiments in the folders beside %s", taken, folder)
        return conduct(experiment, folder, prepare, setting=setting, processes=processes)

    return run_command(work, "stopped; the same command goes on with the arms that are not finished")


def _tiny_options_given(seeds: int, about: str | None, own: argparse.ArgumentParser | None) -> dict[str, Any]:
    """Return the command line's options by name; a count below 1 ends the command with a message."""
    parents = [] if own is None else [own]
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter, parents=parents
    )
    parser.add_argument("--seeds", type=int, default=seeds, help=f"training runs of each arm (default {seeds})")
    parser.add_argument("--iterations", type=int, default=12, help="of each training run (default 12)")
    parser.add_argument("--steps", type=int, default=450, help="of the warm start (default 450)")
    parser.add_argument("--processes", type=int, default=2, help="arms trained at once, one thread each (default 2)")
    parser.add_argument("--output", type=Path, help="folder; finished arms in it are not run again")
    given = vars(parser.parse_args())
    for name in ("seeds", "iterations", "steps", "processes"):
        if given[name] < 1:
            parser.error(f"--{name} {given[name]}: give 1 or more")
    return given
