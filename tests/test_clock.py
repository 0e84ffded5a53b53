"""Where an iteration's time went: by hand with a fake clock, and that the parts of a real one sum to the wall."""

import time
from pathlib import Path

import pytest

import training.clock
from evaluation.glossary import check_metrics
from graphs.collection import Timing
from tests.ppo_toy import toy_session
from tests.test_ppo import Notes
from training.clock import Clock, peak_memory
from training.ppo import run


class Hands:
    """A clock that goes when told to."""

    now = 100.0

    def perf_counter(self) -> float:
        return self.now

    monotonic = perf_counter


def test_an_iteration_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    hands = Hands()
    monkeypatch.setattr(training.clock, "time", hands)
    clock = Clock()
    hands.now += 10.0  # a collection: 6 s of the model, of which 2 and 3 are prefill and decode; graph 8 − 6 − 1
    timing = Timing(model=6.0, prefill=2.0, decode=3.0, retrieval=1.0, total=8.0)
    clock.collected(timing, 10.0, tokens=500)
    with clock.stage("update"):
        hands.now += 4.0
    with clock.stage("update"):
        hands.now += 4.0
    clock.updated(1600)
    hands.now += 2.0  # nobody claims this
    found = clock.metrics()
    check_metrics(found)
    assert {name: value for name, value in found.items() if not name.startswith("memory")} == {
        "time/prefill": 2.0, "time/decode": 3.0, "time/batching": 1.0, "time/retrieval": 1.0, "time/graph": 1.0,
        "time/ledger": 2.0, "time/update": 8.0, "time/idle": 2.0, "time/total": 20.0, "time/idle_share": 0.1,
        "speed/tokens_per_second": 50.0, "speed/update_tokens_per_second": 200.0,
    }  # fmt: skip
    with clock.stage("checkpoint"):  # what follows counts in the next iteration
        hands.now += 3.0
    hands.now += 1.0
    found = clock.metrics()
    assert (found["time/checkpoint"], found["time/total"], found["time/idle_share"]) == (3.0, 4.0, 0.25)
    assert "time/update" not in found and "speed/tokens_per_second" not in found


def test_a_stage_counts_even_if_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.clock, "time", hands := Hands())
    clock = Clock()
    with pytest.raises(KeyError), clock.stage("score"):
        hands.now += 1.5
        raise KeyError
    assert clock.metrics()["time/score"] == 1.5


def test_the_parts_of_real_iterations_sum_to_the_wall(tmp_path: Path) -> None:
    session, notes = toy_session(tmp_path, iterations=3, eval_every=1, traces=2), Notes()
    started = time.perf_counter()
    assert run(session, notes) == 0  # type: ignore[arg-type]
    wall, laps = time.perf_counter() - started, [found for step, found in notes.metrics if step]
    for found in laps:
        parts = [value for name, value in found.items() if name.startswith("time/") and name not in
                 ("time/total", "time/idle_share")]  # fmt: skip
        assert sum(parts) == pytest.approx(found["time/total"], abs=1e-6)  # nothing is counted twice
        assert found["time/prefill"] > 0 and found["time/decode"] > 0 and found["time/update"] > 0
        assert found["time/idle_share"] < 0.05
        assert found["speed/tokens_per_second"] > 0 and found["speed/update_tokens_per_second"] > 0
    assert "time/checkpoint" in laps[0] and sum(found["time/total"] for found in laps) < wall


def test_peak_memory_is_that_of_this_process() -> None:
    with Path("/proc/self/status").open() as status:
        kilobytes = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    assert 0.95 * kilobytes / 2**20 <= peak_memory() < 1024
