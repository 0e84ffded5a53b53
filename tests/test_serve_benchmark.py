"""The load test's arithmetic: what counts as lost, and what as answered twice."""

from __future__ import annotations

from benchmarks.serving import Attempt, Row


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
