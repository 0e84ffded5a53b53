"""Learning, proven in the tiny world: PPO from a mediocre warm start, on questions and facts that it never saw.

    python -m experiments.tinyworld --seeds 2                        one arm and its control
    python -m experiments.tinyworld --grid --seeds 5                 estimators × train modes

The control permutes R across questions: whatever it gains was not learned from the outcome. Held-out F1 is reported
greedily and at τ = 1; regret is that of the chosen plans against the best one, both in the oracle's hands.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from evaluation.metrics import token_f1
from evaluation.statistics import interval
from graphs.collection import collect
from graphs.trajectory import Trajectory
from training import tinyworld
from training.clock import Clock
from training.gold import Gold
from training.ppo import iterate
from training.ppo_config import PPOConfig
from training.rollout import World, run_options
from training.session import Session, begin
from training.tinymodel import TINY_PROMPTS
from training.tinyoracle import regret
from training.tinystart import Start, tiny_graph, warm_start

ESTIMATORS = ("tree_gae", "terminal_gae", "broadcast", "loo")
MODES = ("all", "planner", "executors")


@dataclass(frozen=True)
class Measure:
    """Held-out numbers of one policy."""

    f1: float
    """Greedy."""
    regret: float
    """Greedy."""
    sampled_f1: float
    """At τ = 1."""
    sampled_regret: float
    scores: tuple[float, ...] = ()
    """Greedy F1 of each held-out question."""


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


class Silent:
    """A tracked run that keeps nothing."""

    run_id = None

    def __getattr__(self, name: str) -> Any:
        """Return a method that does nothing."""
        return lambda *args, **kwargs: None


def tiny_options(folder: Path, **changes: Any) -> PPOConfig:
    """Return the options of the proof; format penalty 0, so that only outcomes teach."""
    fields: dict[str, Any] = {
        "output": str(folder), "iterations": 12, "questions": 32, "runs": 4, "in_flight": 128, "rank": 16,
        "lora_alpha": 32, "first_layer": 0, "lr": 7e-4, "critic_lr": 5e-3, "critic_warmup": 1, "epochs": 2,
        "minibatches": 4, "token_budget": 8192, "kl": 0.005, "entropy": 0.02, "target_kl": 0.2, "format_penalty": 0.0,
        "lam": 0.95, "max_retrievals": None, "max_turns": None, "top_k": 3, "eval_every": 0, "traces": 0,
        "on_alarm": "continue",
    }  # fmt: skip
    return PPOConfig(**{**fields, **changes})


def measure(session: Session, world: tinyworld.World) -> Measure:
    """Measure the trained adapter on the held-out questions of a world, greedily and at τ = 1."""
    f1: list[list[float]] = []
    lost: list[float] = []
    for temperature in (0.0, 1.0):
        runs = _held_out(session, temperature)
        f1.append([token_f1(run.answer, example.answers) for run, example in zip(runs, world.dev, strict=True)])
        lost.append(sum(regret(world, run.question, run.workflow or {"plan": "AG"}) for run in runs) / len(runs))
    greedy, sampled = (sum(scores) / len(scores) for scores in f1)
    return Measure(greedy, lost[0], sampled, lost[1], tuple(f1[0]))


def _held_out(session: Session, temperature: float) -> list[Trajectory]:
    world = session.worlds[0]
    graph = world.graph.with_recorder(adapters=session.players.adapters())
    options = {**run_options(session.config, 12345), "record": "off", "temperature": temperature}
    questions = [{"question": example.question, "id": example.id} for example in world.dev]
    return collect(graph, questions, policy=session.players.shared, in_flight=128, **options)


def learn(start: Start, folder: Path, seed: int, *, control: bool = False, **changes: Any) -> Learned:
    """Train one arm from a copy of the warm start."""
    began = time.process_time()
    config = tiny_options(folder, seed=seed, permute_rewards=control, **changes)
    shared = start.policy()
    world = World("tiny", tiny_graph(start.world, shared, folder / "ledger"), start.world.train, start.world.dev)
    session = begin(config, shared, [world], Gold(start.world.train), TINY_PROMPTS.style)
    before, rewards, clock = measure(session, start.world), [], Clock()
    for _ in range(config.iterations):
        metrics, _healthy = iterate(session, Silent(), None, clock)  # type: ignore[arg-type]
        assert metrics is not None
        rewards.append(metrics["rollout/reward"])
        _log(len(rewards), metrics)
    spent = time.process_time() - began
    return Learned(
        config.estimator, config.train, control, seed, before, measure(session, start.world), spent, tuple(rewards)
    )


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
        yield from pool.map(_job, jobs)


def _job(job: tuple[Start, Path, dict[str, Any]]) -> Learned:
    torch.set_num_threads(1)
    start, folder, arm = job
    return learn(start, folder, arm.pop("seed"), **arm)


def _log(iteration: int, metrics: dict[str, float]) -> None:
    shown = ("rollout/reward", "update/entropy", "update/kl", "update/explained_variance")
    names = [*shown, *sorted(name for name in metrics if "topology/" in name)]
    numbers = "  ".join(f"{name.split('/')[-1]} {metrics.get(name, 0.0):.3f}" for name in names)
    logging.getLogger("jade.tiny").info("iteration %d: %s", iteration, numbers)


def arms(grid: bool, seeds: int) -> Iterator[dict[str, Any]]:
    """Yield the options of every training run."""
    pairs: Sequence[tuple[str, str]] = tuple(product(ESTIMATORS, MODES)) if grid else (("tree_gae", "all"),)
    for (estimator, train), seed in product(pairs, range(seeds)):
        yield {"estimator": estimator, "train": train, "seed": seed}
    for seed in range(seeds):
        yield {"estimator": "tree_gae", "train": "all", "seed": seed, "control": True}


def table(results: Sequence[Learned]) -> str:
    """Return a Markdown table; intervals are over held-out questions, each averaged over seeds."""
    lines = [
        "| estimator | train | seeds | F1 before | F1 after | gain (95 %) | F1 at τ = 1 | regret |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((item.estimator, item.train, item.control) for item in results):
        mine = [item for item in results if (item.estimator, item.train, item.control) == key]
        gain = interval(gains(mine))
        f1, sampled, lost = (
            f"{_mean(mine, name, 'before'):.3f} → {_mean(mine, name, 'after'):.3f}"
            for name in ("f1", "sampled_f1", "regret")
        )
        first, last = f1.split(" → ")
        name = f"{key[0]}, R permuted" if key[2] else key[0]
        shown = f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
        lines.append(f"| {name} | {key[1]} | {len(mine)} | {first} | {last} | {shown} | {sampled} | {lost} |")
    return "\n".join(lines)


def gains(results: Sequence[Learned]) -> list[float]:
    """Return the change in greedy F1 of each held-out question, averaged over training runs."""
    changes = [
        [after - before for before, after in zip(item.before.scores, item.after.scores, strict=True)]
        for item in results
    ]
    return [sum(column) / len(column) for column in zip(*changes, strict=True)]


def _mean(items: Sequence[Learned], name: str, when: str) -> float:
    return sum(float(getattr(getattr(item, when), name)) for item in items) / len(items)


def main() -> int:
    """Run the arms and print the table."""
    parser = argparse.ArgumentParser(prog="python -m experiments.tinyworld", description=__doc__)
    parser.add_argument("--grid", action="store_true", help="all estimators and train modes")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--steps", type=int, default=450, help="of the warm start")
    parser.add_argument("--processes", type=int, default=2, help="arms trained at once, one thread each")
    parser.add_argument("--results", type=Path, help="append one JSON line per training run")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    with tempfile.TemporaryDirectory() as scratch:
        began = time.process_time()
        start = warm_start(Path(scratch), steps=given.steps)
        logging.info("warm start: loss %.3f, %.0f CPU s", start.losses[-1], time.process_time() - began)
        results = []
        every = [{"iterations": given.iterations, **arm} for arm in arms(given.grid, given.seeds)]
        for arm, result in zip(every, learn_all(start, Path(scratch), every, given.processes), strict=True):
            results.append(result)
            logging.info("%s\n%s", arm, table(results[-1:]))
            if given.results is not None:
                with given.results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(result)) + "\n")
    sys.stdout.write(table(results) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
