"""What is kept of a training run: its numbers, under which step and run; under alarms, after a kill, with no critic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evaluation.traces import RunCredit
from tests.ppo_toy import toy_session
from tests.test_ppo import Killed, Notes, poisoned
from training.checkpoint import LATEST, read_state
from training.history import read_metrics
from training.ppo import ENDED_BY_ALARM, run


class Later(Notes):
    """A tracking store that is away when the run begins, and names it when first metrics reach it."""

    run_id = None  # type: ignore[assignment]

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        super().log_metrics(values, step)
        self.run_id = "run-2"  # type: ignore[assignment]


class Shown(Notes):
    """Keeps the credit that traces show."""

    def __init__(self) -> None:
        super().__init__()
        self.credit: list[tuple[Any, RunCredit]] = []

    def export_traces(self, runs: Any, credit: Any, decode: Any = None) -> None:
        super().export_traces(runs, credit, decode)
        self.credit += [(item, credit[item.run]) for item in runs]


def test_an_iteration_that_does_not_count_never_takes_the_step_before(tmp_path: Path) -> None:
    session, notes = toy_session(tmp_path, eval_every=1), Notes()
    poisoned(session)
    assert run(session, notes) == ENDED_BY_ALARM  # type: ignore[arg-type]
    assert [(step, "alarm/nan" in metrics) for step, metrics in notes.metrics] == [(0, False), (1, True)]
    kept = dict(read_metrics(tmp_path))
    assert "eval/toy/f1" in kept[0] and "alarm/nan" not in kept[0]
    assert kept[1]["alarm/nan"] == 1.0 and "rollout/reward" in kept[1]


def test_steps_go_on_behind_an_iteration_that_was_rolled_back(tmp_path: Path) -> None:
    session, notes = toy_session(tmp_path, on_alarm="rollback", iterations=3, eval_every=1), Notes()
    update = session.optimiser.update

    def second_is_no_number(*args: Any, **options: Any) -> Any:
        outcome = update(*args, **options)
        outcome.finite = session.state.iteration != 1
        return outcome

    session.optimiser.update = second_is_no_number  # type: ignore[method-assign]
    assert run(session, notes) == 0  # type: ignore[arg-type]
    assert [(step, "alarm/nan" in metrics) for step, metrics in notes.metrics] == [
        (0, False), (1, False), (2, True), (3, False),
    ]  # fmt: skip
    assert [step for step, metrics in read_metrics(tmp_path) if "eval/toy/f1" in metrics] == [0, 1, 3]


def test_killed_in_its_first_iteration_it_goes_on_in_the_same_tracked_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = toy_session(tmp_path)

    def dies(*args: Any, **options: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(killed.optimiser, "update", dies)
        run(killed, Notes())  # type: ignore[arg-type]
    resumed = toy_session(tmp_path)
    assert resumed.state.iteration == 0 and resumed.state.mlflow_run == "run-1"


def test_a_run_that_is_named_later_is_known_from_its_next_checkpoint_on(tmp_path: Path) -> None:
    session = toy_session(tmp_path, iterations=1)
    assert run(session, Later()) == 0  # type: ignore[arg-type]
    assert read_state(tmp_path / LATEST).mlflow_run == "run-2"


def test_without_a_critic_traces_show_the_leave_one_out_baseline_and_nothing_is_said_of_values(tmp_path: Path) -> None:
    session, notes = toy_session(tmp_path, iterations=1, estimator="loo", traces=6), Shown()
    assert run(session, notes) == 0  # type: ignore[arg-type]
    earned = {item.run: (item.question_id, credit.reward["total"]) for item, credit in notes.credit}
    assert len(earned) == 6 and len({reward for _, reward in earned.values()}) > 2
    for item, credit in notes.credit:
        (baseline,) = [
            reward for name, (question, reward) in earned.items() if name != item.run and question == item.question_id
        ]
        for call in credit.calls.values():
            assert call["return"] == credit.reward["total"] and call["value"] == pytest.approx(baseline)
            assert call["advantage"] == pytest.approx(call["return"] - call["value"] + call["format"])
    (_, metrics), *_ = notes.metrics
    said = [name for name in metrics if "value" in name or "explained" in name or "critic" in name]
    assert said == [] and "update/advantage/planner" in metrics and "update/total_loss" in metrics
