"""`jade why`: one run, a whole ledger, a critic; and what bad input gets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from graphs.ledger import LedgerWriter, find_run, ledger_folder, read_ledger
from tests import cli_toy
from tests.cli_toy import Run
from tests.replay_toy import read_mozart
from tests.test_ppo_command import config_of, toy_folder
from training.ppo import train

__all__ = ["toy_folder"]
home, command, play = cli_toy.home, cli_toy.command, cli_toy.play  # its fixtures
SCRIPT = {"planner": "R,DS,AG", "document_selector": "Document2", "answer_generator": read_mozart}
WHY = ("why", "--adapter", "none", "--resamples", "1")


@pytest.fixture
def recorded(play: Any, command: Run) -> str:
    """Record a run whose selector dropped the answer; return its id."""
    play(SCRIPT)
    assert command("ask", "Where was Mozart born?")[0] == 0
    return next(read_ledger(ledger_folder())).run


def row(out: str, call: str) -> list[str]:
    """Return the cells of a call's first row."""
    line = next(line for line in out.splitlines() if line.startswith(call))
    return line.split()


def test_one_run(command: Run, recorded: str) -> None:
    before = [file.read_bytes() for file in ledger_folder().iterdir()]
    code, out, _ = command(*WHY, recorded[:12], "--gold", "Salzburg", "--roles", "document_selector")
    assert code == 0
    assert "Where was Mozart born?" in out and "score 0.000 (gold: Salzburg)" in out and "answer K2" in out
    cells = row(out, "root/DS")
    assert cells[2:5] == ["skipped", "Salzburg", "+1.000"]
    assert "resampled ×1" in out and "the same" in out and "no adapter plays this role" in out
    assert "root/AG" not in out
    assert [file.read_bytes() for file in ledger_folder().iterdir()] == before


def test_the_latest_run_as_json_and_without_gold(command: Run, recorded: str) -> None:
    code, out, err = command(*WHY, "--instead", "skipped", "--json")
    data = json.loads(out)
    assert code == 0, err
    assert (data["run"], data["measure"], data["recorded"]["score"]) == (recorded, "agreement", 1.0)
    changes = {call["call"]: call["instead"]["skipped"]["change"].get("score") for call in data["calls"]}
    assert changes == {"root/PLAN": -1.0, "root/DS": -1.0, "root/AG": None}
    assert "no gold answer: agreement with itself" in command(*WHY, "--instead", "skipped")[1]


def test_a_whole_ledger(command: Run, recorded: str, tmp_path: Path) -> None:
    run = find_run(ledger_folder(), recorded)
    writer = LedgerWriter(ledger_folder(), "more")
    writer.close(replace(run, run="zz-crashed", outcome="crashed", error="E"))
    gold = tmp_path / "gold.jsonl"
    gold.write_text(json.dumps({"question": "Where was Mozart born?", "answers": ["Salzburg"]}) + "\n")
    every = (*WHY, "--ledger", str(ledger_folder()), "--answers", str(gold), "--instead", "skipped")
    code, out, err = command(*every)
    assert code == 0, err
    assert "1 runs, 1 of them with gold answers; 1 left out" in out
    assert "document selector helped on 0% and hurt on 100% of the 1 questions in which it spoke (0% and 100% of" in out
    assert "played by" not in out
    assert row(out, "document_selector")[1:6] == ["skipped", "1", "1", "0%", "100%"]
    assert "left out: zz-crashed: run zz-crashed ended as crashed" in err
    data = json.loads(command(*every, "--json")[1])
    assert data["runs"] == 1 and {effect["role"] for effect in data["roles"]} == {"planner", "document_selector"}
    assert data["roles"][0]["score"]["mean"] == 1.0 and len(data["left_out"]) == 1
    assert command(*every, recorded)[1].count("root/PLAN") == 1  # a run is named: that one alone
    code, _, err = command(*every, "--limit", "1")
    assert code == 0 and "left out" not in err


def test_a_ledger_of_several_policies_says_who_goes_on(command: Run, recorded: str, tmp_path: Path) -> None:
    run = find_run(ledger_folder(), recorded)
    writer = LedgerWriter(tmp_path / "ledger")
    writer.close(run)
    for place in range(7):
        policy = f"p{min(place, 5)}"
        identity = {**run.identity, "speakers": dict.fromkeys(run.identity["speakers"], policy)}
        writer.close(replace(run, run=f"run-{place}", hashes={**run.hashes, "policy": policy}, identity=identity))
    every = (*WHY, "--ledger", str(tmp_path / "ledger"), "--gold", "Salzburg", "--instead", "skipped")
    data = json.loads(command(*every, "--json")[1])
    said = "the run was played by {}, what goes on live is played by script"
    assert data["remarks"] == {said.format("p5"): 2, **{said.format(f"p{place}"): 1 for place in range(5)}}
    out = " ".join(command(*every)[1].split())
    assert f"2 of 8 runs: {said.format('p5')}" in out and f"1 of 8 runs: {said.format('p3')}" in out
    assert said.format("p4") not in out and "… and others; 7 of 8 runs in all" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nope",), ["no run starts with 'nope'"]),
        (("--resamples", "-1"), ["--resamples"]),
        (("--instead", "forgotten"), ["cannot be forgotten", "skipped, resampled, untuned"]),
        (("--roles", "writer"), ["no role writer; allowed: planner"]),
        (("--gold", "a", "--answers", "nq"), ["--gold or --answers, not both"]),
        (("--answers", "nqq"), ["no dataset or file 'nqq'"]),
        (("--ledger", "/nowhere"), ["no ledger at /nowhere"]),
        (("--critic", "/nowhere"), ["/nowhere holds no checkpoint"]),
        (("--critic", "/nowhere", "--resamples", "1"), ["--resamples 2 or more"]),
        (("--graph", "nowhere:graph"), ["cannot be imported"]),
        (("--adapter", "recorded"), ["played by the adapter script", "--adapter FOLDER"]),
    ],
)
def test_bad_input_gets_a_message(command: Run, recorded: str, arguments: tuple[str, ...], words: list[str]) -> None:
    code, out, err = command("why", "--adapter", "none", *arguments)
    assert (code, out) == (2, "")
    assert all(word in err for word in words), err


def test_a_ledger_of_which_nothing_can_be_explained(command: Run, recorded: str, tmp_path: Path) -> None:
    run = find_run(ledger_folder(), recorded)
    LedgerWriter(tmp_path / "other").close(replace(run, hashes={**run.hashes, "text": "old"}))
    code, _, err = command(*WHY, "--ledger", str(tmp_path / "other"))
    assert code == 2 and "none of its 1 runs can be explained" in err and "text hash old" in err


def test_the_values_of_a_trained_critic(command: Run, toy_folder: Path) -> None:
    """The real door: a model folder, a trained adapter, a graph of one's own, samples by the model."""
    assert train(config_of(toy_folder, alpha=0.5)) == 0
    folder = toy_folder / "run"
    arguments = ("why", "--ledger", str(folder / "ledger"), "--limit", "2", "--resamples", "2", "--critic", str(folder))
    code, out, err = command(*arguments, "--threads", "1", "--json")
    assert code == 0, err
    data = json.loads(out)
    assert data["runs"] == 2 and data["left_out"] == []
    found = {(effect["role"], effect["kind"]) for effect in data["roles"]}
    assert {("writer", "resampled"), ("judge", "resampled"), ("judge", "skipped"), ("writer", "untuned")} <= found
    states, runs = data["critic"]["states"], list(read_ledger(folder / "ledger"))[:2]
    assert len(states) == sum(len(run.calls) for run in runs) == data["critic"]["agreement"]["states"]
    assert all(state["samples"] == 2 and 0.0 <= state["monte_carlo"] <= 1.0 for state in states)
    assert len({state["value"] for state in states}) > 1
    code, out, err = command(*arguments, "--threads", "1", runs[0].run, "--instead", "resampled")
    assert code == 0, err
    assert f"critic over {len(runs[0].calls)} states" in out and "Monte Carlo" in out
