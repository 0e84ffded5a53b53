"""`jade doctor`: each finding is provoked, says how to be mended, and decides the exit code."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from agents.errors import ConfigError
from cli import checks
from cli.main import run as jade

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JADE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_fresh_home_only_warns_about_what_the_first_question_makes(home: Path) -> None:
    found = {finding.name: finding for finding in checks.findings()}
    assert len(found) == len(checks.CHECKS)
    for name in ("model", "embedder", "index"):
        assert found[name].status == "warn"
        assert "jade ask" in found[name].mend
    assert found["python"].status == "ok"
    assert found["ledger"].status == "ok"
    assert all(finding.mend for finding in found.values() if finding.status != "ok")


def test_an_old_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    finding = checks.python()
    assert (finding.status, finding.found) == ("fail", "3.10.4")
    assert "3.11" in finding.mend


def test_packages_agree_with_the_constraints_file() -> None:
    finding = checks.packages()
    assert finding.status == "ok", finding


def test_missing_old_and_other_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "constraints.txt").write_text("# pins\ntyper==0.0.1\n")
    other = checks.packages(tmp_path)
    assert other.status == "warn"
    assert "typer" in other.found
    assert "tested with 0.0.1" in other.found
    real = checks._version
    monkeypatch.setattr(checks, "_version", lambda name: {"torch": None, "rich": "1.0"}.get(name, real(name)))
    broken = checks.packages(tmp_path)
    assert broken.status == "fail"
    assert "torch missing" in broken.found
    assert "rich 1.0 (wanted" in broken.found
    assert "constraints.txt" in broken.mend


def test_model_folders(home: Path) -> None:
    place = home / "models" / "SmolLM2-135M-Instruct"
    place.mkdir(parents=True)
    assert checks.model().status == "fail"  # a folder without weights
    assert f"remove {place}" in checks.model().mend
    (place / "model.safetensors").write_bytes(b"x" * 2_000_000)
    assert checks.model().status == "ok"
    assert "2 MB" in checks.model().found
    assert checks.embedder().status == "warn"


def test_index_states(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from agents.embedder import HashEmbedder
    from agents.index import build_index

    (tmp_path / "notes.jsonl").write_text('{"id": "a", "title": "A", "text": "one"}\n')
    build_index(tmp_path / "notes.jsonl", collection="notes", embedder=HashEmbedder())
    assert checks.index().status == "ok"
    assert "notes (1 passages, complete)" in checks.index().found

    class Dies(HashEmbedder):
        def encode(self, texts):  # type: ignore[no-untyped-def]
            raise KeyboardInterrupt

    (tmp_path / "notes.jsonl").write_text('{"id": "b", "title": "B", "text": "two"}\n')
    with pytest.raises(KeyboardInterrupt):
        build_index(tmp_path / "notes.jsonl", collection="notes", embedder=Dies())
    assert checks.index().status == "fail"
    assert "jade index FOLDER --collection notes" in checks.index().mend


def test_a_damaged_index(home: Path) -> None:
    (home / "index").mkdir(parents=True)
    (home / "index" / "chroma.sqlite3").write_bytes(b"not a database at all" * 100)
    finding = checks.index()
    assert finding.status == "fail"
    assert "build" in finding.mend


def test_a_ledger_that_cannot_be_written(home: Path) -> None:
    home.mkdir()
    (home / "ledger").write_text("a file in the way")
    finding = checks.ledger()
    assert finding.status == "fail"
    assert "JADE_HOME" in finding.mend


@pytest.mark.parametrize("free, status", [(100, "fail"), (1_000, "warn"), (10_000, "ok")])
def test_disk_space(monkeypatch: pytest.MonkeyPatch, free: int, status: str) -> None:
    usage = shutil.disk_usage("/")._replace(free=free * checks.MB)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert checks.disk().status == status


def test_memory(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 1 kB\nMemAvailable: 1000000 kB\n")
    assert checks.memory(meminfo).status == "warn"
    meminfo.write_text("MemAvailable: 9000000 kB\n")
    assert checks.memory(meminfo).status == "ok"
    assert checks.memory(tmp_path / "none").found == "not known on this system"


def test_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags : sse avx512_bf16 avx\n")
    assert "no bf16" not in checks.processor(cpuinfo).found
    cpuinfo.write_text("flags : sse\n")
    assert "no bf16 (fp32 is used)" in checks.processor(cpuinfo).found
    monkeypatch.setenv("OMP_NUM_THREADS", "10000")
    assert checks.processor(cpuinfo).status == "warn"


def test_langgraph_dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "langgraph_cli, langgraph_api missing" in checks.langgraph_dev(tmp_path).found
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert "no langgraph.json" in checks.langgraph_dev(tmp_path).found
    (tmp_path / "langgraph.json").write_text("{}")
    assert checks.langgraph_dev(tmp_path).status == "ok"


def test_a_check_that_cannot_look_is_a_failed_finding() -> None:
    def cannot() -> checks.Finding:
        raise ConfigError("no home")

    (finding,) = checks.findings((cannot,))
    assert (finding.name, finding.status, finding.found) == ("cannot", "fail", "no home")
    assert finding.mend


def test_exit_codes_and_json(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fine, bad = checks.Finding("a", "warn", "so so", "do this"), checks.Finding("b", "fail", "broken", "do that")
    monkeypatch.setattr(checks, "findings", lambda: iter([fine]))
    assert jade(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "warn  a: so so" in out
    assert "→ do this" in out
    monkeypatch.setattr(checks, "findings", lambda: iter([fine, bad]))
    assert jade(["doctor"]) == 1
    assert "2 checks: 1 failed, 1 warnings" in capsys.readouterr().out
    assert jade(["doctor", "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["ok"] is False
    assert data["findings"][1] == {"name": "b", "status": "fail", "found": "broken", "mend": "do that"}
