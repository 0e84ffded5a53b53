"""Co-adaptation is the mismatch meter with other plans: checked before a model loads, run at toy size."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.config import read_config
from evaluation.mismatch import measure_mismatch
from evaluation.mismatch_report import render_mismatch
from evaluation.systems import read_systems
from experiments.coadaptation import CoadaptationConfig
from graphs.options import read_options
from tests.eval_toy import retrievers, toy_eval, two_sets
from tests.ppo_toy import start_adapter
from tests.toy_model import toy_model


def test_plans_are_switched_on_both_sets_of_executors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.figures.figures_of", lambda report: {})
    monkeypatch.setattr("evaluation.report.COMPARED", ("f1",))
    one, two = (start_adapter(tmp_path / name, seed) for name, seed in (("a", 5), ("b", 6)))
    fields = {key: value for key, value in toy_eval(tmp_path).__dict__.items() if key != "systems"}
    config = CoadaptationConfig(**fields, planners=[f"t={two}"], executors=[f"u={one}", f"t={two}"])
    systems = read_systems(config.systems, read_options(config.options()))
    assert len(systems) == 2 * (1 + 4)
    sets = two_sets()[:1]
    found = measure_mismatch(config, systems, sets, toy_model(), retrievers(sets))["mismatch"]
    assert [row["plan"] for row in found["coadaptation"]] == ["R,DS,AG", "QDS/R,AG", "QDP/R,AG"]
    assert len(found["plans"]) == 6 and found["meter"] is None
    assert "what training the executors changes in that" in render_mismatch(found)


def test_its_options_are_those_of_the_meter() -> None:
    config, dry = read_config(CoadaptationConfig, ["--sample", "7", "--dry-run"], "python -m experiments.coadaptation")
    assert dry and config.sample == 7 and config.output == "runs/coadaptation" and len(config.also) == 3
