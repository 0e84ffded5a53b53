"""The model server: killed and started again, stalled, and away for longer than anybody waits, while it is asked."""

from __future__ import annotations

import random
from collections.abc import Iterator
from multiprocessing.context import ForkServerProcess
from typing import Any

from agents.passage import Retriever
from agents.remote import RemotePolicy
from agents.roster import prompts_digest
from faults.collected import Scene, now_and_then, outages, through
from faults.model_server import ModelServer
from faults.rows import Plan, Row
from faults.running import running
from training.tinymodel import TINY_PROMPTS
from training.tinyworld import TinyRetriever, tiny_world

PACE = 0.002
"""Seconds between two tokens, so that most answers are on their way when a fault comes."""
SHORT = 0.5
"""Patience of a client that gives up, in seconds."""


def remote(address: str, model: str, patience: float) -> tuple[Any, Retriever]:
    """Return a policy that asks a server, and the tiny world's retriever."""
    policy = RemotePolicy(
        address, model, dialect="llama.cpp", text_digest=prompts_digest(TINY_PROMPTS), patience_seconds=patience
    )
    return policy, TinyRetriever(tiny_world())


def run(plan: Plan) -> Iterator[Row]:
    """Kill, stall and remove the server while all questions are asked through it."""
    server, draw = ModelServer(plan.start, PACE), random.Random(plan.seed)
    killed, _ = outages(plan, server.kill, server.start, (0.0, 0.5))
    away, _ = outages(plan, server.kill, server.start, (3 * SHORT, 4 * SHORT))

    def stalled(process: ForkServerProcess) -> int:
        return now_and_then(process, plan, lambda: server.stall(draw.uniform(0.1, 1.5)))

    patient, hasty = (server.address, plan.start, 60.0), (server.address, plan.start, SHORT)
    scenes = {
        "model-killed": Scene("the model server", "kill -9, started again within 0.5 s", remote, patient, killed),
        "model-stalled": Scene("the model server", "stopped for 0.1 to 1.5 s", remote, patient, stalled),
        "model-away": Scene("the model server", f"away 3 to 4 times as long as the client waits ({SHORT} s)", remote,
                            hasty, away, after=0.25),
    }  # fmt: skip
    with running(server):
        for name, scene in scenes.items():
            yield through(plan, name, scene)
