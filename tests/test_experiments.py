"""The arms, tables and figures of the tiny world's experiments, on rows made by hand; no training."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from agents.errors import ConfigError
from experiments import tinyworld as tiny
from experiments.arms import Arm, Results, Row
from experiments.credit import credit
from experiments.learning import Learned, Measure, all_options, learned, tiny_options
from experiments.penalties import controllers, figures, penalties, show
from experiments.sensitivity import sensitivity
from experiments.shown import arm_figures, arm_table, comparison_table
from experiments.tinyworld import tinyworld


def measured(f1: float, retrievals: float, single: float) -> Measure:
    """Return a measure over ten questions, of which a share `f1` is answered."""
    right = round(10 * f1)
    scores = (1.0,) * right + (0.0,) * (10 - right)
    return Measure(f1, 0.1, f1, 0.1, turns=1 + retrievals / 2, retrievals=retrievals, single=single, scores=scores)


def row(results: Results, arm: Arm, f1: float, retrievals: float, single: float = 0.5) -> Row:
    """Write the row of an arm whose last four iterations cost 9, 1, 2, 3 turns and 9, 0, 1, 2 retrievals."""
    curve = tuple(
        (step, {"rollout/charged_turns": float(turns), "rollout/charged_retrievals": max(0.0, turns - 1.0)})
        for step, turns in enumerate((9, 1, 2, 3), 1)
    )
    estimator, control = str(arm.options.get("estimator", "tree_gae")), bool(arm.options.get("control", False))
    run = Learned(estimator, "all", control, arm.seed, measured(0.3, 1.0, 0.5), measured(f1, retrievals, single), 1.0,
                  (0.1, 0.2), curve)  # fmt: skip
    return results.add(arm, asdict(run))


def test_a_row_reads_back_as_what_was_learned(tmp_path: Path) -> None:
    found = learned(row(Results(tmp_path / "r.jsonl"), Arm("a", 3), 0.6, 1.5))
    assert found.after == measured(0.6, 1.5, 0.5) and found.seed == 3 and found.rewards == (0.1, 0.2)
    assert found.curve[1] == (2, {"rollout/charged_turns": 1.0, "rollout/charged_retrievals": 0.0})


@pytest.mark.parametrize(("make", "count"), [(penalties, 10), (credit, 16), (sensitivity, 11), (tinyworld, 2)])
def test_every_arm_is_a_training_run_that_can_be_configured(make: Any, count: int, tmp_path: Path) -> None:
    arms = make(2, 6).arms
    assert len(arms) == 2 * count and len({(arm.name, arm.seed) for arm in arms}) == 2 * count
    keys = {Results(tmp_path / "r").key(arm) for arm in arms}
    assert len(keys) == 2 * count
    for arm in arms:
        options = {name: value for name, value in arm.options.items() if name != "control"}  # of `learn` itself
        tiny_options(tmp_path, seed=arm.seed, **options)  # raises on an impossible one


def test_experiments_share_the_arm_that_each_compares_with() -> None:
    firsts = [make(1, 8).arms[0].options for make in (tinyworld, penalties, credit, sensitivity)]
    assert len({str(sorted(all_options(options).items())) for options in firsts}) == 1
    assert all_options({"control": True})["permute_rewards"] and all_options({"lam": 0.5})["lam"] == 0.5


def test_sensitivity_keeps_the_number_of_executions() -> None:
    usual = tiny_options(Path())
    for arm in sensitivity(1, 12).arms:
        config = tiny_options(Path(), **arm.options)
        assert config.iterations * config.questions == 12 * usual.questions, arm.name


def test_controllers_hold_the_costs_that_each_seed_reached(tmp_path: Path) -> None:
    results = Results(tmp_path / "r.jsonl")
    arms = {arm.name: arm for arm in penalties(1, 4).arms}
    rows = [row(results, arms["both 0.3"], 0.5, 1.0), row(results, arms["α 0.3"], 0.5, 1.0)]
    (arm,) = controllers(rows)
    assert arm.name == "controller at the cost of both 0.3" and arm.seed == 0
    assert (arm.options["target_turns"], arm.options["target_retrievals"]) == (2.0, 1.0)  # of the last three
    config = tiny_options(tmp_path, **arm.options)
    assert (config.alpha, config.beta, config.on_alarm, config.iterations) == (0.0, 0.0, "rollback", 4)


def test_the_penalty_tables_and_figure(tmp_path: Path) -> None:
    results = Results(tmp_path / "r.jsonl")
    arms = {arm.name: arm for arm in penalties(1, 4).arms}
    rows = [
        row(results, arms["no price"], 0.8, 2.0, 0.3),
        row(results, arms["both 0.1"], 0.5, 1.0, 0.6),
        row(results, arms["both 1"], 0.3, 0.5, 1.0),
    ]
    (arm, _) = controllers(rows)
    rows.append(row(results, arm, 0.7, 1.0, 0.5))
    shown = show(rows)
    assert "| both 1 | 1 | 0.300 [" in shown and "1.00 | 1 of 1 |" in shown  # it collapsed
    assert "| both 0.1 | 1 | 0.500 [" in shown and "0.60 |  |" in shown
    assert "| both 0.1 | -0.300 [" in shown  # against no price: 0.5 − 0.8
    assert "| controller at the cost of both 0.1 | +0.200 [" in shown  # 0.7 − 0.5
    assert "1.50 against 1.50 | 1.00 against 1.00 |" in shown
    (figure,) = figures(rows).values()
    (axes,) = figure.axes
    front = axes.lines[-1]
    assert list(front.get_xdata()) == [0.5, 1.0, 2.0] and list(front.get_ydata()) == pytest.approx([0.3, 0.7, 0.8])


def test_tables_average_over_seeds_and_leave_out_what_cannot_be_compared(tmp_path: Path) -> None:
    results = Results(tmp_path / "r.jsonl")
    rows = [row(results, Arm("a", seed), f1, 1.0) for seed, f1 in ((0, 0.4), (1, 0.6))]
    assert "| a | 2 | 0.500 [" in arm_table(rows)
    assert comparison_table(rows, "a") == "" and comparison_table(rows, "b") == ""


def test_the_figure_has_a_line_for_each_arm_and_a_dot_for_each_seed(tmp_path: Path) -> None:
    results = Results(tmp_path / "r.jsonl")
    rows = [row(results, Arm("a", seed), f1, 1.0) for seed, f1 in ((0, 0.4), (1, 0.6))]
    rows.append(row(results, Arm("b", 0), 0.7, 1.0))
    (figure,) = arm_figures(rows).values()
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    dots = [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "."]
    means = [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "o"]
    assert dots == [[0.4, 0.6], [0.7]] and means == [pytest.approx([0.5]), pytest.approx([0.7])]
    assert credit(1, 2).figures(rows).keys() == sensitivity(1, 2).figures(rows).keys() == {"f1-by-arm.png"}


def test_the_tiny_worlds_grid_can_be_cut_and_keeps_its_control() -> None:
    def names(**options: Any) -> list[str]:
        return [arm.name for arm in tinyworld(1, 4, **options).arms]

    assert names() == ["tree_gae, all", "tree_gae, all, R permuted"]
    assert len(names(grid=True)) == 4 * 3 + 1
    cut = {"estimators": "['loo', 'tree_gae', 'loo']", "train": "planner"}
    assert names(**cut) == names(grid=True, **cut) == ["loo, planner", "tree_gae, planner", "loo, planner, R permuted"]
    assert names(grid=True, train="['executors']")[3:] == ["loo, executors", "tree_gae, executors, R permuted"]
    control = tinyworld(2, 4, estimators="loo").arms[-1]
    assert control.options == {"estimator": "loo", "train": "all", "iterations": 4, "control": True}
    assert control.seed == 1
    for wrong in ("gae", "tree_gae,loo", "[]", "['gae']", "[tree_gae]", "[['loo']]"):
        with pytest.raises(ConfigError, match=r"give some of tree_gae, .* such as --estimators \"\['tree_gae', "):
            tinyworld(1, 4, estimators=wrong)


def test_the_tiny_worlds_table_shows_gains_and_the_control(tmp_path: Path) -> None:
    experiment, results = tinyworld(1, 4, estimators="['tree_gae', 'loo']"), Results(tmp_path / "r.jsonl")
    rows = [row(results, arm, f1, 1.0) for arm, f1 in zip(experiment.arms, (0.8, 0.5, 0.3), strict=True)]
    shown = experiment.table(rows)
    assert "| tree_gae | all | 1 | 0.300 | 0.800 | +0.500 [" in shown  # from 0.3
    assert "| loo | all | 1 | 0.300 | 0.500 | +0.200 [" in shown
    assert "| tree_gae, R permuted | all | 1 | 0.300 | 0.300 | +0.000 [+0.000, +0.000] |" in shown
    assert "| loo, all | -0.300 [" in shown and "arm against tree_gae, all" in shown
    assert experiment.figures(rows).keys() == {"f1-by-arm.png"}


def test_the_tiny_worlds_command_refuses_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["tinyworld", "--estimators", "gae"])
    assert tiny.main() == 2 and "ConfigError: --estimators 'gae': give some of" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["tinyworld", "--grid", "--processes", "0"])
    with pytest.raises(SystemExit):
        tiny.main()
    assert "--processes 0: give 1 or more" in capsys.readouterr().err
