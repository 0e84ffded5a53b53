"""What a policy does on the held-out questions of the tiny world: greedily, and at τ = 1.

Regret is that of the chosen plans against the best one, both in the oracle's hands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agents.workflow import BY_TEXT, Topology
from evaluation.metrics import token_f1
from graphs.collection import collect
from graphs.trajectory import Trajectory
from training import tinyworld
from training.rollout import run_options
from training.session import Session
from training.tinyoracle import regret


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
    turns: float
    """Mean a question, greedy; likewise the next two."""
    retrievals: float
    single: float
    """Share of questions whose plan is a single round."""
    scores: tuple[float, ...] = ()
    """Greedy F1 of each held-out question."""
    turns_by_question: tuple[float, ...] = ()
    """Greedy, as `scores`; empty in rows that were written before it was kept, and so is the next."""
    retrievals_by_question: tuple[float, ...] = ()
    sampled_scores: tuple[float, ...] = ()
    """At τ = 1, as the next two; empty in older rows."""
    sampled_turns_by_question: tuple[float, ...] = ()
    sampled_retrievals_by_question: tuple[float, ...] = ()


def measure(session: Session, world: tinyworld.World) -> Measure:
    """Measure the trained adapter on the held-out questions of a world, greedily and at τ = 1."""
    greedy, sampled = (_held_out(session, temperature) for temperature in (0.0, 1.0))
    f1 = [[token_f1(run.answer, item.answers) for run, item in zip(runs, world.dev, strict=True)]
          for runs in (greedy, sampled)]  # fmt: skip
    (turns, retrievals), (sampled_turns, sampled_retrievals) = (_costs(runs) for runs in (greedy, sampled))
    lost = [[regret(world, run.question, run.workflow or {"plan": "AG"}) for run in runs] for runs in (greedy, sampled)]
    return Measure(
        f1=mean(f1[0]),
        regret=mean(lost[0]),
        sampled_f1=mean(f1[1]),
        sampled_regret=mean(lost[1]),
        turns=mean(turns),
        retrievals=mean(retrievals),
        single=mean([_single_round(run) for run in greedy]),
        scores=tuple(f1[0]),
        turns_by_question=turns,
        retrievals_by_question=retrievals,
        sampled_scores=tuple(f1[1]),
        sampled_turns_by_question=sampled_turns,
        sampled_retrievals_by_question=sampled_retrievals,
    )


def _costs(runs: Sequence[Trajectory]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return turns and retrievals of each run."""
    return tuple(float(run.turns) for run in runs), tuple(float(len(run.retrievals)) for run in runs)


def mean(values: Sequence[float]) -> float:
    """Return the mean of at least one number."""
    return sum(values) / len(values)


def _single_round(run: Trajectory) -> bool:
    return BY_TEXT[str((run.workflow or {"plan": "AG"})["plan"])].topology is Topology.SINGLE_ROUND


def _held_out(session: Session, temperature: float) -> list[Trajectory]:
    world = session.worlds[0]
    graph = world.graph.with_recorder(adapters=session.players.adapters())
    options = {**run_options(session.config, 12345), "record": "off", "temperature": temperature}
    questions = [{"question": example.question, "id": example.id} for example in world.dev]
    return collect(graph, questions, policy=session.players.shared, in_flight=128, **options)
