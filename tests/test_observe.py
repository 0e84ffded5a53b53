"""The paper's Select: each role's own view, and everything under the ablation."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from agents.errors import ConfigError
from agents.roster import ROLES
from graphs.observe import blackboard, observe, shown_documents

DOCUMENTS = [{"number": n, "id": f"d{n}", "title": f"t{n}", "text": "x", "score": 1.0} for n in range(3)]


def solved(index: int, question: str, answer: str, **more: Any) -> dict[str, Any]:
    return {"index": index, "question": question, "answer": answer, "evidence": [], **more}


STATE: dict[str, Any] = {
    "question": "q?",
    "raw_question": "q #1?",
    "path": "root/1",
    "index": 1,
    "main": "main?",
    "trace": [
        {"question": "elder?", "answer": "yes"},
        {"question": "empty?", "answer": ""},
        {"question": "later?", "answer": None},
    ],
    "select": "role",
    "plan": "QR,R,DS,AG",
    "planned": "",
    "below": "",
    "depth_left": 1,
    "turns_left": 4,
    "retrievals_left": None,
    "max_hops": 3,
    "query": "rewritten",
    "documents": DOCUMENTS,
    "solved": [solved(1, "b?", "", skipped="budget"), solved(0, "a?", "A")],
    "calls": ["root/PLAN"],
}

VIEWS: dict[str, dict[str, Any]] = {
    "planner": {"question": "q?", "depth_left": 1, "turns_left": 4, "retrievals_left": None},
    "serial_decomposer": {"question": "q?", "max_hops": 3},
    "parallel_decomposer": {"question": "q?", "max_hops": 3},
    "query_rewriter": {"main": "main?", "answered": [{"question": "elder?", "answer": "yes"}], "question": "q?"},
    "document_selector": {"query": "rewritten", "documents": DOCUMENTS},
    "answer_generator": {"question": "q?", "query": "rewritten", "documents": DOCUMENTS},
    "answer_summariser": {
        "question": "q?",
        "hops": [{"question": "a?", "answer": "A"}, {"question": "b?", "answer": "", "skipped": "budget"}],
    },
}


@pytest.mark.parametrize("role", ROLES)
def test_each_role_sees_its_own_view(role: str) -> None:
    before = copy.deepcopy(STATE)
    assert observe(STATE, role) == VIEWS[role]
    assert before == STATE  # pure


@pytest.mark.parametrize("role", ROLES)
def test_full_adds_the_blackboard_to_every_view(role: str) -> None:
    assert observe({**STATE, "select": "full"}, role) == {**VIEWS[role], "main": "main?", "trace": STATE["trace"]}


def test_a_role_without_a_view_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"'critic'.*planner"):
        observe(STATE, "critic")


def test_without_rewriting_the_question_is_the_query() -> None:
    state = {key: value for key, value in STATE.items() if key not in ("query", "documents")}
    assert observe(state, "answer_generator") == {"question": "q?", "query": "q?", "documents": []}
    assert observe(state, "document_selector") == {"query": "q?", "documents": []}


def test_selection_keeps_numbers_and_an_empty_one_shows_nothing() -> None:
    assert [item["number"] for item in shown_documents({**STATE, "selected": [0, 2]})] == [0, 2]
    assert shown_documents({**STATE, "selected": []}) == []
    assert shown_documents(STATE) == DOCUMENTS


def test_a_child_knows_what_its_parent_knew_and_its_siblings() -> None:
    parent = {"trace": [{"question": "uncle?", "answer": "u"}], "solved": [solved(0, "resolved?", "A")]}
    assert blackboard(parent, ["raw?", "mine?", "later #2?"], 1) == [
        {"question": "uncle?", "answer": "u"},
        {"question": "resolved?", "answer": "A"},
        {"question": "later #2?", "answer": None},
    ]
