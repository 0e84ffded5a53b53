"""Runs that were recorded over an inference server, judged by the trainer that learns from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agents.errors import ConfigError
from agents.role import Prompts
from agents.roster import prompts_digest
from graphs.ledger import read_ledger
from tests import remote_asking
from tests.ppo_toy import EXAMPLES, start_adapter, toy_session
from tests.remote_asking import DIALECTS, policy_at
from tests.remote_toy import toy_server
from tests.toy_model import toy_model, toy_module, toy_tokenizer
from training.collect import CollectConfig, collect
from training.heldout import evaluate
from training.history import read_metrics
from training.lead import Untracked
from training.ppo import run
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


def test_ppo_samples_on_the_server_and_hands_it_every_new_adapter(tmp_path: Path) -> None:
    with toy_server() as (toy, address):
        session = toy_session(
            tmp_path / "run", start=start_adapter(tmp_path / "start"), server=address, train="planner"
        )
        assert run(session, Untracked()) == 0
        speakers = {str(body["model"]) for body in toy.asked} - {"toy"}
        trained = sorted(name for name in speakers if name.startswith("trained-"))
        assert len(trained) == 2 and len(speakers - set(trained)) == 1  # one a version, and the frozen start adapter
        assert len([name for name in toy.model.adapters if name.startswith("trained-")]) == 1  # the older one is gone
    for _, metrics in read_metrics(tmp_path / "run"):
        assert metrics["replay/parity_mean"] < 1e-5 and not [name for name in metrics if "/dropped/" in name]
    files = sorted((tmp_path / "run" / "ledger").glob("iteration-*.jsonl"))
    policies = [{recorded.hashes["policy"] for recorded in read_ledger(file)} for file in files]
    assert [len(found) for found in policies] == [1, 1] and policies[0] != policies[1]


def test_a_server_whose_log_probabilities_are_others_is_refused_before_anything_is_recorded(tmp_path: Path) -> None:
    with toy_server(processed=False) as (_, address), pytest.raises(ConfigError, match="processed_logprobs"):
        toy_session(tmp_path / "run", server=address)


def test_held_out_questions_are_asked_of_the_server_too(tmp_path: Path) -> None:
    here = toy_session(tmp_path / "here")
    with toy_server() as (toy, address):
        there = toy_session(tmp_path / "there", server=address)
        found = evaluate(there)
        assert {body["model"] for body in toy.asked} > {"toy"}
    assert found == evaluate(here)  # greedy: the same tokens


def test_runs_are_collected_over_a_server_without_loading_the_model(tmp_path: Path, monkeypatch: Any) -> None:
    toy_module().save_pretrained(tmp_path / "toy")
    toy_tokenizer().save_pretrained(tmp_path / "toy")
    rows = [{"id": f"q{i}", "question": f"Is it right number {i}?", "answers": ["yes"]} for i in range(12)]
    (tmp_path / "my.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    monkeypatch.setattr("training.collect.load_model", None)
    with toy_server() as (toy, address):
        config = CollectConfig(
            output=str(tmp_path / "out"), model=str(tmp_path / "toy"), graph="examples.own_graph:graph",
            data=str(tmp_path / "my.jsonl"), questions=3, runs=2, server=address,
        )  # fmt: skip
        ledger = collect(config)
    found = [item for file in sorted(ledger.glob("*.jsonl")) for item in read_ledger(file)]
    assert len(found) == 6 and {item.identity["server"] for item in found} == {"vLLM"} and toy.asked
