"""Which answers of an earlier evaluation count again, and which questions are asked anew; and that all decode alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.call import Call
from evaluation.evaluate import measure
from evaluation.readiness import Asked
from evaluation.systems import slug_of
from graphs.ledger import read_ledger
from tests.eval_toy import ASKED, EXAMPLES, retrievers, systems_of, toy_eval
from tests.ppo_toy import start_adapter
from tests.test_evaluate import lines_of, run
from tests.toy_model import toy_model


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no figures and compare in F1 alone: both take seconds."""
    monkeypatch.setattr("evaluation.figures.figures_of", lambda report: {})
    monkeypatch.setattr("evaluation.report.COMPARED", ("f1",))


def test_what_could_change_an_answer_is_asked_again(tmp_path: Path) -> None:
    start = start_adapter(tmp_path / "a", 5)
    run(tmp_path, systems=["R,AG@none", f"AG@{start}"])
    run(tmp_path, systems=["R,AG@none", f"AG@{start}"])
    assert len(lines_of(tmp_path)) == 16
    run(tmp_path, systems=["R,AG@none"], top_k=3)
    assert len(lines_of(tmp_path)) == 24
    start_adapter(tmp_path / "a", 6)  # other weights under the same path
    run(tmp_path, systems=["R,AG@none", f"AG@{start}"])
    lines = lines_of(tmp_path)
    assert len(lines) == 32 and len({line["hash"] for line in lines if line["system"] != "R,AG@none"}) == 2


def test_another_number_format_or_version_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        report = run(tmp_path, systems=["R,AG@none"])
    assert "float32" in report["conditions"]["model"] and len(lines_of(tmp_path)) == 8
    halved = toy_model()
    halved.module.to(torch.bfloat16)
    report = run(tmp_path, halved, systems=["R,AG@none"])
    assert "bfloat16" in report["conditions"]["model"] and len(lines_of(tmp_path)) == 16
    monkeypatch.setattr("evaluation.bench.code_version", lambda: "later")
    run(tmp_path, systems=["R,AG@none"])
    assert len(lines_of(tmp_path)) == 24 and len({line["hash"] for line in lines_of(tmp_path)}) == 3


def test_the_oracle_is_asked_again_where_it_is_handed_other_passages(tmp_path: Path) -> None:
    config = toy_eval(tmp_path, systems=["oracle@none", "R,AG@none"])

    def ask(asked: Asked) -> list[dict[str, Any]]:
        measure(config, systems_of(config), [asked], toy_model(), retrievers([asked]))
        return lines_of(tmp_path)

    assert len(ask(ASKED)) == len(ask(ASKED)) == 10
    first, *rest = EXAMPLES
    moved = ask(replace(ASKED, examples=(replace(first, supporting=("k2",)), *rest)))
    assert [(line["system"], line["id"], line["evidence"]) for line in moved[10:]] == [("oracle@none", "q0", ["k2"])]
    rewritten = {**ASKED.gold, "mayor": {**ASKED.gold["mayor"], "text": "Nobody knows."}}
    again = ask(replace(ASKED, gold=rewritten))[11:]
    assert {(line["system"], line["id"]) for line in again} == {("oracle@none", f"q{place}") for place in range(3)}


def test_what_is_compared_decodes_alike_and_says_so(tmp_path: Path) -> None:
    start = start_adapter(tmp_path / "a", 5)
    mixed = run(tmp_path, systems=["AG@none", f"AG@{start}"], decoding="auto")
    said = "decoding: constrained for all (an untuned model plays in AG@none)"
    assert said in (tmp_path / "eval" / "report.md").read_text()
    assert mixed["conditions"]["decoding"] == said.removeprefix("decoding: ")
    calls = [call for name in ("AG-none", f"AG-{start}") for call in _calls(tmp_path, name)]
    assert len(calls) == 16 and all(call.constraint is not None for call in calls)
    alone = run(tmp_path / "alone", systems=[f"AG@{start}"], decoding="auto")
    assert alone["conditions"]["decoding"] == "free for all (all are trained)"
    assert all(call.constraint is None for call in _calls(tmp_path / "alone", f"AG-{start}"))


def _calls(folder: Path, system: str) -> list[Call]:
    ledger = folder / "eval" / "ledger" / slug_of(system)
    return [call for name in ("toy", "other") for run in read_ledger(ledger / f"{name}.jsonl") for call in run.calls]
