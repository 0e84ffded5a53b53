"""What bad input gets on the command line: one message that says what to do, exit code two, and no traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agents.errors import ConfigError, RetrieverError
from tests import cli_toy
from tests.cli_toy import SINGLE, Run

home, command, play = cli_toy.home, cli_toy.command, cli_toy.play  # its fixtures


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("ask", ""), ["question is blank", "in quotes"]),
        (("ask", " \n\t"), ["question is blank"]),
        (("ask", "\u200b\u2060"), ["not blank"]),
        (("ask", "x" * 100_000), ["100,000 characters", "4,000"]),
        (("ask", "Q", "--workflow", "R"), ["'R' is no plan", "R,AG", "QDS"]),
        (("ask", "Q", "--workflow", "DS,AG"), ["no plan"]),
        (("ask", "Q", "--workflow", "QDS/QDS/QDS"), ["more than two"]),
        (("ask", "Q", "--workflow", "QDS", "--max-depth", "0"), ["max_depth"]),
        (("ask", "Q", "--workflow", "R,AG", "--max-retrievals", "0"), ["max_retrievals"]),
        (("ask", "Q", "--max-turns", "0"), ["max_turns=0", "greater than or equal to 1"]),
        (("ask", "Q", "--max-turns", "many"), ["--max-turns", "integer, not 'many'. See"]),
        (("ask", "Q", "--top-k=0"), ["--top-k", "greater than or equal to 1, not '0'. See"]),
        (("ask", "Q", "--record", "maybe"), ["record='maybe'", "'train'"]),
        (("ask", "Q", "--record", "train", "--temperature", "0"), ["cannot be trained on"]),
        (("ask", "Q", "--decoding", "beam"), ["decoding='beam'", "constrained"]),
        (("ask", "Q", "--select", "none"), ["select='none'"]),
        (("ask", "Q", "--bogus"), ["No such option", "jade ask --help"]),
        (("ask", "Q", "and more"), ["and more", "put the question into quotes"]),
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
    for arguments in (("ask", " "), ("ask", "x" * 5000), ("ask", "Q", "--workflow", "R"), ("ask", "Q", "--seed", "-1")):
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
