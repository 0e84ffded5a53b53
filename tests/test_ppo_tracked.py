"""Under which step and which run a training run's numbers are kept, also where an alarm rings or the process is killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

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
