"""Warm start in the tiny world: a small random model learns to read and write all roles' formats from an oracle.

All parameters are trained (a random base has nothing worth freezing), on recorded executions of an oracle in sibling
worlds: same words, other facts. Executors learn from runs with the best and with random plans, the planner from random
plans alone. What comes out is a mediocre policy: executors that read fairly well, and a planner that knows the plans
but not when to use which. That is PPO's to find.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from agents.call import Call
from agents.model import SharedModel
from agents.passage import Retriever
from agents.planner import PLANNER
from agents.roster import prompts_digest
from graphs.collection import collect
from graphs.jade import build_jade
from graphs.ledger import LedgerWriter
from graphs.recorded import RecordedGraph, trainable
from training.tinymodel import TINY_PROMPTS, tiny_config, tiny_model, tiny_tokenizer
from training.tinyoracle import TOP_K, OraclePolicy
from training.tinyworld import TinyRetriever, World, tiny_world

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

HARD = {"answer_generator": 4.0, "answer_summariser": 3.0}
"""Roles that must read get this many times the draws of others."""


SHARES = {"QDS": 0.25, "QDP": 0.25, "chain": 0.5}
"""Share of the planner's draws; most chains are those of hops, which have no other choice."""


@dataclass(frozen=True)
class Start:
    """A warm-started model; `policy` gives each experiment its own copy."""

    world: World
    tokenizer: Any
    module: LlamaForCausalLM
    losses: tuple[float, ...]
    """Mean −log π of the response tokens of each step's batch, in nats a token."""

    def policy(self) -> SharedModel:
        """Return a shared model around a copy of the weights."""
        module = tiny_model(self.module.config)
        module.load_state_dict(self.module.state_dict())
        return SharedModel(module, self.tokenizer, name="tiny", text_digest=prompts_digest(TINY_PROMPTS), rows=64)


def tiny_graph(world: World, policy: Any, folder: Path) -> RecordedGraph:
    """Return JADE's real graph over a world's retriever; hops are chains."""
    return graph_over(TinyRetriever(world), policy, folder)


def graph_over(retriever: Retriever, policy: Any, folder: Path) -> RecordedGraph:
    """Return the same graph over any retriever of a tiny world's passages."""
    return trainable(
        build_jade(retriever, max_depth=1, top_k=TOP_K),
        policy=policy,
        prompts=TINY_PROMPTS,
        retriever=retriever,
        ledger=LedgerWriter(folder),
    )


def oracle_calls(
    world: World, tokenizer: Any, siblings: int, questions: int, folder: Path, select: str = "role"
) -> list[Call]:
    """Return distinct calls of the oracle in sibling worlds.

    In every other one the planner is the best one, whose calls are left out.

    Args:
        world: Whose siblings (other facts, same words) are played in.
        tokenizer: Of the model that will learn.
        siblings: How many of them.
        questions: Train questions of each.
        folder: Where a ledger would go; nothing is recorded.
        select: What the roles see: "role" or "full".
    """
    distinct: dict[tuple[tuple[int, ...], tuple[int, ...]], Call] = {}
    for facts in range(1, siblings + 1):
        sibling = tiny_world(world.seed, facts)
        planner: Literal["best", "uniform"] = "uniform" if facts % 2 else "best"
        graph = tiny_graph(sibling, OraclePolicy(tokenizer, planner, seed=facts), folder)
        order = np.random.default_rng([world.seed, facts]).permutation(len(sibling.train))[:questions]
        texts = [sibling.train[int(place)].question for place in order]
        for run in collect(graph, texts, record="off", temperature=1.0, select=select):
            kept = [call for call in run.calls if planner == "uniform" or call.role != PLANNER.name]
            distinct |= {(call.prompt_ids, call.response_ids): call for call in kept}
    return list(distinct.values())


def warm_start(
    folder: Path,
    *,
    seed: int = 0,
    siblings: int = 8,
    questions: int = 120,
    steps: int = 450,
    rows: int = 48,
    lr: float = 2e-3,
    hidden: int = 128,
    layers: int = 3,
    select: str = "role",
) -> Start:
    """Train a small random Llama on oracle calls, all parameters, half-cosine schedule.

    Args:
        folder: For scratch.
        seed: Key of weights and batches; the world is always the same.
        siblings: Worlds whose oracle runs are learned from.
        questions: Runs in each.
        steps: Optimiser steps; fewer leave a worse reader.
        rows: Calls of one step.
        lr: Peak learning rate.
        hidden: Width of the model.
        layers: Its depth.
        select: What the roles see, here and in the training that follows: "role" or "full".
    """
    world = tiny_world()
    tokenizer = tiny_tokenizer(world)
    calls = oracle_calls(world, tokenizer, siblings, questions, folder, select)
    module = tiny_model(tiny_config(tokenizer, hidden, layers), seed)
    optimizer = torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=0.01, betas=(0.9, 0.98))
    generator, odds = np.random.default_rng(seed), _odds(calls)
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 30) * (0.05 + 0.95 * 0.5 * (1 + np.cos(np.pi * step / steps)))
        chosen = [calls[int(place)] for place in generator.choice(len(calls), size=rows, p=odds)]
        loss = _loss(module, chosen)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    return Start(world, tokenizer, module, tuple(losses))


def _odds(calls: Sequence[Call]) -> Any:
    """Return the probability of drawing each call: roles by the root of their number, hard ones more.

    The planner's calls are balanced by topology, so that it proposes decompositions as often as chains.
    """
    kinds = [_kind(call) for call in calls]
    roles = {role: sum(call.role == role for call in calls) for role in {call.role for call in calls}}
    counts = {kind: kinds.count(kind) for kind in set(kinds)}
    weights = np.array(
        [
            HARD.get(call.role, 1.0) * SHARES.get(kind, 1.0) * np.sqrt(roles[call.role]) / counts[kind]
            for call, kind in zip(calls, kinds, strict=True)
        ]
    )
    return weights / weights.sum()


def _kind(call: Call) -> str:
    if call.role != PLANNER.name:
        return call.role
    return next((kind for kind in ("QDS", "QDP") if kind in call.text), "chain")


def _loss(module: Any, calls: Sequence[Call]) -> Any:
    """Return the mean −log π of the response tokens."""
    width = max(len(call.prompt_ids) + len(call.response_ids) for call in calls)
    ids = torch.zeros(len(calls), width, dtype=torch.long)
    target = torch.zeros(len(calls), width, dtype=torch.bool)
    for place, call in enumerate(calls):
        size = len(call.prompt_ids) + len(call.response_ids)
        ids[place, :size] = torch.tensor(call.prompt_ids + call.response_ids)
        target[place, len(call.prompt_ids) : size] = True
    hidden = module.model(ids).last_hidden_state[:, :-1]
    wanted = target[:, 1:]
    return torch.nn.functional.cross_entropy(module.lm_head(hidden[wanted]), ids[:, 1:][wanted])
