"""Figures of a training run: what is drawn is what was measured, without a display."""

from itertools import chain
from pathlib import Path

import pytest

from evaluation.plots import learning_curve, moving_mean, topology_shares

ROWS = [
    (0, {"eval/nq/f1": 0.2, "eval/nq/turns": 3.0}),
    (1, {"rollout/reward": 0.2, "rollout/score": 0.3, "update/kl": 0.01, "rollout/topology/QDS": 1.0}),
    (2, {"rollout/reward": 0.4, "rollout/score": 0.5, "rollout/topology/QDS": 0.25, "rollout/topology/QDP": 0.75}),
    (4, {"rollout/reward": 0.9, "eval/nq/f1": 0.6, "rollout/topology/QDP": 1.0}),
]


def test_a_moving_mean_by_hand() -> None:
    assert moving_mean([1.0, 3.0, 8.0], 2) == [1.0, 2.0, 5.5]
    assert moving_mean([]) == []


def test_the_learning_curve_holds_the_series() -> None:
    upper, lower = learning_curve(ROWS).axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in upper.lines}
    assert list(chain(*lines["rollout/reward, mean of 10"])) == pytest.approx([1, 0.2, 2, 0.3, 4, 0.5])
    assert lines["eval/nq/f1"] == [[0, 0.2], [4, 0.6]]
    assert not any("turns" in str(name) for name in lines)
    assert [line.get_label() for line in lower.lines] == ["update/kl"]


def test_topology_shares_are_stacked_to_one() -> None:
    figure = topology_shares(ROWS)
    assert figure is not None
    axes = figure.axes[0]
    assert [item.get_label() for item in axes.collections] == ["QDP", "QDS"]
    below, above = (item.get_paths()[0].vertices for item in axes.collections)
    assert below[:, 1].max() == 1.0 and above[:, 1].max() == pytest.approx(1.0)
    assert {round(float(y), 2) for y in below[:, 1]} == {0.0, 0.75, 1.0}  # QDP: 0, then 3/4, then all
    assert topology_shares(ROWS[:1]) is None


def test_figures_are_images_whatever_is_missing(tmp_path: Path) -> None:
    for number, rows in enumerate(([], ROWS[:1], ROWS[1:2], ROWS)):
        learning_curve(rows).savefig(tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").read_bytes().startswith(b"\x89PNG")
    figure = topology_shares(ROWS[1:2])
    assert figure is not None
    figure.savefig(tmp_path / "one.png")
