from pathlib import Path

import pytest

from tests.ppo_toy import toy_session
from tests.test_ppo import Notes
from training.health import ALARMS, HELD_OUT, AlarmLimits, alarms, remember, remember_evaluation
from training.ppo import run

LIMITS = AlarmLimits(entropy=0.1, topology=0.9, gap=0.1, window=2)


def ring(rows: list[dict[str, float]], finite: bool = True) -> set[str]:
    history: dict[str, list[float]] = {}
    for row in rows:
        remember(history, row, LIMITS.window)
    return set(alarms(rows[-1], finite, history, LIMITS))


def test_a_healthy_run_rings_nothing() -> None:
    row = {"update/entropy": 1.0, "rollout/objective": 0.4, "rollout/f1": 0.5, "rollout/topology/QDS": 1.0}
    assert ring([row] * 6) == set()  # one topology from the start is a choice, not a collapse


def test_not_a_number() -> None:
    assert ring([{"update/kl": float("nan")}]) == {"nan"}
    assert ring([{"update/kl": float("inf")}]) == {"nan"}
    assert ring([{"update/kl": 1.0}], finite=False) == {"nan"}


def test_entropy_collapse_is_measured_against_the_first_iteration() -> None:
    rows = [{"update/entropy": value} for value in (2.0, 0.5, 0.21)]
    assert ring(rows) == set()
    assert ring([*rows, {"update/entropy": 0.19}]) == {"entropy"}


def test_topology_collapse_needs_a_whole_window() -> None:
    first = {"rollout/topology/QDS": 0.4, "rollout/topology/SINGLE_ROUND": 0.6}
    taken = {"rollout/topology/SINGLE_ROUND": 0.95, "rollout/topology/QDS": 0.05}
    assert ring([first, taken]) == set()
    assert ring([first, taken, taken]) == {"topology"}
    assert ring([first, taken, first, taken]) == set()
    late = {"rollout/topology/QDP": 1.0}  # a topology that nobody used at first
    assert ring([first, late, late]) == {"topology"}


def paid(objective: list[float], f1: list[float]) -> list[dict[str, float]]:
    pairs = zip(objective, f1, strict=True)
    return [{"rollout/objective": what, "rollout/f1": accuracy} for what, accuracy in pairs]


def test_reward_without_accuracy() -> None:
    assert ring(paid([0.1, 0.1, 0.3, 0.3], [0.5, 0.5, 0.3, 0.3])) == {"reward_without_accuracy"}
    assert ring(paid([0.1, 0.1, 0.3], [0.5, 0.5, 0.3])) == set()
    assert ring(paid([0.1, 0.1, 0.3, 0.3], [0.5, 0.5, 0.6, 0.6])) == set()
    assert ring(paid([0.1, 0.1, 0.15, 0.15], [0.5, 0.5, 0.3, 0.3])) == set()  # not risen by the gap
    assert ring([{"rollout/objective": value} for value in (0.1, 0.1, 0.3, 0.3)]) == set()  # no gold answers


@pytest.mark.parametrize(
    ("f1", "rings"),
    [
        ([0.55, 0.45, 0.32, 0.28], {"reward_without_accuracy"}),  # −0.20; 2·√((0.005 + 0.0008)/2) = 0.108
        ([0.70, 0.30, 0.40, 0.20], set()),  # −0.20; 2·√((0.08 + 0.02)/2) = 0.447
    ],
)
def test_a_fall_that_the_questions_explain_rings_nothing(f1: list[float], rings: set[str]) -> None:
    assert ring(paid([0.1, 0.1, 0.3, 0.3], f1)) == rings


@pytest.mark.parametrize(
    ("now", "low", "rings"),
    [
        (0.30, 0.40, {"reward_without_accuracy"}),
        (0.30, 0.25, set()),  # within the interval of the evaluation before
        (0.45, 0.48, set()),  # fallen by less than the gap
    ],
)
def test_what_held_out_questions_lose_within_the_window_counts_too(now: float, low: float, rings: set[str]) -> None:
    history: dict[str, list[float]] = {}
    remember_evaluation(history, {"eval/a/f1": 0.4, "eval/b/f1": 0.6, "eval/a/f1/low": low, "eval/b/f1/low": low})
    rows = paid([0.1, 0.1, 0.3, 0.3], [0.5] * 4)
    for place, row in enumerate(rows):
        remember(history, row, LIMITS.window)
        if place == 1:
            remember_evaluation(history, {"eval/a/f1": now, "eval/a/f1/low": 0.0, "eval/a/turns": 9.0})
    assert history[HELD_OUT] == [0.5, 0.5, now, now, now]
    assert set(alarms(rows[-1], True, history, LIMITS)) == rings
    for _ in range(2):  # measured before the last window, it is what the next evaluation is held against
        remember(history, {"rollout/objective": 0.9, "rollout/f1": 0.5}, LIMITS.window)
    assert alarms({}, True, history, LIMITS) == {}


def test_an_evaluation_before_the_first_iteration_does_not_count_as_one() -> None:
    history: dict[str, list[float]] = {}
    remember_evaluation(history, {"eval/a/f1": 0.5, "eval/a/f1/low": 0.4})
    for _ in range(3):
        remember(history, {"rollout/topology/QDS": 1.0}, LIMITS.window)
    assert history["rollout/topology/QDS"] == [1.0] * 3 and alarms({}, True, history, LIMITS) == {}


def test_memory_stays_short_and_keeps_the_first_value() -> None:
    history: dict[str, list[float]] = {}
    for value in range(100):
        remember(history, {"update/entropy": float(value), "other": 1.0}, 2)
    assert history == {"update/entropy": [0.0, 96.0, 97.0, 98.0, 99.0]}
    assert "update/entropy" not in alarms({}, True, {"update/entropy": [1.0]}, LIMITS)


def test_the_message_says_what_was_seen() -> None:
    found = alarms({}, True, {"update/entropy": [2.0, 0.05]}, LIMITS)
    assert found["entropy"] == pytest.approx("entropy 0.0500 nat a token, 2.0000 at first")


WANTED = (
    "rollout/reward/planner", "rollout/score/planner", "rollout/turn_cost/planner", "rollout/retrieval_cost/planner",
    "rollout/format/planner", "update/entropy/planner", "update/kl/planner", "update/clip_fraction/planner",
    "update/advantage/planner", "update/advantage_std/planner", "rollout/valid/planner", "rollout/length/planner",
    "update/explained_variance", "rollout/topology/QDS", "rollout/turns", "rollout/retrievals", "rollout/dont_know",
    "rollout/copy", "update/correct_logprob",
)  # fmt: skip
"""What an iteration must say about its health, with a role as an example (empty selections: test_rollout_metrics)."""


def test_an_iteration_logs_everything_that_tells_its_health(tmp_path: Path) -> None:
    # constrained, so that valid plans, selections and graded answers occur in a random model
    options = {"questions": 5, "runs": 4, "decoding": "constrained", "temperature": 3.0}
    session, notes = toy_session(tmp_path, iterations=1, **options), Notes()
    assert run(session, notes) == 0  # type: ignore[arg-type]
    found = notes.metrics[-1][1]
    assert [name for name in WANTED if name not in found] == []
    assert not any(f"alarm/{name}" in found for name in ALARMS)
