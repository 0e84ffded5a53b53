"""Training runs of a real model as arms: each is trained once by `training.ppo`, then all are asked side by side.

Both kinds of arm log MLflow runs of their own, with all that a training run or an evaluation logs; these become the
children of the experiment's run. Interrupted ones go on where they stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from agents.adapters import adapter_folder, content_hash, read_adapter
from agents.errors import ConfigError
from evaluation.evaluate import check, gather, publish
from evaluation.evaluate_config import EvalConfig
from evaluation.loading import load_model, open_retrievers
from evaluation.macro import macro_compare, macro_interval
from evaluation.report_markdown import change, detectable, p_value, summary, table, with_interval
from evaluation.statistics import corrected
from experiments.arms import Arm, Row
from training.checkpoint import find_checkpoint, read_state
from training.history import read_metrics
from training.ppo import train
from training.ppo_config import PPOConfig

if TYPE_CHECKING:
    from agents.passage import Retriever
    from evaluation.bench import Base
    from evaluation.readiness import Asked
    from evaluation.systems import System

COMPARISON = "comparison"
"""Name of the arm that asks what the others trained."""
CURVE = ("rollout/reward", "rollout/score", "rollout/turns", "rollout/retrievals", "update/kl", "update/entropy")
"""Metrics of each iteration that a row keeps."""
Sets = Sequence[npt.NDArray[np.float64]]
"""For each set of questions, one score a question."""
_MACHINE = ("output", "threads", "device", "in_flight", "experiment")
_LOOKS = (
    *_MACHINE, "parent", "resume", "iterations", "token_budget", "gradient_checkpointing", "traces", "eval_every",
    "eval_sample", "interference_rows", "keep_policies",
)  # fmt: skip
"""Options of a training run that change nothing of what is learned, or that each arm is told by itself."""


def setting_of(options: PPOConfig) -> dict[str, Any]:
    """Return the options that make one training run another one, and what the start adapter holds.

    Raises:
        ConfigError: There is no such adapter.
    """
    held = {} if options.adapter is None else {"adapter_content": content_hash(adapter_folder(options.adapter))}
    return {**_learned_from(options), **held}


def _learned_from(options: PPOConfig) -> dict[str, Any]:
    told = {item.name: getattr(options, item.name) for item in fields(PPOConfig)}
    return {name: value for name, value in told.items() if name not in _LOOKS}


def finished(options: PPOConfig) -> bool:
    """Return whether a training run has done all its iterations and left the adapter of the last one."""
    folder = Path(options.output)
    checkpoint = find_checkpoint(folder)
    if checkpoint is None:
        return False
    state = read_state(checkpoint)
    try:
        left = read_adapter(folder / "adapter").version
    except ConfigError:  # none, or half of one
        return False
    return state.iteration >= options.iterations and left == state.version


def taught(options: PPOConfig, teach: Callable[[PPOConfig], int] = train) -> dict[str, Any]:
    """Train unless that is done, and return the row: MLflow run, policy version, and the curve of the training.

    Args:
        options: Of `python -m training.ppo`.
        teach: Trains; returns the exit status.

    Raises:
        ConfigError: The training stopped before its last iteration, or its folder was trained with other options.
        JadeError: As `training.ppo.train`.
    """
    _check_same(options)
    if not finished(options) and ((status := teach(options)) or not finished(options)):
        why = "an alarm stopped it" if status else "it stopped before its last iteration"
        raise ConfigError(f"{options.output}: {why}; the same command goes on with it")
    folder = Path(options.output)
    state = read_state(find_checkpoint(folder) or folder)
    curve = [
        (step, {name: metrics[name] for name in CURVE if name in metrics})
        for step, metrics in read_metrics(folder)
        if "rollout/reward" in metrics
    ]
    return {"run": state.mlflow_run, "version": state.version, "curve": curve}


def _check_same(options: PPOConfig) -> None:
    """Refuse to take, or to go on with, what was begun with other options or trained for longer."""
    folder = Path(options.output)
    checkpoint = find_checkpoint(folder)
    if checkpoint is None:
        return
    state, now = read_state(checkpoint), _learned_from(options)
    saved = state.config
    changed = [f"{name}: {saved[name]!r} → {value!r}" for name, value in now.items() if saved.get(name, value) != value]
    if changed:
        raise ConfigError(
            f"{folder} was trained with other options ({'; '.join(changed)}); use them, or another output"
        )
    if options.adapter is not None and state.start_policy != content_hash(adapter_folder(options.adapter)):
        raise ConfigError(
            f"{folder} began with what {options.adapter} held before it was trained again; put that adapter back, or "
            "give another output"
        )
    if state.iteration > options.iterations:
        raise ConfigError(
            f"{folder} was trained for {state.iteration} iterations, more than iterations={options.iterations}; "
            "ask for as many, or give another output"
        )


def comparison_arm(config: EvalConfig, trained: Sequence[Row]) -> Arm:
    """Return the arm that asks, once everything is trained; more training makes another one of it.

    Args:
        config: Who is asked what.
        trained: The rows of what was trained.
    """
    told = {name: value for name, value in asdict(config).items() if name not in _MACHINE}
    return Arm(COMPARISON, config.seed, {**told, "trained": [row["key"] for row in trained]})


def asked(config: EvalConfig, metric: str) -> dict[str, Any]:
    """Load the model, ask all systems, and return the row; see `measure`.

    Raises:
        JadeError: A model, an adapter, a set or an index cannot be used.
    """
    systems, sets = check(config)
    retrievers = open_retrievers(config, sets)  # before the model: a wrong embedder is told at once
    return measure(config, systems, sets, load_model(config), retrievers, metric)


def measure(
    config: EvalConfig,
    systems: Sequence[System],
    sets: Sequence[Asked],
    shared: Base,
    retrievers: Mapping[str, Retriever],
    metric: str,
) -> dict[str, Any]:
    """Ask all systems what has no record yet, and return the row.

    It holds the MLflow run of the evaluation, "scores" (system → for each set the metric of every question),
    "answers" (likewise, of the first seed) and the evaluation's "summary".
    """
    found = gather(config, systems, sets, shared, retrievers)
    assert found is not None  # one process
    blocks, report = found
    scores: dict[str, list[list[float]]] = {}
    answers: dict[str, list[list[str]]] = {}
    for block in blocks:
        scores.setdefault(block.system, []).append([float(value) for value in block.values(metric)])
        answers.setdefault(block.system, []).append([runs[0].answer for runs in block.records])
    return {"run": publish(config, report), "scores": scores, "answers": answers, "summary": summary(report)}


def split_rows(rows: Sequence[Row]) -> tuple[list[Row], Row | None]:
    """Return the rows of what was trained, and that of the comparison if there is one."""
    trained = [row for row in rows if row["arm"] != COMPARISON]
    return trained, next((row for row in rows if row["arm"] == COMPARISON), None)


def sets_of(comparison: Row, system: str) -> list[npt.NDArray[np.float64]]:
    """Return a system's scores, for each set one a question."""
    return [np.array(scores, dtype=np.float64) for scores in comparison["scores"][system]]


def shown_interval(sets: Sets) -> str:
    """Show a mean over sets with its 95 % interval."""
    found = macro_interval(sets)
    return with_interval(found.mean, found.low, found.high)


def difference_table(what: str, metric: str, pairs: Mapping[str, tuple[Sets, Sets]]) -> str:
    """Return a Markdown table of differences, paired by question, with Holm's correction over its lines.

    Args:
        what: Head of the first column.
        metric: What is compared.
        pairs: Line → scores, and the scores that they are compared with; empty: no table.
    """
    items = corrected([macro_compare(mine, theirs) for mine, theirs in pairs.values()])
    lines = [
        [name, f"{item.baseline:.3f}", f"{item.mean:.3f}",
         change(item.difference, item.low, item.high),
         detectable(item.detectable), p_value(item.p_corrected), item.verdict]
        for name, item in zip(pairs, items, strict=True)
    ]  # fmt: skip
    head = [what, f"{metric} from", "to", f"Δ{metric} (95 %)", "detectable", "p (Holm)", "verdict"]
    return table(head, lines) if lines else ""
