"""The job that faults are done to: questions of the tiny world are collected, or replayed, and trained on.

The model is a small Llama that was warmed up for seconds, so that it plans, splits and answers in the real formats; the
graph, the ledger, the checkpoints and PPO are the product's own. Everything here runs in processes that may be killed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from agents.model import SharedModel
from agents.passage import Retriever
from agents.roster import prompts_digest
from evaluation.config import run_command
from evaluation.dataset import Example
from evaluation.tracking import track
from training.clock import Clock
from training.gold import Gold
from training.lead import Untracked
from training.ppo import run
from training.ppo_config import PPOConfig
from training.rollout import World, record, run_options
from training.session import Session, begin
from training.tinymodel import TINY_PROMPTS, tiny_config, tiny_model, tiny_tokenizer
from training.tinystart import graph_over, tiny_graph, warm_start
from training.tinyworld import tiny_world

EXPERIMENT = "jade-faults"
"""MLflow experiment of tracked jobs."""
TRACES = 2
"""Runs of an iteration that a tracked job shows as traces."""
STARTING, RECORDING = "starting", "recording runs"
"""What a life does outside the stages that an iteration counts."""


@dataclass(frozen=True)
class Job:
    """One training run; plain values, so that it can be sent to a process."""

    output: str
    """Its folder."""
    start: str
    """Folder of the warm model."""
    questions: int
    """How many are asked in all, each once."""
    batch: int
    """Questions of one iteration; divides `questions`."""
    ledger: str | None = None
    """Replay these recorded runs; None = collect."""
    store: str | None = None
    """Address of the MLflow server that is told; None = nobody is."""
    log: str = ""
    """File for what a life says; "" = beside the folder. A full disk should not hold it."""

    @property
    def folder(self) -> Path:
        """Return its folder."""
        return Path(self.output)

    @property
    def stage(self) -> Path:
        """Return the file, beside the log, that says what its life was doing last."""
        return Path(self.log or f"{self.output}.log").with_suffix(".stage")

    @property
    def iterations(self) -> int:
        """Return how many iterations ask every question once."""
        return self.questions // self.batch


def examples_of(count: int) -> tuple[Example, ...]:
    """Return the first train questions of the tiny world."""
    return tiny_world().train[:count]


def warm(folder: str, steps: int, hidden: int) -> None:
    """Train a small model for some steps and save it; 0 steps leave it random, and its answers invalid."""
    torch.set_num_threads(1)
    if steps:
        scratch = Path(folder) / "scratch"
        made = warm_start(scratch, siblings=2, questions=60, steps=steps, rows=32, hidden=hidden, layers=2)
        module, tokenizer = made.module, made.tokenizer
    else:
        tokenizer = tiny_tokenizer(tiny_world())
        module = tiny_model(tiny_config(tokenizer, hidden, layers=2))
    module.save_pretrained(Path(folder) / "model")
    tokenizer.save_pretrained(Path(folder) / "model")


def load(start: str) -> SharedModel:
    """Load the warm model on one thread."""
    torch.set_num_threads(1)
    return SharedModel.load(start, dtype="fp32", device="cpu", threads=1, text_digest=prompts_digest(TINY_PROMPTS))


def options_of(job: Job) -> PPOConfig:
    """Return the options of a job; recorded runs are never too old for it, since age is not what is tested."""
    return PPOConfig(
        output=job.output, model=job.start, ledger=job.ledger, iterations=job.iterations, questions=job.batch, runs=1,
        max_depth=1, in_flight=16, rank=4, lora_alpha=8, first_layer=1, lr=1e-3, schedule="constant", warmup=0,
        estimator="tree_gae", critic_warmup=1, epochs=1, minibatches=2,
        target_kl=None, eval_every=0, traces=TRACES, decoding="free", max_versions=10_000, max_drift=1e6, threads=1,
        dtype="fp32", on_alarm="continue", keep_policies=2, experiment=EXPERIMENT,
    )  # fmt: skip


def session_of(job: Job) -> Session:
    """Begin the job, or take it up where its last life left it."""
    shared, examples = load(job.start), examples_of(job.questions)
    graph = tiny_graph(tiny_world(), shared, job.folder / "ledger")
    worlds = [] if job.ledger else [World("tiny", graph, examples, ())]
    return begin(options_of(job), shared, worlds, Gold(examples), TINY_PROMPTS.style)


class Watched(Clock):
    """A clock that leaves on disk which stage it counts, for whoever finds the process dead."""

    def __init__(self, file: Path) -> None:
        """Name the file."""
        super().__init__()
        self._file = file
        file.write_text(RECORDING)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what happens inside as one stage."""
        self._file.write_text(name)
        try:
            with super().stage(name):
                yield
        finally:
            self._file.write_text(RECORDING)


def train(job: Job) -> None:
    """Live one life of a job: to its end, or until something kills it. A user's error ends with status 2."""
    own(job)
    job.stage.write_text(STARTING)
    sys.exit(run_command(lambda: _train(job)))


def _train(job: Job) -> int:
    session = session_of(job)
    clock = Watched(job.stage)
    if job.store is None:
        return run(session, Untracked(), clock=clock)
    name, options = job.folder.name, {"output": job.output, "questions": job.questions}
    with track(EXPERIMENT, name, options, resume_run_id=session.state.mlflow_run) as tracked:
        return run(session, tracked, clock=clock)


def record_runs(job: Job, policy: Any, retriever: Retriever, in_flight: int) -> int:
    """Ask every question of a job once and seal what was recorded; return 0."""
    config, examples = options_of(job), examples_of(job.questions)
    graph = graph_over(retriever, policy, ledger_of(job).parent)
    amount = PPOConfig(questions=job.questions, runs=1, in_flight=in_flight, estimator="tree_gae")
    record(graph, policy, examples, ledger_of(job), amount, **run_options(config, 7))
    return 0


def ledger_of(job: Job) -> Path:
    """Return the file that `record_runs` seals."""
    return job.folder / "ledger" / "collected.jsonl"


def collect(job: Job, make: Callable[..., tuple[Any, Retriever]], arguments: tuple[Any, ...], in_flight: int) -> None:
    """Be a process that collects; `make` returns the policy and the retriever in question."""
    own(job)
    sys.exit(run_command(lambda: record_runs(job, *make(*arguments), in_flight)))


def home_of(job: Job) -> Path:
    """Return the home of a job's lives, where what cannot be tracked yet waits."""
    return job.folder.with_name(f"{job.folder.name}.home")


def own(job: Job) -> None:
    """Give this process a home and a log of its own, so that a failure can be read afterwards."""
    os.environ["JADE_HOME"] = str(home_of(job))
    if job.store is not None:
        os.environ["MLFLOW_TRACKING_URI"] = job.store
    stream = os.open(job.log or f"{job.output}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    os.close(stream)
