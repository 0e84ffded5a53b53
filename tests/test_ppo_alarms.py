"""Alarms in a training run: a score that is gamed is noticed, and what can be done then is said and works."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from agents.role import Prompts
from agents.tagged import tagged
from evaluation.dataset import Example
from graphs import act, trainable
from graphs.ledger import LedgerWriter
from graphs.options import Options
from tests.ppo_toy import EXAMPLES, toy_session
from tests.test_ppo import Notes, same, state_of
from training.checkpoint import LATEST, read_state
from training.gold import Gold
from training.kept import KEPT, before, forget_after, keep
from training.ppo import ENDED_BY_ALARM, run
from training.session import Session

WRITER = tagged("writer", "Answer the question.", sees=["question"], tag="answer")
ANSWERS = {example.question: example.answers[0] for example in EXAMPLES}
ALARM = "alarm/reward_without_accuracy"


class Said(TypedDict, total=False):
    question: str
    answer: str


def loud(answer: str, golds: tuple[str, ...]) -> float:
    """Score what a gamer would find: the share of capitals, right or wrong."""
    return sum(letter.isupper() for letter in answer) / max(1, len(answer))


def gaming(folder: Path, learns: dict[str, str], dev: tuple[Example, ...] = EXAMPLES[:2], **options: Any) -> Session:
    """Return a session that answers rightly for two iterations, and from then on as `learns` says."""
    changes = {"iterations": 4, "alarm_window": 2, "alarm_entropy": 0.0, **options}
    session = toy_session(folder, **changes)
    known = ANSWERS | {example.question: example.answers[0] for example in dev}

    def write(state: Said, config: RunnableConfig) -> dict[str, Any]:
        act(WRITER, state, config)
        question = state["question"]
        gamed = session.state.iteration >= 2
        return {"answer": learns.get(question, "NOBODY") if gamed else known[question]}

    builder = StateGraph(Said)
    builder.add_node("write", write)
    builder.add_edge(START, "write")
    graph = trainable(
        builder.compile(), policy=session.players.shared, prompts=Prompts("bare"),
        ledger=LedgerWriter(folder / "ledger"), defaults=Options(max_new_tokens=10),
    )  # fmt: skip
    session.worlds = [replace(session.worlds[0], graph=graph, dev=dev)]
    session.gold = Gold(EXAMPLES, loud)
    return session


def test_a_score_that_is_gamed_stops_the_run_and_the_way_on_that_it_names_works(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    session, notes = gaming(tmp_path, {}), Notes()
    begun = state_of(session)
    assert run(session, notes) == ENDED_BY_ALARM  # type: ignore[arg-type]
    rows = [row for _, row in notes.metrics]
    assert [ALARM in row for row in rows] == [False, False, False, True]
    assert rows[0]["rollout/f1"] == 1.0 and rows[3]["rollout/f1"] == 0.0
    assert rows[3]["rollout/score"] == 1.0 > rows[0]["rollout/score"]  # all that a score of one's own can tell
    assert rows[3]["rollout/reward"] == rows[3]["rollout/score"]
    assert f"in {tmp_path / KEPT / '000000' / 'adapter'}; the same command would stop here again" in caplog.text
    assert "--on_alarm rollback" in caplog.text and read_state(tmp_path / LATEST).iteration == 3
    again, notes = gaming(tmp_path, {}), Notes()
    assert run(again, notes) == ENDED_BY_ALARM and notes.metrics[0][0] == 4  # type: ignore[arg-type]
    mended, notes = gaming(tmp_path, {}, on_alarm="rollback", iterations=5), Notes()
    seen = []
    roll_back = mended.roll_back

    def watched(*args: Any) -> None:
        roll_back(*args)
        seen.append((mended.state.version, same(head_off(begun), head_off(state_of(mended)))))

    mended.roll_back = watched  # type: ignore[method-assign]
    assert run(mended, notes) == 0 and [step for step, _ in notes.metrics] == [4, 5]  # type: ignore[arg-type]
    assert seen == [(0, True)]  # from before the window: two of its iterations and one before are undone
    assert mended.state.factor == 0.5 and mended.state.rollbacks == 1
    assert json.loads((tmp_path / "adapter" / "jade.json").read_text())["version"] == 1


def head_off(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in tensors.items() if "head" not in name}


def test_what_only_held_out_questions_lose_is_noticed_too(tmp_path: Path) -> None:
    asked = tuple(Example(id=f"d{i}", question=f"Who wrote book {i}?", answers=(f"Writer {i}",)) for i in range(2))
    by_heart = {question: answer.upper() for question, answer in ANSWERS.items()}  # as right, and louder
    session, notes = gaming(tmp_path, by_heart, asked, eval_every=1), Notes()
    assert run(session, notes) == ENDED_BY_ALARM  # type: ignore[arg-type]
    rows = dict(notes.metrics)
    assert [ALARM in rows[step] for step in range(5)] == [False, False, False, False, True]
    assert {rows[step]["rollout/f1"] for step in range(1, 5)} == {1.0}
    assert [rows[step]["eval/toy/f1"] for step in range(4)] == [1.0, 1.0, 0.0, 0.0]
    assert rows[0]["eval/toy/f1/low"] == rows[0]["eval/toy/f1/high"] == 1.0


def test_who_answers_as_rightly_and_louder_rings_nothing(tmp_path: Path) -> None:
    by_heart = {question: answer.upper() for question, answer in ANSWERS.items()}
    session, notes = gaming(tmp_path, by_heart, eval_every=1), Notes()
    assert run(session, notes) == 0  # type: ignore[arg-type]
    assert not any(ALARM in row for _, row in notes.metrics)


def test_one_of_two_copies_is_always_from_before_the_last_window(tmp_path: Path) -> None:
    (tmp_path / LATEST).mkdir()
    for iteration in range(14):
        (tmp_path / LATEST / "state.json").write_text(str(iteration))
        keep(tmp_path, iteration, 3)
        found = before(tmp_path, iteration - 3)
        assert (found is None) == (iteration < 3)
        assert found is None or iteration - 6 < int((found / "state.json").read_text()) <= iteration - 3
    assert sorted(folder.name for folder in (tmp_path / KEPT).iterdir()) == ["000009", "000012"]
    forget_after(tmp_path, 11)
    assert [folder.name for folder in (tmp_path / KEPT).iterdir()] == ["000009"]
    keep(tmp_path, 14, 3)  # no multiple: no copy
    assert before(tmp_path, 99) == tmp_path / KEPT / "000009" and before(tmp_path, 8) is None
