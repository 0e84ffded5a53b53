"""The load test's arithmetic: what counts as lost, and what as answered twice."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest

from benchmarks.serving import Attempt, Row, executable, load


def attempt(name: str, status: int = 200, run: str | None = None, began: float = 0.0, seconds: float = 1.0) -> Attempt:
    return Attempt(name, status, run, began, seconds)


def test_a_clean_load() -> None:
    made = (attempt("a", run="r1"), attempt("b", 429, began=1.0, seconds=0.5), attempt("c", run="r2", began=2.0))
    row = Row(2, made, {"a": ["r1"], "c": ["r2"]})
    assert row.wall == 3.0 and (row.lost, row.twice) == (0, 0)
    assert row.line() == "| 2 | 2 | 40.0 | 1.00 | 1.00 | 1 | 0.50 | 0 | 0 | 0 |"


def test_what_is_lost() -> None:
    made = (attempt("a", run="r1"), attempt("b", 0), attempt("c", run="r3"))
    assert Row(1, made, {"a": ["r1"], "c": ["another"]}).lost == 2


def test_what_is_answered_twice() -> None:
    made = (attempt("a", run="r1"), attempt("b", run="r1"), attempt("c", 429), attempt("d", 504))
    assert Row(1, made, {"a": ["r1", "r2"], "b": ["r1"], "c": ["r3"], "d": ["r4"]}).twice == 3


def test_a_load_without_any_answer() -> None:
    assert Row(1, (attempt("a", 500),), {}).line() == "| 1 | 0 | 0.0 | nan | nan | 0 | - | 1 | 0 | 0 |"


def test_a_locust_below_this_folder_runs_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As documented: `--locust bench-locust/bin/locust`."""
    made = attempt("a", run="r1")
    command = tmp_path / "bench-locust" / "bin" / "locust"
    command.parent.mkdir(parents=True)
    script = f"import os; open(os.environ['JADE_ATTEMPTS'], 'w').write({json.dumps(made.__dict__)!r})"
    command.write_text(f"#!{sys.executable}\n{script}\n")
    command.chmod(0o755)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path)
    given = argparse.Namespace(locust=executable("bench-locust/bin/locust"), seconds=1, options="{}")
    assert load(1, "http://127.0.0.1:9", tmp_path / "work", given) == (made,)
    with pytest.raises(FileNotFoundError, match="no locust at nowhere/locust"):
        executable("nowhere/locust")
