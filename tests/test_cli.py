"""The command line, run as users run it: arguments in; stdout, stderr and an exit code out."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from graphs.ledger import find_run, ledger_folder, read_ledger
from graphs.trajectory import Trajectory
from tests import cli_toy
from tests.cli_toy import SERIAL, SINGLE, Run
from tests.scripted import PASSAGES, ListRetriever

home, command, play = cli_toy.home, cli_toy.command, cli_toy.play  # its fixtures


def test_help_answers_in_under_a_second_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from cli.main import run; run(['--help']); "
        "heavy = {'torch', 'transformers', 'peft', 'chromadb', 'mlflow', 'langgraph', 'pydantic', 'numpy'}; "
        "sys.exit(bool(heavy & set(sys.modules)))"
    )
    seconds = []
    for _ in range(2):  # the first start may compile bytecode
        started = time.perf_counter()
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 1.0


@pytest.mark.parametrize("name", ["ask", "index", "runs", "show", "why", "feedback", "export", "doctor"])
def test_every_command_has_help(command: Run, name: str) -> None:
    code, out, _ = command(name, "--help")
    assert code == 0
    assert f"Usage: jade {name}" in out


def test_version(command: Run) -> None:
    code, out, _ = command("--version")
    assert code == 0
    assert out.startswith("jade 0.")


# --- ask ---------------------------------------------------------------------------------------------------------


def test_ask_prints_answer_workflow_passages_costs_and_run(command: Run, play: Any) -> None:
    play(SINGLE)
    code, out, err = command("ask", "Where was Mozart born?")
    assert code == 0
    assert out.splitlines()[0] == "Salzburg"
    assert "workflow R,AG" in out
    assert "root  R,AG" in out
    assert "★ Mozart" in out
    assert "· K2" in out
    assert "1 turn · 1 retrieval · 2 calls" in out
    run = next(read_ledger(ledger_folder()))
    assert f"jade show {run.run}" in out
    assert "loading the toy" in err
    assert "loading" not in out


def test_ask_prints_sub_questions_under_their_nodes(command: Run, play: Any) -> None:
    play(SERIAL)
    _, out, _ = command("ask", "Who is the mayor of the town where Mozart was born?")
    lines = [line.strip("│├└─ ") for line in out.splitlines()]
    assert "workflow QDS(R,AG | R,AG)" in lines
    hop = next(index for index, line in enumerate(lines) if line.startswith("root/1"))
    assert "Who is the mayor of Salzburg?" in lines[hop]
    order = [line.split()[0] for line in lines if line.startswith(("root/", "AS", "QDS  ", "R  ", "AG  "))]
    assert order == ["QDS", "root/0", "R", "AG", "root/1", "R", "AG", "AS"]


def test_ask_as_json_is_json_alone(command: Run, play: Any) -> None:
    play(SINGLE)
    code, out, _ = command("ask", "Where was Mozart born?", "--json")
    data = json.loads(out)
    assert code == 0
    assert (data["answer"], data["outcome"], data["turns"]) == ("Salzburg", "ok", 1)
    assert data["workflow"]["plan"] == "R,AG"
    assert data["citations"][0] == {"id": "mozart", "title": "Mozart"}
    assert "trajectory" not in data
    data = json.loads(command("ask", "Where was Mozart born?", "--json", "--show")[1])
    assert Trajectory.from_json(data["trajectory"]).answer == "Salzburg"


def test_ask_passes_on_what_was_given_and_nothing_else(command: Run, play: Any, tmp_path: Path) -> None:
    seen = play({"answer_generator": "Salzburg"})
    arguments = ("--model", "m", "--adapter", "none", "--collection", "notes", "--retriever", "bm25", "--threads", "2")
    arguments += ("--workflow", "R,AG", "--max-turns", "3", "--seed", "7", "--ledger", str(tmp_path / "elsewhere"))
    code, _, err = command("ask", "Where?", *arguments)
    assert code == 0, err
    assert seen.pop("progress")
    assert seen == {
        "model": "m",
        "adapter": None,
        "index": "notes",
        "retriever_mode": "bm25",
        "threads": 2,
        "device": "auto",
        "dtype": "auto",
        "top_k": 5,
        "ledger": tmp_path / "elsewhere",
    }
    recorded = find_run(tmp_path / "elsewhere", None)
    assert recorded.options == {"max_turns": 3, "seed": 7, "workflow": "R,AG"}


def test_ask_that_is_not_recorded_leaves_nothing(command: Run, play: Any) -> None:
    play(SINGLE)
    code, out, _ = command("ask", "Where?", "--record", "off")
    assert code == 0
    assert "jade show" not in out
    assert not ledger_folder().exists()


def test_a_full_disk_still_answers_and_warns(command: Run, play: Any) -> None:
    play(SINGLE)
    code, out, err = command("ask", "Where?", "--ledger", "/proc/no-such-folder")
    assert code == 0
    assert out.splitlines()[0] == "Salzburg"
    assert err.count("the run was not recorded") == 1
    assert "warning: the run was not recorded" in err
    assert "jade show" not in out  # there is nothing to show


def test_hostile_text_cannot_reach_the_terminal(command: Run, play: Any) -> None:
    class Hostile(ListRetriever):
        def __init__(self) -> None:
            super().__init__([("x\x1b[2J", "Title\x1b]0;owned\x07 [red]", "text \x1b[31m"), *PASSAGES])

    play({**SINGLE, "answer_generator": "<answer>Salz\x1b[1Aburg</answer>"}, retriever=Hostile())
    _, out, err = command("ask", "Where \x1b[2J is the title text [bold]?", "--show")
    assert "\x1b" not in out + err
    assert "\x07" not in out + err
    assert "[bold]" in out  # no markup either
    assert "\x1b" not in command("show")[1]
    assert "\x1b" not in command("runs")[1]


def test_a_crashed_run_is_exit_code_one_without_a_traceback(command: Run, play: Any) -> None:
    play({"planner": "R,AG"})  # the script refuses to play the answer generator
    code, out, err = command("ask", "Where?")
    assert (code, out) == (1, "")
    assert "failed: AssertionError" in err
    assert "--debug" in err
    assert "Traceback" not in err
    code, out, _ = command("ask", "Where?", "--json")
    assert (code, list(json.loads(out))) == (1, ["error"])
    assert "Traceback" in command("ask", "Where?", "--debug")[2]
    assert {run.outcome for run in read_ledger(ledger_folder())} == {"crashed"}


def test_the_prompt_asks_until_the_input_ends(command: Run, play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    play(SINGLE)
    monkeypatch.setattr(sys, "stdin", io.StringIO("Where?\n\n" + "x" * 100_000 + "\nWhere again?\n"))
    code, out, err = command("ask")
    assert code == 0
    assert out.count("workflow R,AG") == 2
    assert "100,000 characters" in err  # one bad question costs that question only
    assert len(list(read_ledger(ledger_folder()))) == 2


# --- index -------------------------------------------------------------------------------------------------------


def test_index_builds_lists_and_updates(command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agents.embedder import HashEmbedder

    monkeypatch.setattr("agents.index.open_embedder", lambda *_, **__: HashEmbedder())
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("# Mozart\nMozart was born in Salzburg.")
    code, out, err = command("index", str(tmp_path / "notes"), "--collection", "notes", "--json")
    assert code == 0, err
    data = json.loads(out)
    assert (data["collection"], data["passages"], data["added"]) == ("notes", 1, 1)
    (tmp_path / "notes" / "b.md").write_text("# Salzburg\nA town.")
    code, out, _ = command("index", str(tmp_path / "notes"), "--collection", "notes")
    assert code == 0
    assert "2 passages (1 added, 1 kept)" in out
    assert json.loads(command("index", "--list", "--json")[1])[0]["name"] == "notes"
    assert "notes  2 passages" in command("index", "--list")[1]


def test_index_tells_its_stages_and_what_an_interrupt_leaves(
    command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agents.embedder import HashEmbedder, Matrix

    class Interrupted(HashEmbedder):
        def encode(self, texts: Sequence[str]) -> Matrix:
            raise KeyboardInterrupt

    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("# Mozart\nMozart was born in Salzburg.")
    arguments = ("index", str(tmp_path / "notes"), "--collection", "notes")
    monkeypatch.setattr("agents.index.open_embedder", lambda *_, **__: Interrupted())
    code, out, err = command(*arguments)
    assert (code, out) == (130, "")
    assert err.splitlines()[:2] == ["reading", "embedding 0 of 1"]  # no bar where nobody watches
    assert "run it again to go on" in err
    assert "run it again without --rebuild to go on" in command(*arguments, "--rebuild")[2]
    monkeypatch.setattr("agents.index.open_embedder", lambda *_, **__: HashEmbedder())
    assert "1 passages (1 added)" in command(*arguments)[1]
