"""Learning, proven in the tiny world: minutes of two cores, so it runs only with -m learning."""

import sys

import pytest
import torch

from evaluation.statistics import interval
from experiments.tinyworld import Learned, gains, learn_all, table
from training.tinystart import warm_start

pytestmark = pytest.mark.learning
MARGIN = 0.10
"""Held-out F1 that PPO must add to its warm start, on the mean of two seeds."""
ARMS = ({"seed": 0, "iterations": 7}, {"seed": 1, "iterations": 7}, {"seed": 0, "control": True, "iterations": 4})


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> list[Learned]:
    folder = tmp_path_factory.mktemp("tiny")
    torch.set_num_threads(2)
    found = list(learn_all(warm_start(folder), folder, ARMS, processes=2))
    for item in found:
        sys.stdout.write(f"{table([item])}\n{item.cpu_seconds:.0f} CPU s\n")
    return found


def test_ppo_raises_held_out_f1_and_lowers_regret(arms: list[Learned]) -> None:
    trained = arms[:2]
    for item in trained:
        assert item.after.f1 > item.before.f1 and item.after.sampled_f1 > item.before.sampled_f1
        assert item.after.regret < item.before.regret and item.after.sampled_regret < item.before.sampled_regret
    gain = interval(gains(trained))
    assert gain.mean >= MARGIN and gain.low > 0


def test_rewards_of_other_questions_teach_nothing(arms: list[Learned]) -> None:
    assert interval(gains(arms[2:])).low <= 0.0
