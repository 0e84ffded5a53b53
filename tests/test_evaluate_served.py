"""An evaluation whose model is on an inference server: the same answers as from the model that is loaded here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agents.model_text import TextSide
from evaluation.evaluate import measure
from evaluation.loading import load_model
from evaluation.served import ServedModel
from tests.eval_toy import retrievers, systems_of, toy_eval, two_sets
from tests.ppo_toy import start_adapter
from tests.remote_toy import toy_server
from tests.toy_model import toy_model, toy_module, toy_tokenizer

SAID = ("system", "set", "id", "answer", "f1", "turns", "retrievals", "prompt_tokens", "generated_tokens")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no figures and compare in F1 alone."""
    monkeypatch.setattr("evaluation.figures.figures_of", lambda report: {})
    monkeypatch.setattr("evaluation.report.COMPARED", ("f1",))


def said(folder: Path, shared: Any, systems: list[str]) -> tuple[list[tuple[Any, ...]], dict[str, Any]]:
    config, sets = toy_eval(folder, systems=systems, plan_questions=2), two_sets()
    report = measure(config, systems_of(config), sets, shared, retrievers(sets))
    assert report is not None
    lines = [json.loads(line) for line in (folder / "eval" / "records.jsonl").read_text().splitlines()]
    return sorted(tuple(line.get(name) for name in SAID) for line in lines), report


def test_the_server_answers_as_the_model_does_adapters_included(tmp_path: Path) -> None:
    systems = ["R,AG@none", f"jade@planner={start_adapter(tmp_path / 'start')};*=none"]
    here, _ = said(tmp_path / "here", toy_model(), systems)
    with toy_server() as (_, address):
        served = ServedModel(address, TextSide.of(toy_model()))
        there, report = said(tmp_path / "there", served, systems)
    assert here == there and len(here) == 16
    assert "on a server" in report["conditions"]["model"] and report["planner"] == []  # no exact plan probabilities
    assert set(report["hashes"]) == set(systems)


def test_the_option_reaches_the_server_and_loads_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_module().save_pretrained(tmp_path / "toy")
    toy_tokenizer().save_pretrained(tmp_path / "toy")
    monkeypatch.setattr("agents.model.SharedModel.load", None)
    with toy_server(key="secret") as (_, address):
        monkeypatch.setenv("JADE_SERVER_KEY", "secret")
        found = load_model(toy_eval(tmp_path, server=address, model=str(tmp_path / "toy")))
    assert isinstance(found, ServedModel) and found.facts.model == "toy"
