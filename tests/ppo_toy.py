"""A PPO session on the toy model: JADE's real graph, real sampling, a handful of questions, in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from agents.role import Prompts
from agents.roster import prompts_digest
from evaluation.dataset import Example
from evaluation.ranks import ALONE, Ranks
from graphs.jade import build_jade
from graphs.ledger import LedgerWriter
from graphs.options import Options
from graphs.recorded import trainable
from tests.scripted import PASSAGES, ListRetriever
from tests.toy_model import toy_model
from training.adapter import LoraShape, create_adapter, save_adapter
from training.gold import Gold
from training.ppo_config import PPOConfig
from training.rollout import Rollout, World, gather, prepare
from training.session import Session, begin
from training.update import start_critic

EXAMPLES = tuple(
    Example(id=f"q{number}", question=f"Who wrote the book {word}?", answers=(answer,))
    for number, (word, answer) in enumerate(
        [("Dune", "Herbert"), ("Emma", "Austen"), ("Ulysses", "Joyce"), ("Faust", "Goethe"), ("Iliad", "Homer")]
    )
)


def graded(answer: str, golds: tuple[str, ...]) -> float:
    """Score what a random model can vary: the share of vowels in its answer."""
    letters = [letter for letter in answer.lower() if letter.isalpha()]
    return sum(letter in "aeiou" for letter in letters) / len(letters) if letters else 0.0


def toy_config(folder: Path, **changes: Any) -> PPOConfig:
    fields: dict[str, Any] = {
        "output": str(folder), "iterations": 2, "questions": 3, "runs": 2, "rank": 4, "lora_alpha": 8, "lr": 2e-3,
        "first_layer": 1, "critic_warmup": 0, "epochs": 2, "minibatches": 2, "target_kl": None, "eval_every": 0,
        "traces": 0, "threads": 1, "decoding": "free", "temperature": 1.0, "max_depth": 1, "estimator": "tree_gae",
        "schedule": "constant", "warmup": 0, "kl": 0.02,
    }  # fmt: skip
    return PPOConfig(**{**fields, **changes})


def toy_session(folder: Path, *, start: Path | None = None, ranks: Ranks = ALONE, **changes: Any) -> Session:
    """Begin (or resume) a session whose model is made anew, as in a fresh process."""
    torch.set_num_threads(1)
    prompts = Prompts("bare")
    shared = toy_model(text_digest=prompts_digest(prompts))
    retriever = ListRetriever(PASSAGES)
    graph = trainable(
        build_jade(retriever, max_depth=1, top_k=2), policy=shared, prompts=prompts, retriever=retriever,
        ledger=LedgerWriter(folder / "ledger"), defaults=Options(max_new_tokens=10),
    )  # fmt: skip
    world = World("toy", graph, EXAMPLES, EXAMPLES[:2])
    config = toy_config(folder, adapter=None if start is None else str(start), **changes)
    return begin(config, shared, [world], Gold(EXAMPLES, graded), "bare", ranks)


def start_adapter(folder: Path, seed: int = 5) -> Path:
    """Write an adapter that changes the toy model, as a warm start would have left it."""
    prompts = Prompts("bare")
    shared = toy_model(text_digest=prompts_digest(prompts))
    create_adapter(shared, LoraShape(4, 8, 1), seed, "start")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(shared.adapter_set.parameters("start").items()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    from agents.adapters import AdapterInfo

    info = AdapterInfo(shared.identity["text"], shared.name, shared.weights, "bare")
    save_adapter(shared, "start", folder, info)
    return folder


def rolled(session: Session) -> Rollout:
    """Collect, score and screen the first batch."""
    runs = gather(session.worlds[0], session.players, session.config, 0, 0)
    rollout = prepare(runs, session.players, session.store, session.gold, session.config, version=0)
    start_critic(session.players, rollout.buffer, rollout.team, rollout.scored)
    return rollout
