"""Damage to a ledger costs the damaged line only: full disks, torn lines, foreign files, killed writers."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.errors import LedgerError
from graphs.ledger import LedgerWriter
from tests.test_ledger import QUICK, RUN, only_file, read


def test_torn_and_corrupt_lines_are_named_and_skipped(tmp_path: Path) -> None:
    writer = LedgerWriter(tmp_path, "a")
    for name in ("one", "two", "three"):
        writer.close(replace(RUN, run=name))
    file = tmp_path / "a.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1][:60] + b"\xff\x00" + lines[1][70:]
    file.write_bytes(b"".join(lines)[:-10])
    trajectories, problems = read(tmp_path)
    assert [item.run for item in trajectories] == ["one"]
    assert [(item.file, item.line) for item in problems] == [(file, 2), (file, 3)]
    assert "corrupt" in problems[0].why
    assert "torn" in problems[1].why
    assert str(problems[1]).startswith(f"{file}:3: ")


@pytest.mark.parametrize(
    "field, value",
    [("outcome", "splendid"), ("calls", 3), ("calls", [1]), ("calls", [{}]), ("retrievals", {"a": 1})],
)
def test_a_line_with_wrong_fields_is_reported(tmp_path: Path, field: str, value: object) -> None:
    data = {"event": "close", "run": "r", "at": "x", **RUN.to_json(), field: value}
    data["run"] = "r"
    (tmp_path / "a.jsonl").write_text(json.dumps(data, separators=(",", ":")) + "\n")
    trajectories, problems = read(tmp_path)
    assert trajectories == []
    assert len(problems) == 1


def test_a_foreign_file_is_refused_with_its_name(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text('{"question": "Who?", "answers": ["me"]}\n')
    for path in (file, tmp_path):
        with pytest.raises(LedgerError, match=r"train\.jsonl.*give a file or folder"):
            read(path)
    with pytest.raises(LedgerError, match=r"no ledger at .*ask a question first"):
        read(tmp_path / "nowhere")


def test_a_foreign_file_beside_ours_is_reported_only(tmp_path: Path) -> None:
    LedgerWriter(tmp_path, "a").close(RUN)
    (tmp_path / "b.jsonl").write_text('{"question": "Who?"}\n')
    trajectories, problems = read(tmp_path)
    assert trajectories == [RUN]
    assert [item.file.name for item in problems] == ["b.jsonl"]


def test_a_full_disk_gives_a_warning_and_the_writer_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    writer = LedgerWriter(tmp_path)
    assert writer.close(RUN) is None
    real, room = os.write, [0]

    def nearly_full(descriptor: int, data: bytes) -> int:
        if room[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[: room[0]])

    monkeypatch.setattr(os, "write", nearly_full)
    warning = writer.close(replace(RUN, run="lost-1"))
    assert warning is not None
    assert "No space left" in warning
    room[0] = 25
    assert "25 of" in (writer.close(replace(RUN, run="lost-2")) or "")
    assert len(caplog.records) == 1  # said once, not once a run
    monkeypatch.setattr(os, "write", real)
    assert writer.close(replace(RUN, run="after")) is None
    trajectories, problems = read(tmp_path)
    assert [item.run for item in trajectories] == ["run-1", "after"]
    assert [item.line for item in problems] == [2]


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc").is_dir(), reason="needs an unwritable folder")
def test_a_read_only_folder_gives_a_warning() -> None:
    assert "not recorded" in (LedgerWriter(Path("/proc/no-such-ledger")).close(RUN) or "")


def test_what_is_not_json_gives_a_warning_and_no_torn_line(tmp_path: Path) -> None:
    writer = LedgerWriter(tmp_path)
    assert "not JSON" in (writer.open("r", {"state": object()}) or "")
    assert "run id" in (writer.open('r"', {}) or "")
    writer.close(RUN)
    assert read(tmp_path) == ([RUN], [])


def test_appending_after_a_torn_line_starts_a_new_one(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"event":"open","run":"x","at":"')
    LedgerWriter(tmp_path, "a").close(RUN)
    trajectories, problems = read(file)
    assert trajectories == [RUN]
    assert [item.line for item in problems] == [1]


def test_a_removed_file_is_made_again(tmp_path: Path) -> None:
    writer = LedgerWriter(tmp_path)
    writer.close(replace(RUN, run="gone"))
    only_file(tmp_path).unlink()
    writer.close(RUN)
    assert read(tmp_path)[0] == [RUN]


def test_a_killed_process_loses_at_most_its_last_line(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from graphs.ledger import LedgerWriter\n"
        "w = LedgerWriter(Path(sys.argv[1]))\n"
        "for i in range(10**9):\n"
        "    w.open(f'r{i}', {'question': 'x' * 4000}); print(i, flush=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    for _ in range(30):
        said = int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()
    trajectories, problems = read(tmp_path)
    assert len(trajectories) > said
    assert len(problems) <= 1


@QUICK
@given(cut=st.integers(0, 10_000), size=st.integers(1, 4))
def test_truncation_never_raises_and_costs_the_torn_line_only(
    cut: int, size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("ledger")
    writer = LedgerWriter(folder)
    for index in range(size):
        writer.close(replace(RUN, run=f"r{index}"))
    file = only_file(folder)
    whole = file.read_bytes()
    kept = whole[: cut % (len(whole) + 1)]
    file.write_bytes(kept)
    trajectories, problems = read(folder)
    complete = (kept + b"\n").count(b"}\n") if kept.endswith(b'"seconds":{}}') else kept.count(b"\n")
    assert [item.run for item in trajectories] == [f"r{index}" for index in range(complete)]
    assert len(problems) <= 1


@QUICK
@given(position=st.integers(12, 5_000), junk=st.binary(max_size=40))
def test_corruption_never_raises_and_costs_few_lines(
    position: int, junk: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("ledger")
    writer = LedgerWriter(folder)
    for index in range(4):
        writer.close(replace(RUN, run=f"r{index}"))
    file = only_file(folder)
    whole = file.read_bytes()
    position %= len(whole)
    position = max(position, 12)
    file.write_bytes(whole[:position] + junk + whole[position + len(junk) :])
    trajectories, _ = read(folder)
    assert len(trajectories) >= 2
