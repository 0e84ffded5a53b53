"""Solo: searches in a loop, answers, keeps its budget; and the reader, which is given its documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agents.call import Constraint
from agents.constraint import Grammars, response_allowed
from agents.errors import ConfigError, FormatError
from agents.role import Prompts
from agents.roster import ROLES
from agents.solo import SOLO, without_documents
from graphs.collection import collect
from graphs.reader import build_reader
from graphs.solo import build_solo
from tests.scripted import Recording, record
from tests.toy_model import toy_tokenizer

QUESTION = "Who is the mayor of the town where Mozart was born?"
DOCUMENT = {"number": 0, "id": "k2", "title": "K2", "text": "K2 is 8611 m tall.", "score": 1.0}


def two_searches(role: str, user: str) -> str:
    assert role == "solo"
    if "Search: mayor of Salzburg" in user:
        return "<answer>Bernhard Auinger</answer>"
    return "<search>mayor of Salzburg</search>" if "Search:" in user else "<search>Mozart birthplace</search>"


def solo(folder: Path, script: Any = two_searches, **options: Any) -> Recording:
    return record(lambda retriever: build_solo(retriever, **{"top_k": 2, **options}), script, folder)


def test_it_searches_until_it_knows(tmp_path: Path) -> None:
    made = solo(tmp_path)
    result, run = made.ask(QUESTION)
    assert result["answer"] == "Bernhard Auinger" and (result["turns"], result["retrievals"]) == (3, 2)
    assert made.retriever.queries == ["Mozart birthplace", "mayor of Salzburg"]
    assert result["citations"] == [{"id": "mayor", "title": "Salzburg"}] and len(result["evidence"]) == 2
    assert [call.id for call in run.calls] == ["root/SOLO", "root/SOLO#1", "root/SOLO#2"]
    assert [call.parents for call in run.calls] == [(), ("root/SOLO",), ("root/SOLO#1",)]
    assert (run.turns, run.outcome, run.workflow) == (3, "ok", None) and not run.budget_hit
    last = made.policy.seen("solo")[-1]
    assert "Document0: Mozart" in last and "Document2: Salzburg" in last and last.endswith("Searches left: 1")


@pytest.mark.parametrize("options, searches", [({"max_retrievals": 1}, 1), ({"max_turns": 2}, 1), ({}, 3)])
def test_budgets_end_the_loop(tmp_path: Path, options: dict[str, Any], searches: int) -> None:
    made = solo(tmp_path, lambda role, user: "<search>town</search>")
    result, run = made.ask(QUESTION, **options)
    assert result["retrievals"] == len(run.retrievals) == searches and result["turns"] == searches + 1
    assert result["answer"] == "town", "a search beyond the budget is invalid, and its words the answer"
    assert run.calls[-1].format_error == "a search beyond the budget" and run.outcome == "invalid"
    assert result["budget_hit"] is bool(options)


def test_an_invalid_first_move_searches_for_the_question(tmp_path: Path) -> None:
    made = solo(tmp_path, lambda role, user: "I think that it is <b>Bernhard</b>")
    result, _ = made.ask(QUESTION)
    assert made.retriever.queries == [QUESTION] and result["answer"] == "I think that it is Bernhard"
    closed, _ = made.ask(QUESTION, max_retrievals=0)
    assert closed["retrievals"] == 0 and closed["evidence"] == []


def test_it_works_collected_and_alone_alike(tmp_path: Path) -> None:
    made = solo(tmp_path)
    runs = collect(made.graph, [QUESTION, "How tall is K2?"], record="off")
    assert [run.answer for run in runs] == ["Bernhard Auinger"] * 2 and [run.turns for run in runs] == [3, 3]
    with pytest.raises(ConfigError, match="must be at least 1"):
        build_solo(made.retriever, max_searches=0)


def test_the_grammar_says_what_the_parser_takes() -> None:
    grammars = Grammars(toy_tokenizer(), len(toy_tokenizer()) + 4, 2)

    def allowed(text: str, left: int) -> bool:
        constraint: Constraint | None = SOLO.constraint({"left": left})
        assert constraint is not None
        ids = grammars.choice_ids(text)
        sets = response_allowed(grammars.start(constraint), ids)
        return all(found is None or token in found for token, found in zip(ids, sets, strict=True))

    for text, left, right in (
        ("<search>a b</search>", 1, True), ("<search>a b</search>", 0, False), ("<answer>a</answer>", 0, True),
        ("<answer>a</answer>", 2, True), ("<query>a</query>", 1, False),
    ):  # fmt: skip
        assert allowed(text, left) is right, text
        try:
            SOLO.parse(text, {"left": left})
            parsed = True
        except FormatError:
            parsed = False
        assert parsed is right, text


def test_it_stays_out_of_the_roster_and_shrinks_from_the_oldest_search() -> None:
    assert "solo" not in ROLES, "the roster is part of the text hash of trained adapters"
    searches = [{"query": "a", "documents": [DOCUMENT]}, {"query": "b", "documents": [DOCUMENT, DOCUMENT]}]
    assert [len(item["documents"]) for item in without_documents(searches, 2)] == [0, 1]
    assert len(searches[0]["documents"]) == 1, "the state is not changed"
    assert SOLO.shrink({"searches": [{"query": "a", "documents": []}]}) is None
    system, user = SOLO.messages({"question": "Who <b>?", "searches": searches, "left": 0}, Prompts("bare"))
    assert "search" not in system["content"] and "Who ‹b›?" in user["content"]


def test_a_long_history_is_cut_and_the_evidence_says_so(tmp_path: Path) -> None:
    made = record(lambda retriever: build_solo(retriever, top_k=4), two_searches, tmp_path, context_length=340)
    result, run = made.ask(QUESTION)
    assert any(call.dropped_documents for call in run.calls) and result["warnings"]
    assert made.policy.seen("solo")[-1].count("\nDocument") == 8 - run.calls[-1].dropped_documents
    tight = record(lambda retriever: build_solo(retriever, top_k=1), two_searches, tmp_path, context_length=280)
    result, run = tight.ask("K2?")
    assert run.calls[-1].dropped_documents == 1 and [item["id"] for item in result["evidence"]] == ["mayor"]


def test_the_reader_reads_what_it_is_given(tmp_path: Path) -> None:
    def script(role: str, user: str) -> str:
        assert role == "answer_generator"
        return "<answer>8611 m</answer>" if "K2 is" in user else "<answer>unknown</answer>"

    made = record(lambda retriever: build_reader(), script, tmp_path)
    documents = [{"id": "k2", "title": "K2", "text": "K2 is 8611 m tall."}, {"id": "x", "title": "", "text": "No."}]
    result = made.graph.invoke({"question": "How tall is K2?", "documents": documents})
    assert result["answer"] == "8611 m" and result["citations"] == [{"id": "k2", "title": "K2"}]
    run = made.trajectories[-1]
    assert run.evidence == ("k2", "x") and run.retrievals == () and made.retriever.queries == []
    runs = collect(made.graph, [{"question": "How tall is K2?", "id": "a", "documents": documents}, {"question": "?"}])
    assert [item.answer for item in runs] == ["8611 m", "unknown"] and runs[0].question_id == "a"
