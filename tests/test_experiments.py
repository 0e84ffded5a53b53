"""The arms, tables and figures of the tiny world's experiments, on rows made by hand; no training."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from agents.errors import ConfigError
from experiments import tinyworld as tiny
from experiments.arms import Arm, Results, Row
from experiments.credit import credit
from experiments.learning import Learned, all_options, learned, tiny_options, train_arm
from experiments.measured import Measure
from experiments.penalties import against, controllers, figures, penalties, show
from experiments.sensitivity import sensitivity
from experiments.shown import arm_figures, arm_table, comparison_table
from experiments.tinybaselines import tinybaselines
from experiments.tinyworld import tinyworld


def measured(f1: float, retrievals: float, single: float) -> Measure:
    """Return a measure over ten questions, of which a share `f1` is answered."""
    right = round(10 * f1)
    scores = (1.0,) * right + (0.0,) * (10 - right)
    return Measure(f1, 0.1, f1, 0.1, turns=1 + retrievals / 2, retrievals=retrievals, single=single, scores=scores)


def costing(measure: Measure, turns: float, retrievals: float) -> Measure:
    """Return a measure whose ten questions each cost about so much, ±0.1 in turn."""
    costs = {"turns": turns, "retrievals": retrievals}
    by_question = {f"{name}_by_question": (cost - 0.1, cost + 0.1) * 5 for name, cost in costs.items()}
    return replace(measure, turns=turns, retrievals=retrievals, **by_question)  # type: ignore[arg-type]


def row(
    results: Results, arm: Arm, f1: float, retrievals: float, single: float = 0.5, began: float = 0.3, **changes: Any
) -> Row:
    """Write the row of an arm whose last four iterations cost 9, 1, 2, 3 turns and 9, 0, 1, 2 retrievals."""
    curve = tuple(
        (step, {"rollout/charged_turns": float(turns), "rollout/charged_retrievals": max(0.0, turns - 1.0)})
        for step, turns in enumerate((9, 1, 2, 3), 1)
    )
    estimator, control = str(arm.options.get("estimator", "tree_gae")), bool(arm.options.get("control", False))
    after = changes.get("after", measured(f1, retrievals, single))
    run = Learned(estimator, "all", control, arm.seed, measured(began, 1.0, 0.5), after, 1.0, (0.1, 0.2), curve)
    return results.add(arm, asdict(run))


def test_a_row_reads_back_as_what_was_learned(tmp_path: Path) -> None:
    found = learned(row(Results(tmp_path / "r.jsonl"), Arm("a", 3), 0.6, 1.5))
    assert found.after == measured(0.6, 1.5, 0.5) and found.seed == 3 and found.rewards == (0.1, 0.2)
    assert found.curve[1] == (2, {"rollout/charged_turns": 1.0, "rollout/charged_retrievals": 0.0})


def test_rows_that_were_written_before_costs_were_kept_by_question_still_read(tmp_path: Path) -> None:
    after = costing(measured(0.6, 1.5, 0.5), 2.0, 1.5)
    found = row(Results(tmp_path / "r.jsonl"), Arm("a", 3), 0.6, 1.5, after=after)
    assert learned(found).after == after and after.turns_by_question[:2] == (1.9, 2.1)
    for name in ("before", "after"):
        for cost in ("turns", "retrievals"):
            del found[name][f"{cost}_by_question"]
    assert learned(found).after.turns == 2.0 and learned(found).after.turns_by_question == ()


@pytest.mark.parametrize(
    ("make", "count"), [(penalties, 10), (credit, 16), (sensitivity, 11), (tinyworld, 2), (tinybaselines, 6)]
)
def test_every_arm_is_a_training_run_that_can_be_configured(make: Any, count: int, tmp_path: Path) -> None:
    arms = make(2, 6).arms
    assert len(arms) == 2 * count and len({(arm.name, arm.seed) for arm in arms}) == 2 * count
    keys = {Results(tmp_path / "r").key(arm) for arm in arms}
    assert len(keys) == 2 * count
    for arm in arms:
        options = {name: value for name, value in arm.options.items() if name != "control"}  # of `learn` itself
        tiny_options(tmp_path, seed=arm.seed, **options)  # raises on an impossible one


def test_experiments_share_the_arm_that_each_compares_with() -> None:
    firsts = [make(1, 8).arms[0].options for make in (tinyworld, penalties, credit, sensitivity, tinybaselines)]
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
    assert "| both 1 | 1 | 0.300 | 0.300 [" in shown and "1.00 | 1 of 1 |" in shown  # it collapsed
    assert "| both 0.1 | 1 | 0.300 | 0.500 [" in shown and "0.60 |  |" in shown
    assert "| both 0.1 | -0.300 [" in shown  # against no price: 0.5 − 0.8
    assert "| controller at the cost of both 0.1 | +0.200 [" in shown  # 0.7 − 0.5
    assert "| 1.50 against 1.50 | 1.00 against 1.00 |" in shown, "costs by question are not known of these rows"
    (figure,) = figures(rows).values()
    (axes,) = figure.axes
    front = axes.lines[-1]
    assert list(front.get_xdata()) == [0.5, 1.0, 2.0] and list(front.get_ydata()) == pytest.approx([0.3, 0.7, 0.8])


def test_a_controllers_costs_are_paired_by_question_and_corrected_over_the_controllers(tmp_path: Path) -> None:
    results, arms = Results(tmp_path / "r.jsonl"), {arm.name: arm for arm in penalties(1, 4).arms}
    after = costing(measured(0.5, 1.0, 0.6), 1.5, 1.0)
    rows = [row(results, arms[f"both {price}"], 0.5, 1.0, after=after) for price in ("0.1", "0.3", "1")]
    held = [costing(measured(0.7, 1.0, 0.5), turns, 1.0) for turns in (2.0, 1.5, 1.0)]
    rows += [row(results, arm, 0.7, 1.0, after=mine) for arm, mine in zip(controllers(rows), held, strict=True)]
    lines = [line for line in against(rows).splitlines() if line.startswith("| controller at")]
    # 10 questions cost 0.5 more: p = 2/1024, times 3 for the first of three, times 2 for the second
    assert "| 2.00 against 1.50: +0.50 [+0.50, +0.50], p 0.0059, more | 1.00 against 1.00: +0.00 [" in lines[0]
    assert "1.50 against 1.50: +0.00 [+0.00, +0.00], p 1.0000, not resolved |" in lines[1]
    assert "1.00 against 1.50: -0.50 [-0.50, -0.50], p 0.0059, fewer |" in lines[2]
    # F1: 2 of 10 questions differ, p = 0.5 alone and 1 among three
    assert all("| +0.200 [" in line and "| 1.0000 | not resolved |" in line for line in lines)


def test_at_the_temperature_of_training_a_controller_is_compared_as_well(tmp_path: Path) -> None:
    results, arms = Results(tmp_path / "r.jsonl"), {arm.name: arm for arm in penalties(1, 4, prices=[0.3]).arms}

    def told(score: float, turns: float) -> Measure:
        costs = {"sampled_turns_by_question": (turns,) * 10, "sampled_retrievals_by_question": (1.0,) * 10}
        return replace(measured(0.5, 1.0, 0.5), sampled_scores=(score,) * 10, **costs)  # type: ignore[arg-type]

    rows = [row(results, arms["both 0.3"], 0.5, 1.0, after=told(0.4, 2.0))]
    assert against(rows, "sampled_") == ""
    (arm,) = controllers(rows)
    rows.append(row(results, arm, 0.5, 1.0, after=told(0.6, 1.5)))
    shown = against(rows, "sampled_")
    assert "at τ = 1" in shown and "| +0.200 [+0.200, +0.200] |" in shown
    assert "1.50 against 2.00: -0.50 [-0.50, -0.50], p 0.0020, fewer | 1.00 against 1.00: +0.00" in shown
    assert shown in show(rows) and "| +0.000 [" in against(rows)
    unknown = [rows[0], row(results, arm, 0.5, 1.0)]
    assert against(unknown, "sampled_") == "", "rows that were written before know no samples by question"


def test_prices_can_be_cut() -> None:
    named = [arm.name for arm in penalties(1, 4, prices=[0.3, 0.3], both=True).arms]
    assert named == ["no price", "both 0.3"]


def test_arms_that_began_apart_are_compared_by_their_gains(tmp_path: Path) -> None:
    results = Results(tmp_path / "r.jsonl")
    rows = [row(results, Arm("role", 0), 0.6, 1.0), row(results, Arm("full", 0), 0.7, 1.0, began=0.6)]
    shown = comparison_table(rows, "role")
    assert "| full | -0.200 [" in shown and "Δgain in F1" in shown  # 0.7 − 0.6 against 0.6 − 0.3
    assert shown.startswith("Not all arms begin from the same warm start")
    assert "| full | 1 | 0.600 | 0.700 [" in arm_table(rows) and "| arm | seeds | F1 before |" in arm_table(rows)
    alike = comparison_table([rows[0], row(results, Arm("other", 0), 0.7, 1.0)], "role")
    assert "| other | +0.100 [" in alike and "gain in F1" not in alike


def test_what_baselines_reach_is_compared_wherever_they_began(tmp_path: Path) -> None:
    results, arms = Results(tmp_path / "r.jsonl"), {arm.name: arm for arm in tinybaselines(1, 4).arms}
    rows = [row(results, arms["joint"], 0.6, 1.0), row(results, arms["R,AG, always"], 0.7, 1.0, began=0.6)]
    shown = tinybaselines(1, 4).table(rows)
    assert "| R,AG, always | +0.100 [" in shown and "gain in F1" not in shown


def test_a_fixed_workflow_is_measured_before_it_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    def trained(job: tuple[Any, Path, dict[str, Any]]) -> Learned:
        told.append(job[2]["before"])
        return Learned("loo", "all", False, 0, measured(0.1, 1.0, 0.5), measured(0.2, 1.0, 0.5), 1.0, (0.1,))

    monkeypatch.setattr("experiments.learning._alone", trained)
    planned: Any = measured(0.3, 1.0, 0.5)
    starts: Any = {"role": (None, planned)}
    for arm in (Arm("joint", 0, {}), Arm("chain", 0, {"workflow": "R,AG"})):
        train_arm(starts, arm)
    assert told == [planned, None]


def test_the_spread_over_seeds_stands_beside_the_interval_over_questions(tmp_path: Path) -> None:
    results = Results(tmp_path / "r.jsonl")
    rows = [row(results, Arm("a", seed), f1, 1.0) for seed, f1 in ((0, 0.5), (1, 0.5), (2, 0.9))]
    rows += [row(results, Arm("b", seed), f1, 1.0) for seed, f1 in ((0, 0.4), (1, 0.6))]
    rows.append(row(results, Arm("c", 0), 0.7, 1.0))
    shown = arm_table(rows)
    assert "] | 0.400 to 0.600 |" in shown and "] | 0.500 to 0.900 |" in shown
    (alone,) = (line for line in shown.splitlines() if line.startswith("| c |"))
    assert "] |  | 0.700 |" in alone, "one seed has no spread"
    assert "] | -0.100 to +0.100 |" in comparison_table(rows, "a"), "seed by seed: 0.4 − 0.5 and 0.6 − 0.5"


def test_tables_average_over_seeds_and_leave_out_what_cannot_be_compared(tmp_path: Path) -> None:
    results = Results(tmp_path / "r.jsonl")
    rows = [row(results, Arm("a", seed), f1, 1.0) for seed, f1 in ((0, 0.4), (1, 0.6))]
    assert "| a | 2 | 0.300 | 0.500 [" in arm_table(rows)
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
    assert "| tree_gae, R permuted | all | 1 | 0.300 | 0.300 | +0.000 [+0.000, +0.000] |  |" in shown
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
