"""Learning, proven in the tiny world (DESIGN §3 of the issue "Train"): minutes, so run with -m learning."""

from pathlib import Path

import pytest
import torch

from evaluation.statistics import interval
from experiments.tinyworld import Learned, gains, learn
from training.tinystart import Start, warm_start

pytestmark = pytest.mark.learning
MARGIN = 0.10
"""Held-out F1 that PPO must add to its warm start, on the mean of two seeds."""


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    torch.set_num_threads(1)
    return warm_start(tmp_path_factory.mktemp("warm"))


@pytest.fixture(scope="module")
def trained(start: Start, tmp_path_factory: pytest.TempPathFactory) -> list[Learned]:
    return [learn(start, tmp_path_factory.mktemp("arm"), seed) for seed in (0, 1)]


def test_ppo_raises_held_out_f1_and_lowers_regret(trained: list[Learned]) -> None:
    for item in trained:
        assert item.after.f1 > item.before.f1 and item.after.sampled_f1 > item.before.sampled_f1
        assert item.after.regret < item.before.regret
    assert interval(gains(trained)).mean >= MARGIN


def test_rewards_of_other_questions_teach_nothing(start: Start, tmp_path: Path) -> None:
    control = learn(start, tmp_path, 0, control=True)
    assert interval(gains([control])).low <= 0.0
