"""From options to what PPO works on: the model, the graphs with their questions, and the scores."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agents.adapters import read_adapter
from agents.batcher import TimedBatcher
from agents.errors import ConfigError
from agents.model import SharedModel
from agents.role import Prompts
from agents.roster import prompts_digest
from evaluation.dataset import Example, load_examples
from graphs.feedback import read_feedback
from graphs.jade import build_jade
from graphs.ledger import LedgerWriter
from graphs.recorded import RecordedGraph, trainable
from training.gold import Gold, load_object, load_score
from training.ppo_config import PPOConfig
from training.rollout import World

HELD_OUT = 10
"""Every so many-th question of the user's data is held out where no held-out file is given."""


def prompts_of(config: PPOConfig) -> Prompts:
    """Return the prompt set: the start adapter's, else the one with examples for an untuned model.

    Raises:
        ConfigError: The adapter folder cannot be read, or names a folder of prompts.
    """
    if config.adapter is None:
        return Prompts()
    style = read_adapter(Path(config.adapter).expanduser()).prompts
    if style not in ("bare", "examples"):
        raise ConfigError(f"adapter {config.adapter} was trained under prompt set {style!r}; allowed: bare, examples")
    return Prompts("bare" if style == "bare" else "examples")


def load_model(config: PPOConfig, prompts: Prompts) -> SharedModel:
    """Load the base model.

    Raises:
        ConfigError, SetupError: It cannot be loaded.
    """
    return SharedModel.load(
        config.model,
        dtype=config.dtype,
        device=config.device,
        threads=config.threads,
        text_digest=prompts_digest(prompts),
    )


def make_worlds(config: PPOConfig, shared: SharedModel, prompts: Prompts) -> list[World]:
    """Return the graphs with their questions: one per bundled set, or the user's own graph.

    Raises:
        ConfigError: Unknown sets, unreadable data, or something that is no graph.
        RetrieverError: An index is missing.
    """
    if config.graph is not None:
        graph = own_graph(config.graph, shared, prompts, Path(config.output))
        train, dev = own_questions(config) if config.data is not None else ([], [])
        return [World(config.graph.rpartition(":")[2], graph, train, dev)]
    from agents.retriever import open_retriever

    worlds = []
    for name in config.datasets:
        train = load_examples(name, "train")
        dev = load_examples(name, "dev", sample=config.eval_sample)
        if config.data is not None:
            train, dev = own_questions(config)
        retriever = open_retriever(name, k=config.top_k)
        graph = trainable(
            build_jade(retriever, max_depth=config.max_depth, top_k=config.top_k),
            policy=shared,
            prompts=prompts,
            retriever=retriever,
            ledger=LedgerWriter(Path(config.output) / "ledger"),
        )
        worlds.append(World(name, graph, train, dev))
    return worlds


def own_graph(spec: str, shared: SharedModel, prompts: Prompts, output: Path) -> RecordedGraph:
    """Return the user's graph, recorded and played by the shared model.

    Raises:
        ConfigError: The name cannot be imported, or is no graph.
    """
    found: Any = load_object(spec, "graph")
    if not hasattr(found, "invoke") and callable(found):
        takes = inspect.signature(found).parameters
        found = found(policy=shared) if "policy" in takes else found()
    if isinstance(found, RecordedGraph):
        return found.with_recorder(batcher=TimedBatcher(shared))
    return trainable(found, policy=shared, prompts=prompts, ledger=LedgerWriter(output / "ledger"))


def own_questions(config: PPOConfig) -> tuple[Sequence[Example], Sequence[Example]]:
    """Return train and held-out questions of the user's data.

    Raises:
        ConfigError: The file cannot be used, or is too small to hold anything out.
    """
    assert config.data is not None
    everything = load_examples(config.data, "train")
    if config.eval_data is not None:
        return everything, load_examples(config.eval_data, "dev", sample=config.eval_sample)
    if len(everything) < HELD_OUT:
        return everything, []
    dev = everything[::HELD_OUT]
    return [example for place, example in enumerate(everything) if place % HELD_OUT], dev[: config.eval_sample]


def make_gold(config: PPOConfig, worlds: Sequence[World]) -> Gold:
    """Return the scores: gold answers of the questions in use, the score function, and people's feedback.

    Raises:
        ConfigError: The answers or the score function cannot be used.
        LedgerError: No ledger at the path.
    """
    score = load_score(config.score)
    examples: list[Example] = [example for world in worlds for example in world.train]
    feedback: dict[str, float] = {}
    if config.answers is not None:
        examples = load_examples(config.answers, "train")
    elif config.ledger is not None and not examples:
        examples = [row for name in config.datasets for row in load_examples(name, "train")]
    if config.ledger is not None:
        path = Path(config.ledger).expanduser()
        feedback = read_feedback(path.parent if path.is_file() else path)
    return Gold(examples, score, feedback)
