"""A ledger that a serving process recorded, run by run and without question ids, is learned from like any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.role import Prompts
from agents.roster import prompts_digest
from graphs.jade import build_jade
from graphs.ledger import LedgerWriter
from graphs.options import Options
from graphs.recorded import trainable
from tests.ppo_toy import EXAMPLES, start_adapter, toy_session
from tests.scripted import PASSAGES, ListRetriever
from tests.test_ppo import Notes
from tests.toy_model import toy_model
from training.ppo import run


def test_runs_of_a_serving_process_are_learned_from(tmp_path: Path) -> None:
    start = start_adapter(tmp_path / "start")
    served, prompts = toy_model(text_digest=prompts_digest(Prompts("bare"))), Prompts("bare")
    served.add_adapter("default", start)
    served.adapter = "default"
    retriever = ListRetriever(PASSAGES)
    graph = trainable(
        build_jade(retriever, max_depth=1, top_k=2), policy=served, prompts=prompts, adapters={"*": "default"},
        retriever=retriever, ledger=LedgerWriter(tmp_path / "served"), defaults=Options(max_new_tokens=10),
    )  # fmt: skip
    for place, example in enumerate(EXAMPLES[:4]):
        graph.invoke(example.question, record="train", seed=place)
    session = toy_session(
        tmp_path / "run", start=start, ledger=str(tmp_path / "served"), iterations=1, questions=2, runs=2
    )
    notes = Notes()
    assert run(session, notes) == 0  # type: ignore[arg-type]
    ((_, metrics),) = notes.metrics
    assert metrics["rollout/trajectories"] == 4 and metrics["replay/parity_mean"] < 1e-4
    assert not [name for name in metrics if name.startswith(("rollout/dropped/", "replay/refused/"))]
    assert metrics["replay/staleness"] == pytest.approx(0, abs=1e-4) and metrics["update/rows"] > 4
