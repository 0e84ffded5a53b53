import logging
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.errors import ConfigError
from tests.ppo_toy import toy_session
from tests.test_ppo_command import config_of, toy_folder
from training.credit_report import ESTIMATORS, Comparison, compare, read_arguments
from training.ppo import train
from training.rollout import gather, prepare
from training.update import start_critic

__all__ = ["toy_folder"]


def test_a_comparison_by_hand() -> None:
    found = Comparison(
        roles=("AG", "idle", "planner"),
        advantages={"tree_gae": np.float32([1, -2, 3, 1]), "loo": np.float32([1, 2, -1, -1])},
        role_ids=np.array([0, 2, 2, 2]),
        gradients={"tree_gae": torch.tensor([3.0, 4.0]), "loo": torch.tensor([4.0, 3.0])},
        role_cosines={"AG": {("tree_gae", "loo"): 1.0}, "planner": {}},
    )
    assert found.agreement("tree_gae", "loo") == 0.25 and found.agreement("tree_gae", "loo", "planner") == 0.0
    assert found.cosine("tree_gae", "loo") == pytest.approx(0.96)
    assert found.table().splitlines() == [
        "| role | calls | tree_gae: mean, variance | loo: mean, variance |",
        "|---|---|---|---|",
        "| AG | 1 | +1.0000, 0.0000 | +1.0000, 0.0000 |",
        "| planner | 3 | +0.6667, 4.2222 | +0.0000, 2.0000 |",
        "",
        "Same sign, gradient cosine:",
        "",
        "| pair | all | AG | planner |",
        "|---|---|---|---|",
        "| tree_gae, loo | 0.25, +0.960 | 1.00, +1.000 | 0.00, +nan |",
    ]


def test_the_estimators_side_by_side(tmp_path: Path) -> None:
    session = toy_session(tmp_path, estimator="broadcast", decoding="constrained", lam=1.0)
    runs = gather(session.worlds[0], session.players, session.config, 0, 0)
    rollout = prepare(runs, session.players, session.store, session.gold, session.config, version=0)
    start_critic(session.players, rollout.buffer, rollout.team, rollout.scored)
    # one value for both kinds of estimator, so that what must agree does
    rollout.scored.values[:, 0] = 0.3
    for values in rollout.scored.token_values or []:
        values[:] = 0.3
    found = compare(session, rollout)
    assert tuple(found.advantages) == ESTIMATORS
    assert found.cosine("tree_gae", "terminal_gae") == pytest.approx(1.0, abs=1e-5)  # γ = λ = 1: the same
    assert found.agreement("tree_gae", "terminal_gae") == 1.0
    assert all(torch.isfinite(gradient).all() and gradient.any() for gradient in found.gradients.values())
    table = found.table()
    assert "| answer_generator |" in table and "| tree_gae, loo |" in table
    assert "| pair | all | answer_generator |" in table
    for role in ("planner", "answer_generator"):  # per role as in all
        assert found.agreement("tree_gae", "terminal_gae", role) == 1.0
        assert found.cosine("tree_gae", "terminal_gae", role) == pytest.approx(1.0, abs=1e-5)
    assert -1.0 <= found.cosine("tree_gae", "loo", "planner") < 0.999
    assert all(parameter.grad is None for parameter in session.optimiser.policy)


def credit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Run `python -m training.credit` in this process."""
    monkeypatch.setattr(sys, "argv", ["training.credit", *map(str, words)])
    monkeypatch.setattr(logging, "basicConfig", lambda **options: None)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("training.credit", run_name="__main__")
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_the_command_takes_a_ledger_and_knows_the_run_it_belongs_to(
    toy_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(config_of(toy_folder, questions=3)) == 0
    ledger = toy_folder / "run" / "ledger"
    code, out, err = credit(monkeypatch, capsys, ledger)
    assert code == 0, err
    assert f"6 of 6 runs of {ledger / 'iteration-000001.jsonl'}; values of the run's critic" in out
    rows = dict(re.findall(r"\| (\w+) \| (\d+) \|", out))
    assert set(rows) == {"judge", "writer"} and rows["writer"] != "0" and "| tree_gae, broadcast |" in out
    # without that run: a copy elsewhere, a fresh adapter, and answers that must be named
    (toy_folder / "copy").mkdir()
    copy = toy_folder / "copy" / "runs.jsonl"
    copy.write_bytes((ledger / "iteration-000000.jsonl").read_bytes())
    options = ["--model", toy_folder / "toy", "--first_layer", 1, "--rank", 4, "--dtype", "fp32"]
    answers = ["--answers", toy_folder / "my.jsonl", "--score", "tests.ppo_toy:graded"]
    code, out, err = credit(monkeypatch, capsys, *options, copy, *answers)
    assert code == 0, err
    assert "values of a fresh critic, the batch's mean" in out
    code, _, err = credit(monkeypatch, capsys, copy, *options, "--datasets", '["nq"]')
    assert code == 2 and err.startswith("NothingLeftError: none of 6 recorded runs can be trained on: 6 unmatched")


def test_a_ledger_must_be_named_once() -> None:
    with pytest.raises(ConfigError, match="2 ledgers are given"):
        read_arguments(["a", "--lr", "1", "b"])
    config, run = read_arguments(["--lr=0.5", "here", "--resume", "false"])
    assert (config.ledger, config.lr, config.resume, run) == ("here", 0.5, False, None)
    assert read_arguments(["--ledger", "here"])[0].ledger == "here"
