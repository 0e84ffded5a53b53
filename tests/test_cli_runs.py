"""What was recorded, on the command line: `jade runs`, `jade show`, `jade feedback`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cli.runs import parse_since
from cli.terminal import one_line
from graphs.ledger import LedgerWriter, ledger_folder, read_ledger
from graphs.trajectory import Trajectory
from tests import cli_toy
from tests.cli_toy import SERIAL, SINGLE, Run
from tests.test_ledger import CALL, RUN

home, command, play = cli_toy.home, cli_toy.command, cli_toy.play  # its fixtures


@pytest.fixture
def recorded(play: Any, command: Run) -> Iterator[list[str]]:
    """Record three runs: R,AG; QDS; and a crash."""
    for question, script in (("Where was Mozart born?", SINGLE), ("the mayor of the town?", SERIAL)):
        play(script)
        assert command("ask", question)[0] == 0
        time.sleep(0.002)
    play({"planner": "R,AG"})
    assert command("ask", "Why does it crash?")[0] == 1
    yield [run.run for run in read_ledger(ledger_folder())]


def listed(command: Run, *arguments: str) -> list[str]:
    code, out, _ = command("runs", *arguments, "--json")
    assert code == 0
    return [row["run"] for row in json.loads(out)]


def test_runs_lists_the_latest_first_and_filters(command: Run, recorded: list[str]) -> None:
    single, serial, crashed = recorded
    assert listed(command) == [crashed, serial, single]
    assert listed(command, "--limit", "1") == [crashed]
    assert listed(command, "--outcome", "ok") == [serial, single]
    assert listed(command, "--outcome", "ok", "--outcome", "crashed") == [crashed, serial, single]
    assert listed(command, "--question", "MOZART") == [single]
    assert listed(command, "--workflow", "QDS") == [serial]
    assert listed(command, "--since", "1h") == [crashed, serial, single]
    assert listed(command, "--since", "2999-01-01") == []
    code, out, _ = command("runs")
    assert code == 0
    assert "QDS(R,AG | R,AG)" in out
    assert "Why does it crash?" in out


def test_runs_without_any_says_so(command: Run) -> None:
    code, out, err = command("runs")
    assert (code, out) == (0, "")
    assert "no matching run" in err
    assert command("runs", "--json")[1] == "[]\n"


def test_runs_names_a_corrupt_line_and_lists_the_rest(command: Run, recorded: list[str]) -> None:
    file = next(ledger_folder().glob("*.jsonl"))
    with file.open("ab") as stream:
        stream.write(b"garbage\n")
    count = len(file.read_bytes().splitlines())
    code, out, err = command("runs", "--json")
    assert code == 0
    assert len(json.loads(out)) == 3
    assert f"{file}:{count}: corrupt line" in err


def test_a_foreign_ledger_is_named(command: Run, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"question": "Q"}\n')
    for arguments in (("runs",), ("show", "x")):
        code, _, err = command(*arguments, "--ledger", str(tmp_path / "train.jsonl"))
        assert code == 2
        assert "train.jsonl is not a ledger" in err


def test_show_prints_everything_of_a_run(command: Run, recorded: list[str]) -> None:
    code, out, _ = command("show", recorded[1][:12])
    assert code == 0
    for word in (
        recorded[1],
        "outcome",
        "QDS(R,AG | R,AG)",
        "<q1>Where was Mozart born?</q1><q2>Who is the mayor of #1?</q2>",
        "Who is the mayor of Salzburg?",
        "serial_decomposer",
        "log π -",
        "tokens",
        "greedy",
        "★ mayor",
        "retrieval",
    ):
        assert word in out
    assert Trajectory.from_json(json.loads(command("show", recorded[1], "--json")[1])).run == recorded[1]


def test_show_without_a_run_shows_the_latest(command: Run, recorded: list[str]) -> None:
    code, out, _ = command("show")
    assert code == 0
    assert recorded[2] in out
    assert "crashed: AssertionError" in out


def test_show_says_what_went_on_after_an_invalid_response(command: Run, play: Any) -> None:
    play({"planner": "<workflow>nonsense</workflow>", "serial_decomposer": "?", "answer_generator": "Salzburg"})
    assert command("ask", "Where?")[0] == 0
    _, out, _ = command("show")
    assert "not a plan" in out
    assert "went on with: QDS" in out
    assert "(planned: QDS)" in out


def test_show_of_an_ambiguous_or_unknown_run(command: Run, recorded: list[str]) -> None:
    code, _, err = command("show", "zzz")
    assert code == 2
    assert "no run starts with 'zzz'" in err
    code, _, err = command("show", "--ledger", str(ledger_folder()), "")
    assert code == 2
    assert "give more of the id" in err


def test_show_prompts_needs_the_tokenizer_and_decodes_with_it(command: Run, tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    words = Tokenizer(WordLevel({"what": 1, "is": 2, "jade": 3, "?": 0}, unk_token="?"))
    (tmp_path / "model").mkdir()
    words.save(str(tmp_path / "model" / "tokenizer.json"))
    LedgerWriter(ledger_folder()).close(replace(RUN, calls=(CALL,), identity={"base": "toy"}))
    code, _, err = command("show", "--prompts")
    assert code == 2
    assert "--model FOLDER" in err
    code, out, _ = command("show", "--prompts", "--model", str(tmp_path / "model"))
    assert code == 0
    assert "what is jade" in out


def test_feedback_is_shown_and_listed(command: Run, recorded: list[str]) -> None:
    code, out, _ = command("feedback", recorded[0][:14], "--score", "0.5", "--note", "half right")
    assert code == 0
    assert recorded[0] in out
    rows = {row["run"]: row["feedback"] for row in json.loads(command("runs", "--json")[1])}
    assert rows[recorded[0]] == 0.5
    assert rows[recorded[1]] is None
    assert "feedback" in command("show", recorded[0])[1]


def test_graphs_without_a_planner_are_shown_too(command: Run) -> None:
    calls = (replace(CALL, path="draft", id="draft", order=0), replace(CALL, path="sub/judge", id="s", order=1))
    LedgerWriter(ledger_folder()).close(replace(RUN, calls=calls, workflow=None, retrievals=()))
    code, out, _ = command("show")
    assert code == 0
    assert "draft" in out
    assert "judge" in out


def test_since_is_read_as_an_age_or_a_date() -> None:
    now = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
    assert parse_since("30m", now) == datetime(2026, 3, 10, 11, 30, tzinfo=UTC)
    assert parse_since("2d", now) == datetime(2026, 3, 8, 12, 0, tzinfo=UTC)
    assert parse_since("2026-01-31") == datetime(2026, 1, 31, tzinfo=UTC)
    assert parse_since("2026-01-31T12:00:00+02:00") == datetime(2026, 1, 31, 10, 0, tzinfo=UTC)


def test_one_line_is_one_harmless_line() -> None:
    assert one_line("a\n\tb\x1b[2Jc\u202ed") == "a b [2Jc d"
    assert one_line("abcdef", 4) == "abc…"
    assert one_line("\ud800x") == "x"
