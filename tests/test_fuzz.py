"""The fuzzing targets hold on their seeds and near them, they notice faults, and the commands say what is wrong."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.selector import SELECTOR
from fuzz import engine, http
from fuzz.__main__ import main
from fuzz.material import Material
from fuzz.roles import GOOD, _role_check, _selection, inputs_of
from fuzz.target import Broken, Target, load_targets

TARGETS = load_targets()
INPUTS = 40
RESPONSE = b"\x01\x00\x02" + GOOD["document_selector"].encode()
LOG = (
    b"#2048\tNEW    cov: 23 ft: 41 corp: 8/167b lim: 376 exec/s: 0 rss: 278Mb\n"
    b"#100000\tDONE   cov: 24 ft: 43 corp: 10/196b lim: 400 exec/s: 50000 rss: 278Mb\n"
    b"Done 100000 runs in 2 second(s)\nstat::number_of_executed_units: 100000\nstat::peak_rss_mb: 278\n"
)


def mutated(target: Target, seed: bytes, chance: random.Random) -> bytes:
    """Return a seed with some bytes changed, cut or put in, and words of the target's."""
    data = bytearray(seed)
    for _ in range(chance.randint(1, 4)):
        place, kind = chance.randint(0, len(data)), chance.randrange(4)
        if kind == 0 and data:
            data[place - 1] = chance.randrange(256)
        elif kind == 1 and target.words:
            data[place:place] = chance.choice(target.words).encode()
        elif kind == 2:
            del data[place : place + chance.randint(1, 8)]
        else:
            data[place:place] = chance.randbytes(2)
    return bytes(data[: target.longest])


@pytest.mark.parametrize("name", TARGETS)
def test_every_promise_is_kept_on_seeds_and_near_them(name: str) -> None:
    target, chance = TARGETS[name], random.Random(7)
    seeds = [seed[: target.longest] for seed in target.seeds()]
    for seed in chance.sample(seeds, min(len(seeds), INPUTS)):
        target.check(seed)
    for _ in range(INPUTS):
        target.check(mutated(target, chance.choice(seeds), chance))


def test_a_whole_program_has_ten_million_inputs() -> None:
    assert sum(target.runs for target in TARGETS.values()) >= 10_000_000


def test_seeds_reach_what_a_parser_reads() -> None:
    material = Material(RESPONSE)
    inputs = inputs_of(material)
    assert SELECTOR.parse(material.text(), inputs) == [0, 2]


@pytest.mark.parametrize("value", [[2, 2], [4, 0], [1], ["Document0"]])
def test_a_parser_that_lets_something_through_is_noticed(value: list[Any]) -> None:
    broken = replace(SELECTOR, parse=lambda text, inputs: value)
    with pytest.raises((Broken, TypeError)):
        _role_check(broken, _selection)(RESPONSE)
    _role_check(SELECTOR, _selection)(RESPONSE)


def test_a_parser_that_crashes_and_a_fallback_of_another_kind_are_noticed() -> None:
    def crash(text: str, inputs: Mapping[str, Any]) -> list[int]:
        raise KeyError("documents")

    with pytest.raises(KeyError):
        _role_check(replace(SELECTOR, parse=crash), _selection)(RESPONSE)
    with pytest.raises(Broken):
        _role_check(replace(SELECTOR, fallback=lambda inputs, text: [99]), _selection)(b"\x01\x00\x02nonsense")


def test_bytes_mean_the_same_each_time_and_run_out_quietly() -> None:
    data = bytes(range(7, 60))
    assert repr(Material(data).value(3)) == repr(Material(data).value(3))
    empty = Material(b"")
    assert (empty.byte(), empty.below(5), empty.pick("ab"), empty.word(), empty.text(), empty.rest()) == (
        (0, 0, "a", "", "", b"")
    )
    assert Material(b"a\xff").text() == "a\udcff"


def test_libfuzzers_counts_are_read() -> None:
    found = engine.counted("planner", 0, 4.0, LOG)
    assert (found.inputs, found.edges, found.features) == (100_000, 24, 43)
    assert found.row() == "| `planner` | 100,000 | 4 | 25,000 | 24 | 43 | none |"
    assert engine.counted("planner", 77, 1.0, b"").row().endswith("| 0 | 0 | exit 77 |")


def test_libfuzzer_is_told_where_to_begin(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    run = engine.Run(runs=5, seconds=9, crashes=tmp_path / "crashes")
    arguments = engine._arguments(TARGETS["planner"], run, corpus)
    assert {"-runs=5", "-max_total_time=9", "-seed=1"} <= set(arguments) and arguments[-1] == str(corpus)
    assert len(list(corpus.iterdir())) == len(list(TARGETS["planner"].seeds()))
    words = (tmp_path / "crashes" / "planner.words").read_text().splitlines()
    assert len(words) == len(TARGETS["planner"].words) and r'"\x3c\x77' in words[0]


def test_without_atheris_it_is_said_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "atheris", None)
    for target in ("planner", "all"):
        assert main([target, "--crashes", str(tmp_path)]) == 2
        assert "pip install atheris" in capsys.readouterr().err


def test_targets_are_listed_and_inputs_checked_again_without_atheris(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in TARGETS)
    file = tmp_path / "input"
    file.write_bytes(RESPONSE)
    assert main(["document_selector", "--replay", str(file)]) == 0
    assert main(["nowhere", "--replay", str(file)]) == 2
    assert "there is no target 'nowhere'" in capsys.readouterr().err


def test_reports_of_http_rounds_are_summed() -> None:
    group = {"title": "Server error", "operations": ["POST /ask"], "count": 2}
    report = {
        "test_cases": {"generated": 120}, "running_time": 2.0, "failures": [group],
        "errors": [{"title": "Network error", "count": 1}],
        "valid_rates": {"POST /ask": {"fuzzing": {"accepted": 3, "rejected": 4}}},
    }  # fmt: skip
    totals = http.Totals()
    totals.add(report)
    totals.add({**report, "failures": [], "errors": []})
    assert list(totals.lines()) == [
        "240 requests in 2 rounds, 4 s (60 a second)",
        "failure: Server error (POST /ask): 2", "2 failures",
        "error: Network error: 1", "1 errors",
    ]  # fmt: skip
    assert totals.accepted == {"POST /ask": 6}


def test_a_command_of_an_environment_below_this_folder_runs_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As documented: `--schemathesis fuzzing-http/bin/schemathesis`, whose file is a link in many environments."""
    report = {"test_cases": {"generated": 7}}
    command = tmp_path / "fuzzing-http" / "bin" / "schemathesis"
    command.parent.mkdir(parents=True)
    script = (
        f"import json, sys; open(sys.argv[sys.argv.index('--report-json-path') + 1], 'w').write({json.dumps(report)!r})"
    )
    (tmp_path / "real").write_text(f"#!{sys.executable}\n{script}\n")
    (tmp_path / "real").chmod(0o755)
    command.symlink_to(tmp_path / "real")
    (tmp_path / "reports").mkdir()
    monkeypatch.chdir(tmp_path)
    found = http.executable("fuzzing-http/bin/schemathesis")
    assert found == str(command), "the link itself"
    assert http.one_round(found, "http://127.0.0.1:9", 1, 1, tmp_path / "reports") == report
    assert http.executable("nowhere/schemathesis") is None


def test_without_schemathesis_it_is_said_how_to_get_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert http.main(["--schemathesis", "/nowhere/schemathesis"]) == 2
    assert "pip install schemathesis" in capsys.readouterr().err
