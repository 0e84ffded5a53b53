"""Metrics beside the checkpoint: the later line of an iteration counts, and damage costs one line."""

import logging
from pathlib import Path

import pytest

from training.history import FILE, add_metrics, read_metrics


def test_what_is_added_is_read_and_an_iteration_done_again_replaces_the_first(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
    for step, reward in ((0, 0.1), (1, 0.2), (2, 0.3), (1, 0.25)):
        add_metrics(tmp_path, step, {"rollout/reward": reward, "update/kl": float("nan")})
    rows = [(0, 0.1), (1, 0.25), (2, 0.3)]
    assert read_metrics(tmp_path) == [(step, {"rollout/reward": reward}) for step, reward in rows]


def test_a_torn_line_costs_itself_alone(tmp_path: Path) -> None:
    add_metrics(tmp_path, 1, {"a": 1.0})
    with (tmp_path / FILE).open("a") as file:
        file.write('{"step": 2, "a"')
    add_metrics(tmp_path, 3, {"a": 3.0})
    with (tmp_path / FILE).open("a") as file:
        file.write('[1]\n{"a": 1.0}\n{"step": 4, "a": "much"}\n')
    assert read_metrics(tmp_path) == [(1, {"a": 1.0}), (3, {"a": 3.0})]


def test_a_full_disk_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING, logger="jade.ppo"):
        add_metrics(tmp_path / "file", 3, {"a": 1.0})
    assert "the metrics of iteration 3 are not in" in caplog.text
