"""A ledger longer than its runs stay fresh, or with unusable runs: what is left out is counted, and is not fatal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from graphs.ledger import LedgerWriter
from graphs.trajectory import Trajectory
from tests.ppo_toy import start_adapter, toy_session
from tests.test_ppo import Notes, killed_in_update, same, state_of
from training.checkpoint import LATEST, State, read_state
from training.dropped import NothingLeftError
from training.ppo import run
from training.replayed import check_learned, note_batch, note_rollback, position, summary
from training.rollout import gather
from training.session import Session

FRESH = {"max_drift": 9.0, "iterations": 9}
"""Only versions make a run too old here."""


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return start_adapter(tmp_path_factory.mktemp("start") / "adapter")


@pytest.fixture(scope="module")
def recorded(start: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[Trajectory]]:
    """Three batches of six runs that the start adapter recorded."""
    session = toy_session(tmp_path_factory.mktemp("recorded"), start=start)
    return [gather(session.worlds[0], session.players, session.config, visit, visit) for visit in range(3)]


def write(folder: Path, batches: list[list[Trajectory]]) -> Path:
    writer = LedgerWriter(folder / "ledger")
    for item in (item for batch in batches for item in batch):
        writer.close(item)
    return folder / "ledger"


def other(item: Trajectory) -> Trajectory:
    return replace(item, hashes={**item.hashes, "text": "another base"})


@pytest.fixture
def replaying(start: Path, tmp_path: Path) -> Callable[..., Session]:
    def begin(ledger: Path, place: str = "run", **options: Any) -> Session:
        return toy_session(tmp_path / place, start=start, ledger=str(ledger), **{**FRESH, **options})

    return begin


def counts(state: State) -> tuple[int, int, int, Mapping[str, int]]:
    return state.iteration, state.read, state.learned, state.left_out


def test_runs_that_have_become_too_old_are_left_out_and_the_adapter_ships(
    recorded: list[list[Trajectory]],
    replaying: Callable[..., Session],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ledger = write(tmp_path, recorded)
    session, notes = replaying(ledger, max_versions=0), Notes()
    caplog.set_level("INFO", "jade.ppo")
    assert run(session, notes) == 0  # type: ignore[arg-type]
    assert counts(session.state) == (1, 3, 6, {"stale-versions": 12}) and len(notes.metrics) == 1
    assert (tmp_path / "run" / "adapter" / "jade.json").is_file()
    assert [line for line in caplog.messages if "left out" in line] == [
        "batch 2 of the ledger is left out: 6 stale-versions",
        "batch 3 of the ledger is left out: 6 stale-versions",
        summary(session.state, str(ledger)),
    ]
    assert "learned from 6 of the 18 runs" in caplog.messages[-1] and "--max_versions says" in caplog.messages[-1]
    again = replaying(ledger, max_versions=9)  # with the remedy the same command goes on where it could not
    assert run(again, Notes()) == 0  # type: ignore[arg-type]
    assert counts(again.state) == (3, 3, 18, {})


def test_killed_behind_a_batch_that_was_left_out_the_resumed_run_ends_the_same(
    recorded: list[list[Trajectory]], replaying: Callable[..., Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = recorded
    half = [*second[:3], *(other(item) for item in second[3:])]  # a batch may lose a part only
    ledger = write(tmp_path, [[other(item) for item in first], half, third])
    whole = replaying(ledger, "whole")
    assert run(whole, Notes()) == 0  # type: ignore[arg-type]
    assert counts(whole.state) == (2, 3, 9, {"other-text": 9}) and whole.state.version == 2
    killed_in_update(replaying(ledger, "killed"), 1, monkeypatch)
    assert counts(read_state(tmp_path / "killed" / LATEST)) == (1, 2, 3, {"other-text": 9})
    resumed = replaying(ledger, "killed")
    assert run(resumed, Notes()) == 0  # type: ignore[arg-type]
    assert counts(resumed.state) == counts(whole.state) and same(state_of(whole), state_of(resumed))


def test_only_a_ledger_of_which_nothing_can_be_used_is_refused(
    recorded: list[list[Trajectory]], replaying: Callable[..., Session], tmp_path: Path
) -> None:
    greedy = replace(recorded[1][0], calls=tuple(replace(call, greedy=True) for call in recorded[1][0].calls))
    ledger = write(tmp_path, [[other(item) for item in recorded[0]], [greedy]])
    session = replaying(ledger)
    with pytest.raises(
        NothingLeftError, match=r"none of 7 recorded runs .*: 6 other-text, 1 greedy \(ledger .*load that"
    ):
        run(session, Notes())  # type: ignore[arg-type]
    assert not (tmp_path / "run" / "adapter").exists()
    assert counts(read_state(tmp_path / "run" / LATEST)) == (0, 0, 0, {})


def test_what_a_rollback_undid_is_left_out_and_reading_goes_on_behind_it() -> None:
    restored, lost = State(iteration=2), State(iteration=2)
    for state, learned in ((restored, 6), (lost, 6), (lost, 4)):
        note_batch(state, learned, {"unmatched": 6 - learned} if learned < 6 else {})
    note_rollback(restored, lost)
    assert (restored.read, restored.learned) == (4, 6)
    assert restored.left_out == {"unmatched": 2, "rolled-back": 4} and lost.left_out == {"unmatched": 2}
    assert "learned from 6 of the 12 runs" in summary(restored, "here") and "--lr" in summary(restored, "here")


def test_a_checkpoint_that_does_not_say_stands_where_its_iterations_do() -> None:
    state = State(iteration=5)
    assert position(state) == 5
    check_learned(state, "here")
    note_batch(state, 3, {})
    assert (state.read, state.left_out) == (6, {})
    with pytest.raises(NothingLeftError, match="none of 0"):
        check_learned(State(), "here")
