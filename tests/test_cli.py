"""The command line, run as users run it: arguments in; stdout, stderr and an exit code out."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents.errors import ConfigError, RetrieverError
from cli.main import run as jade
from graphs.jade import build_jade
from graphs.ledger import find_run, ledger_folder, read_ledger
from graphs.trajectory import Trajectory
from tests.scripted import PASSAGES, ListRetriever, record, says

SINGLE = {"planner": "R,AG", "answer_generator": "Salzburg"}
SERIAL = {
    "planner": lambda user: "QDS" if "mayor" in user and "town" in user else "R,AG",
    "serial_decomposer": "<q1>Where was Mozart born?</q1><q2>Who is the mayor of #1?</q2>",
    "answer_generator": lambda user: "Bernhard Auinger" if "Who is the mayor" in user else "Salzburg",
    "answer_summariser": "Bernhard Auinger",
}
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JADE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "home"


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = jade(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Let `load_graph` return the scripted graph; return the dict that keeps what it was called with."""

    def install(script: dict[str, Any], **extra: Any) -> dict[str, Any]:
        seen: dict[str, Any] = {}

        def load_graph(**arguments: Any) -> Any:
            seen.update(arguments)
            arguments["progress"]("loading the toy")
            folder = arguments.get("ledger") or ledger_folder()
            return record(build_jade, says(**script), folder, **extra).graph

        monkeypatch.setattr("graphs.app.load_graph", load_graph)
        return seen

    return install


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
    assert "warning: the run was not recorded" in err


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


# --- what bad input gets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("ask", ""), ["question is blank", "in quotes"]),
        (("ask", " \n\t"), ["question is blank"]),
        (("ask", "x" * 100_000), ["100,000 characters", "4,000"]),
        (("ask", "Q", "--workflow", "R"), ["'R' is no plan", "R,AG", "QDS"]),
        (("ask", "Q", "--workflow", "DS,AG"), ["no plan"]),
        (("ask", "Q", "--workflow", "QDS/QDS/QDS"), ["more than two"]),
        (("ask", "Q", "--workflow", "QDS", "--max-depth", "0"), ["max_depth"]),
        (("ask", "Q", "--workflow", "R,AG", "--max-retrievals", "0"), ["max_retrievals"]),
        (("ask", "Q", "--max-turns", "0"), ["max_turns=0", "greater than or equal to 1"]),
        (("ask", "Q", "--max-turns", "many"), ["--max-turns", "integer"]),
        (("ask", "Q", "--record", "maybe"), ["record='maybe'", "'train'"]),
        (("ask", "Q", "--record", "train", "--temperature", "0"), ["cannot be trained on"]),
        (("ask", "Q", "--decoding", "beam"), ["decoding='beam'", "constrained"]),
        (("ask", "Q", "--select", "none"), ["select='none'"]),
        (("ask", "Q", "--bogus"), ["No such option", "jade ask --help"]),
        (("ask", "Q", "and more"), ["and more"]),
        (("bogus",), ["No such command 'bogus'", "jade --help"]),
        (("index",), ["nothing to index", "--dataset"]),
        (("index", "/nowhere"), ["/nowhere does not exist"]),
        (("index", "--dataset", "bogus"), ["no bundled dataset", "hotpotqa"]),
        (("index", "/tmp", "--dataset", "nq"), ["both a source"]),
        (("index", "/tmp", "--collection", "a b"), ["cannot be the name of a collection"]),
        (("runs", "--outcome", "fine"), ["--outcome fine", "crashed"]),
        (("runs", "--workflow", "R"), ["--workflow R", "R,AG"]),
        (("runs", "--since", "yesterday"), ["--since yesterday", "7d"]),
        (("runs", "--limit", "0"), ["--limit"]),
        (("runs", "--ledger", "/nowhere"), ["no ledger at /nowhere"]),
        (("show", "abc"), ["no ledger at", "ask a question first"]),
        (("feedback", "abc", "--score", "0.5"), ["no ledger at"]),
        (("feedback", "abc", "--score", "7"), ["from 0 (wrong) to 1"]),
        (("feedback", "abc", "--score", "nan"), ["from 0 (wrong) to 1"]),
        (("feedback", "abc"), ["--score"]),
    ],
)
def test_bad_input_gets_a_message_and_exit_code_two(
    command: Run, play: Any, arguments: tuple[str, ...], words: list[str]
) -> None:
    play(SINGLE)
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    for word in words:
        assert word in err
    code, out, err = command(*arguments, *([] if "--bogus" in arguments else ["--json"]))
    assert code == 2
    assert "--bogus" in arguments or list(json.loads(out)) == ["error"]


def test_options_are_refused_before_anything_loads(command: Run, play: Any) -> None:
    seen = play(SINGLE)
    for arguments in (("ask", " "), ("ask", "Q", "--workflow", "R"), ("ask", "Q", "--seed", "-1")):
        assert command(*arguments)[0] == 2
    assert seen == {}


@pytest.mark.parametrize("error", [RetrieverError("there is no collection notes"), ConfigError("no adapter")])
def test_a_refusal_while_loading_is_one_message(
    command: Run, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(**arguments: Any) -> None:
        raise error

    monkeypatch.setattr("graphs.app.load_graph", refuse)
    assert command("ask", "Q") == (2, "", f"jade: {error}\n")


def test_an_interrupt_is_exit_code_130(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(**arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("graphs.app.load_graph", interrupt)
    code, _, err = command("ask", "Q")
    assert code == 130
    assert "Traceback" not in err


def test_a_home_that_is_a_file_is_named(command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JADE_HOME", str(tmp_path / "file"))
    code, _, err = command("runs")
    assert code == 2
    assert "JADE_HOME" in err


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
