"""How well the trained adapter answers questions that it never learned from: greedily, unrecorded, by dataset."""

from __future__ import annotations

from evaluation.metrics import token_f1
from evaluation.statistics import interval
from graphs.collection import collect
from graphs.trajectory import FAILED, Trajectory
from training.rollout import World, run_options
from training.session import Session
from training.shares import everyones
from training.speaker import speaker


def evaluate(session: Session) -> dict[str, float]:
    """Answer held-out questions greedily with the trained adapter; failed runs score 0."""
    found: dict[str, float] = {}
    for world in session.worlds:
        if not world.dev:
            continue
        runs = greedy_runs(session, world)
        pairs = list(zip(runs, world.dev, strict=True))
        scores = [0.0 if item.outcome in FAILED else session.gold.score(item.answer, ex.answers) for item, ex in pairs]
        found[f"eval/{world.name}/score"] = sum(scores) / len(scores)
        f1 = interval([token_f1(item.answer, ex.answers) for item, ex in pairs])
        found[f"eval/{world.name}/f1"] = f1.mean
        found[f"eval/{world.name}/f1/low"], found[f"eval/{world.name}/f1/high"] = f1.low, f1.high
        found[f"eval/{world.name}/turns"] = sum(item.turns for item in runs) / len(runs)
        found[f"eval/{world.name}/retrievals"] = sum(len(item.retrievals) for item in runs) / len(runs)
    return found


def greedy_runs(session: Session, world: World) -> list[Trajectory]:
    """Return greedy runs of the held-out questions, unrecorded, in order; each rank makes its share."""
    ranks = session.ranks
    graph = world.graph.with_recorder(adapters=session.players.adapters())
    options = {**run_options(session.config, 0), "record": "off", "temperature": 0.0}
    questions = [{graph.recorder.input: example.question, "id": example.id} for example in world.dev]
    runs = collect(
        graph,
        questions,
        policy=speaker(session),
        in_flight=session.config.in_flight,
        share=(ranks.rank, ranks.size),
        **options,
    )
    places = [place for rank in range(ranks.size) for place in range(len(questions))[rank :: ranks.size]]
    return [run for _, run in sorted(zip(places, everyones(runs, ranks), strict=True), key=lambda pair: pair[0])]
