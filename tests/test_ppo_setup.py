"""What PPO asks and whom, settled before a model is loaded; and a graph built over each set's own index."""

from __future__ import annotations

import gzip
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import training.ppo
from agents.adapters import CARD, MergedInfo
from agents.corpora import data_folder
from agents.errors import ConfigError
from agents.passage import Retriever
from graphs.ledger import read_ledger
from graphs.solo import build_solo
from tests.scripted import PASSAGES, ListRetriever
from tests.test_ppo_command import config_of, toy_folder
from training.ppo import train
from training.ppo_config import PPOConfig
from training.ppo_setup import prompts_of, read_questions, takes_retriever

__all__ = ["toy_folder"]


def looped(retriever: Retriever, top_k: int, *, rounds: int = 1) -> Any:
    """Build the solo loop, as anybody would build a graph of their own over an index."""
    return build_solo(retriever, top_k=top_k, max_searches=rounds)


def wanting(retriever: Retriever, something: str) -> Any:
    """Want what nobody offers."""


LOOPED = "tests.test_ppo_setup:looped"


def test_a_graph_over_an_index_is_trained_on_the_bundled_questions(
    toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str, int]] = []

    def open_retriever(name: str, *, k: int) -> ListRetriever:
        opened.append((name, k))
        return ListRetriever(PASSAGES)

    monkeypatch.setattr("agents.retriever.open_retriever", open_retriever)
    changes = {"graph": LOOPED, "data": None, "datasets": ["nq"], "top_k": 2, "decoding": "constrained"}
    assert train(config_of(toy_folder, **changes)) == 0
    assert opened == [("nq", 2)]
    runs = list(read_ledger(toy_folder / "run" / "ledger"))
    assert {call.role for run in runs for call in run.calls} == {"solo"} and len(runs) == 8
    train_ids = {example.id for example in read_questions(PPOConfig(datasets=["nq"]))[0][1]}
    assert {run.question_id for run in runs} <= train_ids
    assert json.loads((toy_folder / "run" / "adapter" / "jade.json").read_text())["roles"] == ["solo"]


def test_what_is_asked_is_refused_before_a_model_loads(toy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.ppo, "load_model", lambda *given: pytest.fail("a model was loaded"))
    cases = {
        "is given without questions; give data .* parameter `retriever`": {"data": None},
        "nqq": {"graph": None, "data": None, "datasets": ["nqq"]},
        "missing.jsonl": {"data": str(toy_folder / "missing.jsonl")},
    }
    for message, changes in cases.items():
        with pytest.raises(ConfigError, match=message):
            train(config_of(toy_folder, **changes))


def test_a_graph_that_wants_other_arguments_is_told_so(toy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.retriever.open_retriever", lambda name, *, k: ListRetriever(PASSAGES))
    wants = "tests.test_ppo_setup:wanting"
    assert takes_retriever(wants) and not takes_retriever("examples.own_graph:graph")
    with pytest.raises(ConfigError, match=r"wants other arguments than policy, retriever, top_k: .*something"):
        train(config_of(toy_folder, graph=wants, data=None, datasets=["nq"]))


def test_an_exported_model_is_trained_under_its_own_prompts(tmp_path: Path) -> None:
    note = MergedInfo(base="toy", base_weights="b", adapter="a", prompts="bare")
    (tmp_path / CARD).write_text(json.dumps(asdict(note)))
    assert prompts_of(PPOConfig(model=str(tmp_path))).style == "bare"
    assert prompts_of(PPOConfig()).style == "examples"


def test_one_hop_sets_are_trained_without_decompositions_unless_told_otherwise() -> None:
    assert PPOConfig().depth == PPOConfig(datasets=["nq", "popqa"]).depth == 0
    assert PPOConfig(datasets=["nq", "hotpotqa"]).depth == PPOConfig(data="my.jsonl").depth == 1
    assert PPOConfig(max_depth=2).depth == 2 and PPOConfig(datasets=["musique"], max_depth=0).depth == 0


def test_another_task_needs_no_code(toy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """StrategyQA's yes/no questions over an index of their facts, by the options that docs/experiments.md names."""
    with gzip.open(data_folder() / "decompositions" / "train.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [line for line in file if '"source": "strategyqa"' in line][:20]
    (toy_folder / "strategyqa.jsonl").write_text("".join(rows), encoding="utf-8")
    facts = [(f"{row['id']}-{n}", "", fact) for row in map(json.loads, rows) for n, fact in enumerate(row["facts"])]
    monkeypatch.setattr("agents.retriever.open_retriever", lambda name, *, k: ListRetriever(tuple(facts)))
    changes = {
        "graph": None, "data": str(toy_folder / "strategyqa.jsonl"), "datasets": ["strategyqa-facts"], "iterations": 1,
        "score": "evaluation.metrics:exact_match", "workflow": "R,AG", "decoding": "constrained", "eval_every": 1,
        "eval_sample": 1,
    }  # fmt: skip
    assert train(config_of(toy_folder, **changes)) == 0
    runs = list(read_ledger(toy_folder / "run" / "ledger"))
    asked = {json.loads(row)["question"] for row in rows}
    assert {run.question for run in runs} <= asked and all(run.retrievals[0].ids for run in runs)
    metrics = [json.loads(line) for line in (toy_folder / "run" / "metrics.jsonl").read_text().splitlines()]
    held_out = [value for row in metrics for name, value in row.items() if name == "eval/strategyqa-facts/score"]
    assert held_out and set(held_out) <= {0.0, 1.0}, "exact match, and nothing between"
