"""From options to what PPO works on: the model, the graphs with their questions, and the scores."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agents.adapters import read_adapter, read_merged
from agents.batcher import TimedBatcher
from agents.call import Policy
from agents.errors import ConfigError
from agents.model import SharedModel
from agents.named import load_object
from agents.role import Prompts
from agents.roster import prompts_digest
from evaluation.dataset import Example, load_examples
from evaluation.systems import make_graph
from graphs.feedback import read_feedback
from graphs.jade import build_jade
from graphs.ledger import LedgerWriter
from graphs.recorded import RecordedGraph, trainable
from training.gold import Gold, load_score
from training.ppo_config import PPOConfig
from training.rollout import World

HELD_OUT = 10
"""Every so many-th question of the user's data is held out where no held-out file is given."""


def prompts_of(config: PPOConfig) -> Prompts:
    """Return the prompt set: the start adapter's, else an exported model's, else the one with examples.

    Raises:
        ConfigError: The adapter folder cannot be read, or adapter or model names a folder of prompts.
    """
    if config.adapter is not None:
        style, who = read_adapter(Path(config.adapter).expanduser()).prompts, f"adapter {config.adapter}"
    else:
        merged = None if config.model is None else read_merged(config.model)
        style, who = "examples" if merged is None else merged.prompts, f"model {config.model}"
    if style not in ("bare", "examples"):
        raise ConfigError(f"{who} was trained under prompt set {style!r}; allowed: bare, examples")
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


Questions = tuple[str, Sequence[Example], Sequence[Example]]
"""Name of a set, its train questions, its held-out questions."""


def read_questions(config: PPOConfig) -> list[Questions]:
    """Return what is asked, before any model is loaded: each bundled set, or the user's data.

    Raises:
        ConfigError: Unknown sets, unreadable data, or a graph of one's own that cannot be used or is asked nothing.
    """
    if config.graph is not None and (config.data is not None or config.ledger is not None):
        named_graph(config.graph)
        train, dev = own_questions(config) if config.data is not None else ([], [])
        return [(config.graph.rpartition(":")[2], train, dev)]
    if config.graph is not None and not takes_retriever(config.graph):
        raise ConfigError(
            f"graph {config.graph} is given without questions; give data (or a ledger to replay) as well, or make it a "
            "function with a parameter `retriever`: it is then trained on the bundled datasets"
        )
    if config.data is not None:
        train, dev = own_questions(config)
        return [(name, train, dev) for name in config.datasets]
    found: list[Questions] = []
    for name in config.datasets:
        found.append((name, load_examples(name, "train"), load_examples(name, "dev", sample=config.eval_sample)))
    return found


def make_worlds(
    config: PPOConfig, shared: Policy, prompts: Prompts, questions: Sequence[Questions] | None = None
) -> list[World]:
    """Return the graphs with their questions: one per bundled set, or the user's own graph.

    Args:
        config: Sets, graph and budgets.
        shared: Who plays all roles.
        prompts: The prompt set.
        questions: As `read_questions` returned them; None = read now.

    Raises:
        ConfigError: Unknown sets, unreadable data, or something that is no graph.
        RetrieverError: An index is missing.
    """
    from agents.retriever import open_retriever

    worlds, output = [], Path(config.output)
    for name, train, dev in read_questions(config) if questions is None else questions:
        if config.graph is not None and (config.data is not None or config.ledger is not None):
            worlds.append(World(name, own_graph(config.graph, shared, prompts, output), train, dev))
            continue
        retriever = open_retriever(name, k=config.top_k)
        if config.graph is not None:
            offered = {"retriever": retriever, "top_k": config.top_k}
            worlds.append(World(name, own_graph(config.graph, shared, prompts, output, offered), train, dev))
            continue
        graph = trainable(
            build_jade(retriever, max_depth=config.depth, top_k=config.top_k),
            policy=shared,
            prompts=prompts,
            retriever=retriever,
            ledger=LedgerWriter(output / "ledger"),
        )
        worlds.append(World(name, graph, train, dev))
    return worlds


def named_graph(spec: str) -> Any:
    """Return the graph that "module:name" names, or the function that makes it.

    Raises:
        ConfigError: It cannot be imported, or is neither.
    """
    found = load_object(spec, "graph")
    if not hasattr(found, "invoke") and not callable(found):
        raise ConfigError(
            f"graph={spec!r} is {type(found).__name__}; name a compiled graph, or a function that makes one"
        )
    return found


def takes_retriever(spec: str) -> bool:
    """Return whether "module:name" is a function that makes its graph over a retriever it is given.

    Raises:
        ConfigError: It cannot be imported, or is no graph.
    """
    found = named_graph(spec)
    return not hasattr(found, "invoke") and callable(found) and "retriever" in inspect.signature(found).parameters


def own_graph(
    spec: str, shared: Policy, prompts: Prompts, output: Path, offered: Mapping[str, Any] | None = None
) -> RecordedGraph:
    """Return the user's graph, recorded and played by the shared model.

    Args:
        spec: "module:name" of a compiled graph, a recorded one, or a function making one.
        shared: Who plays its roles; handed to a function that takes a `policy`.
        prompts: The prompt set.
        output: Where its ledger goes.
        offered: Further arguments by name, for a function that takes them, such as `retriever` and `top_k`.

    Raises:
        ConfigError: The name cannot be imported, is no graph, or a function that wants other arguments.
    """
    known = {"policy": shared, **(offered or {})}
    found = make_graph(spec, named_graph(spec), known)
    if isinstance(found, RecordedGraph):
        return found.with_recorder(batcher=TimedBatcher(shared))
    ledger = LedgerWriter(output / "ledger")
    return trainable(found, policy=shared, prompts=prompts, retriever=known.get("retriever"), ledger=ledger)


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


def make_gold(config: PPOConfig, questions: Sequence[Questions]) -> Gold:
    """Return the scores: gold answers of the questions in use, the score function, and people's feedback.

    Args:
        config: Names the score function, the ledger and its answers.
        questions: As `read_questions` returned them.

    Raises:
        ConfigError: The answers or the score function cannot be used.
        LedgerError: No ledger at the path.
    """
    score = load_score(config.score)
    examples: list[Example] = [example for _, train, _ in questions for example in train]
    feedback: dict[str, float] = {}
    if config.answers is not None:
        examples = load_examples(config.answers, "train")
    elif config.ledger is not None and not examples:
        examples = [row for name in config.datasets for row in load_examples(name, "train")]
    if config.ledger is not None:
        path = Path(config.ledger).expanduser()
        feedback = read_feedback(path.parent if path.is_file() else path)
    return Gold(examples, score, feedback)
