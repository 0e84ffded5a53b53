"""Runs that were recorded over an inference server, judged by the trainer that learns from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.role import Prompts
from agents.roster import prompts_digest
from graphs.ledger import read_ledger
from tests import remote_asking
from tests.ppo_toy import EXAMPLES, toy_session
from tests.remote_asking import DIALECTS, policy_at
from tests.remote_toy import toy_server
from tests.toy_model import toy_model
from training.rollout import record, run_options
from training.screening import Screened, limits_of, screen
from training.session import Session

served = remote_asking.served  # its fixture


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_mismatch_of_recorded_runs_against_the_trainer_is_a_metric(dialect, tmp_path, served):
    session = toy_session(tmp_path / "ours")
    found = screened(session, served[1], dialect, tmp_path)
    assert 0.0 < found.metrics["replay/parity_mean"] < 1e-5
    assert found.metrics["replay/parity_call"] < 1e-3
    assert not found.dropped.counts
    assert {run.identity["logprobs"] for run in found.buffer.trajectories} == {"exact"}
    assert len(found.buffer.trajectories) == 6


def test_a_server_that_runs_other_weights_is_found_out(tmp_path):
    session = toy_session(tmp_path / "ours")
    with toy_server(model=toy_model(seed=9)) as (_, address):
        found = screened(session, address, "llama.cpp", tmp_path)
    assert found.metrics["replay/parity_mean"] > 0.1
    assert found.dropped.counts == {"parity-mean": 6}


def screened(session: Session, address: str, dialect: str, folder: Path) -> Screened:
    """Record three questions, twice each, over a server, by the base, and let the trainer judge them."""
    policy = policy_at(address, dialect, text_digest=prompts_digest(Prompts("bare")))
    graph, file = session.worlds[0].graph.with_recorder(adapters={}), folder / "remote.jsonl"
    record(graph, policy, EXAMPLES[:3], file, session.config, **{**run_options(session.config, 7), "seed": 7})
    runs = list(read_ledger(file))
    limits = limits_of(session.players, None, None, 4, 0.3)
    return screen(session.players, session.store, runs, version=0, limits=limits, token_budget=4096)
