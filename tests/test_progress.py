"""Progress: a bar with time left and the moving reward on a terminal, plain lines elsewhere."""

import io
import logging
import sys

import pytest
from rich.console import Console

import training.progress
from tests.test_clock import Hands
from training.progress import Following, duration, following


def test_the_moving_reward_and_the_time_left_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.progress, "time", hands := Hands())
    follow = Following(first=10, total=40, runs=8)
    assert follow.moving_reward is None and follow.minutes_left() is None
    for number in range(12):
        hands.now += 120.0
        follow.finished(11 + number, {"rollout/reward": float(number)})
    assert follow.moving_reward == pytest.approx(sum(range(2, 12)) / 10)
    assert follow.minutes_left() == pytest.approx(2 * (40 - 22))


@pytest.mark.parametrize(("minutes", "words"), [(0.5, "30 s"), (12.2, "12 min"), (185.0, "3 h 05 min")])
def test_durations(minutes: float, words: str) -> None:
    assert duration(minutes) == words


def test_plain_lines_where_there_is_no_terminal(caplog: pytest.LogCaptureFixture) -> None:
    out = io.StringIO()
    with caplog.at_level(logging.INFO, logger="jade.ppo"), following(0, 4, 8, Console(file=out)) as follow:
        follow.recorded()
        follow.finished(1, {"rollout/reward": 0.25, "update/kl": 0.5, "rollout/turns": 2.0})
        follow.finished(2, {"rollout/reward": 0.75})
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("1/4  reward 0.250  (moving 0.250)  kl 0.500") and first.endswith("s left")
    assert second.startswith("2/4  reward 0.750  (moving 0.500)") and out.getvalue() == ""


def test_a_bar_on_a_terminal_with_log_lines_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    out, plain = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", plain)
    root, handler = logging.getLogger(), logging.StreamHandler(plain)
    root.addHandler(handler)
    try:
        console = Console(file=out, force_terminal=True, width=120)
        with following(1, 4, 8, console) as follow:
            follow.recorded()
            follow.finished(2, {"rollout/reward": 0.5})
            logging.getLogger("jade.ppo").warning("alarm entropy")
        assert handler.stream is plain and plain.getvalue() == ""  # nothing was written over the bar
    finally:
        root.removeHandler(handler)
    text = out.getvalue()
    assert "iterations" in text and "2/4" in text and "reward +0.500 (mean of 1)" in text and "left" in text
    assert "executions" in text and "0/8" in text and "alarm entropy" in text


def test_replaying_a_ledger_counts_no_executions() -> None:
    out = io.StringIO()
    with following(0, 2, 0, Console(file=out, force_terminal=True, width=120)) as follow:
        follow.recorded()
        follow.finished(1, {})
    assert "iterations" in out.getvalue() and "executions" not in out.getvalue()
