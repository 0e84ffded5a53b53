"""Co-adaptation is the mismatch meter with other plans: checked before a model loads, run at toy size."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.config import read_config
from evaluation.mismatch import measure_mismatch
from evaluation.mismatch_report import plans_figure, render_mismatch
from evaluation.systems import read_systems
from evaluation.tracking import PARENT, MlflowStore, tracking_uri
from experiments.coadaptation import CoadaptationConfig
from graphs.options import read_options
from tests.eval_toy import retrievers, toy_eval, two_sets
from tests.ppo_toy import start_adapter
from tests.toy_model import toy_model
from tests.tracking_store import store

__all__ = ["store"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_plans_are_switched_on_both_sets_of_executors(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluation.figures.figures_of", lambda report: {})
    monkeypatch.setattr("evaluation.report.COMPARED", ("f1",))
    one, two = (start_adapter(tmp_path / name, seed) for name, seed in (("a", 5), ("b", 6)))
    fields = {key: value for key, value in toy_eval(tmp_path).__dict__.items() if key not in ("systems", "experiment")}
    config = CoadaptationConfig(**fields, planners=[f"t={two}"], executors=[f"u={one}", f"t={two}"])
    systems = read_systems(config.systems, read_options(config.options()))
    assert len(systems) == 2 * (1 + 4)
    sets = two_sets()[:1]
    found = measure_mismatch(config, systems, sets, toy_model(), retrievers(sets))["mismatch"]
    assert [row["plan"] for row in found["coadaptation"]] == ["R,DS,AG", "QDS/R,AG", "QDP/R,AG"]
    assert len(found["plans"]) == 6 and found["meter"] is None
    assert "what training the executors changes in that" in render_mismatch(found)
    check_family(len(systems))


def check_family(systems: int) -> None:
    """Check that the experiment is one MLflow run with its tables and figures, and a child for every system."""
    client = MlflowStore(tracking_uri()).client
    runs = client.search_runs([client.get_experiment_by_name("jade-coadaptation").experiment_id])
    (parent,) = [run for run in runs if PARENT not in run.data.tags]
    children = [run for run in runs if run.data.tags.get(PARENT) == parent.info.run_id]
    assert len(children) == systems == len(runs) - 1
    assert {item.path for item in client.list_artifacts(parent.info.run_id)} >= {"report.md", "figures"}
    drawn = {item.path for item in client.list_artifacts(parent.info.run_id, "figures")}
    assert drawn == {"figures/mismatch.png", "figures/plans.png"}


def test_the_figure_shows_each_plan_on_each_set_of_executors() -> None:
    gains = {("DS", "u"): -0.1, ("QDS", "u"): 0.2, ("DS", "t"): 0.3, ("QDS", "t"): 0.0}
    rows = [
        {"plan": plan, "executors": side, "difference": gain, "low": gain - 0.1, "high": gain + 0.2}
        for (plan, side), gain in gains.items()
    ]
    (axes,) = plans_figure({"plans": rows, "over": "nq", "fixed_plan": "R,AG"}).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["DS", "QDS"]
    points = [list(line.get_ydata()) for line in axes.lines if line.get_marker() == "o"]
    assert points == [[-0.1, 0.2], [0.3, 0.0]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["u executors", "t executors"]


def test_its_options_are_those_of_the_meter() -> None:
    config, dry = read_config(CoadaptationConfig, ["--sample", "7", "--dry-run"], "python -m experiments.coadaptation")
    assert dry and config.sample == 7 and config.output == "runs/coadaptation" and len(config.also) == 3
