"""`jade show RUN --credit`: from feedback, from gold answers, and with the critic of a PPO run; never from nothing."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from graphs.feedback import append_feedback
from graphs.ledger import LedgerWriter, read_ledger
from tests.cli_toy import Run, command
from tests.ppo_toy import graded
from tests.test_beforehand import session_of
from tests.test_ppo_command import config_of, toy_folder
from tests.test_recorded_credit import JOIN, RIGHT, RUN, SPLIT
from training.lead import Untracked
from training.ppo import run as run_training

__all__ = ["command", "toy_folder"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JADE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    LedgerWriter(tmp_path / "ledger").close(RUN)
    return tmp_path / "ledger"


def numbers(out: str, call: str) -> list[float]:
    """Return the numbers of a call's row."""
    row = next(
        line for line in out.splitlines() if line.split()[:1] == [call] and line.count("+") + line.count("-") > 4
    )
    return [float(word) for word in row.split()[2:]]


def test_from_a_persons_score_without_any_model(command: Run, ledger: Path) -> None:
    append_feedback(ledger, "r1", 0.8)
    before = set(sys.modules)
    code, out, _ = command("show", "r1", "--ledger", str(ledger), "--credit")
    assert code == 0
    assert not {"transformers", "peft"} & (set(sys.modules) - before)
    assert "reward R +0.800 = score 0.800 − turns 0.000 − retrievals 0.000" in out
    assert "tree_gae · α 0 · β 0 · p 1 · γ 1 · λ 0.95" in out and "values unknown, taken as 0; --critic" in out
    assert numbers(out, JOIN) == [0.0, 0.8, 0.8, 0.0, 0.0, 0.8]
    assert numbers(out, RIGHT) == [0.0, 0.76, 0.76, -1.0, 0.0, -0.24]
    assert numbers(out, SPLIT) == [0.0, 0.722, 0.722, 0.0, 0.0, 0.722]
    assert "reward R" not in command("show", "r1", "--ledger", str(ledger))[1]


def test_from_gold_answers_as_json(command: Run, ledger: Path, tmp_path: Path) -> None:
    gold = tmp_path / "gold.jsonl"
    gold.write_text(json.dumps({"id": "other", "question": "Q", "answers": ["Salzburg castle"]}) + "\n")
    code, out, _ = command("show", "r1", "--ledger", str(ledger), "--answers", str(gold), "--json")
    found = json.loads(out)["credit"]
    assert code == 0 and found["reward"]["score"] == pytest.approx(2 / 3)  # joined by question; F1 of one word of two
    assert found["calls"][JOIN]["returns"] == pytest.approx(2 / 3) and found["terms"]["lam"] == 0.95


def test_without_a_gold_answer_it_says_what_to_do(command: Run, ledger: Path, tmp_path: Path) -> None:
    code, _, err = command("show", "r1", "--ledger", str(ledger), "--credit")
    assert code == 2
    assert "no gold answer for run r1 ('q')" in err and "--answers FILE" in err and "jade feedback r1" in err
    gold = tmp_path / "gold.jsonl"
    gold.write_text(json.dumps({"id": "other", "question": "another", "answers": ["a"]}) + "\n")
    code, _, err = command("show", "r1", "--ledger", str(ledger), "--answers", str(gold))
    assert code == 2 and f"none of {gold} has it" in err
    code, _, err = command("show", "r1", "--ledger", str(ledger), "--critic", str(tmp_path))
    assert code == 2 and f"{tmp_path} holds no checkpoint" in err


def test_values_of_a_trained_critic(command: Run, toy_folder: Path) -> None:
    assert run_training(session_of(config_of(toy_folder, alpha=0.5, lam=0.9)), Untracked()) == 0
    folder = toy_folder / "run"
    run = next(run for run in read_ledger(folder / "ledger") if len(run.calls) > 1)
    shown = ("show", run.run, "--ledger", str(folder / "ledger"))
    code, out, err = command(*shown, "--critic", str(folder), "--json")
    assert code == 0, err
    found = json.loads(out)["credit"]
    assert found["terms"]["alpha"] == 0.5 and found["terms"]["lam"] == 0.9  # the run's own prices
    assert found["remarks"] == [f"values of the critic in {folder / 'checkpoint'}"]
    calls: list[dict[str, Any]] = list(found["calls"].values())
    assert len({call["value"] for call in calls}) > 1 and all(math.isfinite(call["value"]) for call in calls)
    assert calls[-1]["returns"] == pytest.approx(found["reward"]["total"])
    first, second = calls[-2], calls[-1]  # a chain: G = (1 − λ)·V + λ·G of the next
    assert first["returns"] == pytest.approx(0.1 * second["value"] + 0.9 * second["returns"])
    assert first["advantage"] == pytest.approx(first["returns"] - first["value"])
    LedgerWriter(toy_folder / "other").close(RUN)
    append_feedback(toy_folder / "other", "r1", 1.0)
    code, _, err = command("show", "r1", "--ledger", str(toy_folder / "other"), "--critic", str(folder))
    assert code == 2 and "another model, tokenizer or prompt set" in err


def test_a_run_trained_with_loo_has_the_baseline_of_its_question(command: Run, toy_folder: Path) -> None:
    config = config_of(toy_folder, estimator="loo", runs=3, alpha=0.5, format_penalty=2.0, iterations=1)
    session = session_of(config)
    assert run_training(session, Untracked()) == 0
    segment = toy_folder / "run" / "ledger" / "iteration-000000.jsonl"
    runs = sorted(read_ledger(segment), key=lambda run: run.run)
    mine = runs[0]
    asked = [run for run in runs if run.question_id == mine.question_id]
    assert len(asked) == 3 and len(runs) == 6
    rewards = [graded(run.answer, ("yes",)) for run in asked]  # one turn costs nothing
    shown = ("show", mine.run, "--ledger", str(segment.parent), "--critic", str(toy_folder / "run"))
    code, out, err = command(*shown, "--json")
    assert code == 0, err
    found = json.loads(out)["credit"]
    baseline = (rewards[1] + rewards[2]) / 2
    assert found["terms"]["estimator"] == "loo" and found["terms"]["penalty"] == 2.0
    assert found["remarks"] == [f"V is the mean R of the question's other 2 runs in {segment}: loo has no critic"]
    for call in found["calls"].values():
        assert call["value"] == pytest.approx(baseline) and call["returns"] == pytest.approx(rewards[0])
        assert call["advantage"] == pytest.approx(rewards[0] - baseline) and call["format_value"] == 0.0
    out = command(*shown)[1]
    assert "loo · α 0.5 · β 0 · p 2" in out and "λ" not in out
    LedgerWriter(toy_folder / "alone").close(mine)
    shown = ("show", mine.run, "--ledger", str(toy_folder / "alone"), "--critic", str(toy_folder / "run"))
    assert "no other scored run of the question" in command(*shown)[1]
