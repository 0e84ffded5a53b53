"""What a warm start is watched by: losses against hand-computed ones, rows, learning rate, and what was searched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.corpora import data_folder
from evaluation.glossary import METRICS, check_metrics
from graphs.trajectory import Trajectory
from tests.scripted import PASSAGES, ListRetriever
from tests.test_sft import rows
from tests.toy_model import toy_model, toy_module, toy_tokenizer
from training import sft
from training.adapter import LoraShape, create_adapter
from training.dropped import Dropped
from training.lead import Untracked
from training.learner import Learner
from training.rejection import Best
from training.sft_config import SFTConfig
from training.supervised import Warmup, held_out_loss, supervised_buffer, supervised_calls
from training.warmstart import SHARES, WarmStart


class Noted(Untracked):
    """A tracked run that refuses what the glossary does not hold, and keeps the rest at hand."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics: dict[int, dict[str, float]] = {}
        self.tags: dict[str, Any] = {}

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        check_metrics(values)
        self.metrics.setdefault(step, {}).update(values)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        self.tags.update(tags)


def nll(shared: Any, call: Any) -> float:
    """Return the mean −log π of a response under the whole module, whose fresh adapter changes nothing."""
    ids = torch.tensor([[*call.prompt_ids, *call.response_ids]])
    with torch.no_grad():
        logprobs = shared.module(input_ids=ids).logits.float().log_softmax(-1)[0, len(call.prompt_ids) - 1 : -1]
    picked = logprobs.gather(-1, torch.tensor(call.response_ids)[:, None])
    return -float(picked.mean())


def mean_by_role(shared: Any, calls: list[Any], weights: Mapping[str, float]) -> tuple[float, dict[str, float]]:
    """Return the mean loss of calls, each call's weight that of its role, and the mean of each role."""
    found: dict[str, list[float]] = {}
    for call in calls:
        found.setdefault(call.role, []).append(nll(shared, call))
    mass = {role: weights.get(role, 1.0) * len(values) for role, values in found.items()}
    means = {role: sum(values) / len(values) for role, values in found.items()}
    return sum(mass[role] * means[role] for role in means) / sum(mass.values()), means


def test_losses_are_those_of_the_whole_model_by_role_and_on_held_out_rows() -> None:
    shared = toy_model()
    create_adapter(shared, LoraShape(rank=4, alpha=8, first_layer=1), seed=0)
    learner, weights = Learner(shared, 1), {"planner": 3.0}
    calls = supervised_calls(rows(5), shared)
    whole, by_role = mean_by_role(shared, calls, weights)
    held = rows(7)[10:]
    dev, _ = mean_by_role(shared, supervised_calls(held, shared), weights)
    config = SFTConfig(lr=1e-2, epochs=1, rows_per_step=16, warmup=4, token_budget=256, role_weights=weights)
    assert held_out_loss(learner, held, config) == pytest.approx({"sft/dev_loss": dev}, rel=1e-4)
    assert held_out_loss(learner, [], config) == {}
    tracked, buffer = Noted(), supervised_buffer(calls, weights)
    Warmup(config, learner, buffer).run(tracked)
    logged = tracked.metrics[1]
    assert logged["sft/loss"] == pytest.approx(whole, rel=1e-4)
    assert {role: logged[f"sft/loss/{role}"] for role in by_role} == pytest.approx(by_role, rel=1e-4)
    assert logged["sft/learning_rate"] == pytest.approx(1e-2 / 4)  # the first of four warm-up steps, before any decay


@pytest.fixture
def tracked(monkeypatch: pytest.MonkeyPatch) -> Noted:
    """Return what the command's own tracked run is replaced by."""
    noted = Noted()

    @contextmanager
    def instead(ranks: Any, experiment: str, name: str, config: Any, tags: Mapping[str, Any]) -> Iterator[Noted]:
        noted.set_tags(tags)
        yield noted

    monkeypatch.setattr(sft, "tracked_by_first", instead)
    return noted


def test_a_warm_start_logs_all_that_the_glossary_promises(
    tmp_path: Path, tracked: Noted, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_module().save_pretrained(tmp_path / "toy")
    toy_tokenizer().save_pretrained(tmp_path / "toy")
    environments = {"nq": "e1", "hotpotqa": "e2"}
    warm = WarmStart(tuple(rows(8)), environments=environments)
    monkeypatch.setattr(sft, "derived_rows", lambda config: warm)
    config = SFTConfig(
        output=str(tmp_path / "sft"), model=str(tmp_path / "toy"), eval_sets=[], first_layer=1, rank=4, held_out=2,
        rows_per_step=4, dtype="fp32", threads=1, datasets=["nq"], plan_sets=[],
    )  # fmt: skip
    folder = sft.train(config)
    assert folder is not None and (folder / "jade.json").is_file()
    first, last = tracked.metrics[0], tracked.metrics[max(tracked.metrics)]
    assert {name: first[name] for name in first if name.startswith("sft/rows/")} == {
        "sft/rows/answer_generator": 6.0, "sft/rows/planner": 6.0,
    }  # fmt: skip
    assert last["sft/dev_loss"] < first["sft/dev_loss"]
    logged = {name for values in tracked.metrics.values() for name in values}
    promised = [name for name in METRICS if name.startswith("sft/")]
    roles = [name.replace("<role>", "planner") for name in promised]
    assert set(roles) <= logged, "every metric of the warm start in the glossary is logged"
    assert tracked.tags["hash.environment"] == "nq e1, hotpotqa e2"
    assert set(tracked.tags) == {"hash.text", "hash.environment", "hash.policy"}


def test_what_was_searched_is_one_hash_or_one_for_each_set_and_ledger() -> None:
    shared, nothing = toy_model(), Best((), (), 0, Dropped())
    run = Trajectory("r", "q", "a", "ok", (), hashes={"environment": "e3"})
    best = replace(nothing, runs=(run, run, replace(run, hashes={"environment": ""})))

    def tag(warm: WarmStart, best: Best) -> str:
        return sft.hash_tags(shared, warm, best)["hash.environment"]

    assert tag(WarmStart(()), nothing) == "none"
    assert tag(WarmStart(()), best) == "e3"
    assert tag(WarmStart((), environments={"nq": "e1"}), nothing) == "e1"
    assert tag(WarmStart((), environments={"nq": "e1"}), best) == "nq e1, ledger e3"


def test_derived_rows_name_the_index_of_each_set_that_was_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    retriever = ListRetriever(PASSAGES)
    monkeypatch.setattr("agents.retriever.open_retriever", lambda name, k: retriever)
    monkeypatch.setattr(sft, "warmstart_rows", partial(sft.warmstart_rows, decompositions=()))  # the sets' own suffice
    config = SFTConfig(datasets=["nq"], plan_sets=["musique"], per_role=4, questions_per_set=3, top_k=2)
    warm = sft.derived_rows(config)
    assert warm.environments == {"nq": retriever.identity["environment"]} and retriever.identity["environment"]
    assert Counter(row.role for row in warm.rows)["serial_decomposer"] == 4


def test_the_shares_of_independent_decompositions_are_told_as_they_are() -> None:
    text = " ".join((data_folder().parent / "docs" / "training.md").read_text(encoding="utf-8").split())
    names = {"2wikimultihopqa": "2WikiMultiHopQA", "strategyqa": "StrategyQA", "hotpotqa": "HotpotQA",
             "complexwebquestions": "ComplexWebQuestions", "musique": "MuSiQue"}  # fmt: skip
    for role in ("serial_decomposer", "parallel_decomposer"):
        for option, share in SHARES[role].items():
            if option != "*":
                assert f"{names[option]} {share * 100:.0f} %" in text, (role, option)
    assert f"QDS {SHARES['planner']['QDS'] * 100:.0f} %" in text and "QDP 22 %" in text
