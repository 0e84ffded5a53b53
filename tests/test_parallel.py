"""QDP: branches overlap, order is send order however they race, retrievals are split before anything runs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agents.passage import Passage
from graphs.collection import collect
from graphs.hops import split
from graphs.jade import build_jade
from tests.scripted import PASSAGES, ListRetriever, Recording, record, says

QUESTION = "Which is taller, K2 or Mont Blanc?"
ITEMS = "<q1>How tall is K2?</q1><q2>How tall is Mont Blanc?</q2>"
THREE = "<q1>a?</q1><q2>b?</q2><q3>c?</q3>"


def parallel(folder: Path, retriever: ListRetriever | None = None, **responses: Any) -> Recording:
    script = {
        "planner": lambda user: "R,AG" if "depth 1" in user else "QDP",
        "parallel_decomposer": ITEMS,
        "answer_generator": lambda user: "8611 m" if user.endswith("K2?") else "4806 m",
        "answer_summariser": "K2",
        "query_rewriter": "rewritten",
        **responses,
    }
    return record(build_jade, says(**script), folder, retriever=retriever)


class Meeting(ListRetriever):
    """Answers only when as many searches as there are branches are under way at once."""

    def meet(self, branches: int) -> Meeting:
        self.barrier = threading.Barrier(branches)
        return self

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.barrier.wait(timeout=20)
        return super().search(queries, k)


@pytest.mark.parametrize("face", ["sync", "async"])
def test_branches_overlap(face: str, tmp_path: Path) -> None:
    recording = parallel(tmp_path, Meeting(PASSAGES).meet(2))
    graph = recording.graph
    result = graph.invoke(QUESTION) if face == "sync" else asyncio.run(graph.ainvoke(QUESTION))
    assert result["answer"] == "K2" and result["retrievals"] == 2


def test_collecting_puts_the_branches_into_one_batch(tmp_path: Path) -> None:
    recording = parallel(tmp_path)
    collect(recording.graph, [QUESTION])
    assert [[request.role for request in batch] for batch in recording.policy.batches] == [
        ["planner"],
        ["parallel_decomposer"],
        ["planner", "planner"],
        ["answer_generator", "answer_generator"],
        ["answer_summariser"],
    ]


def test_the_call_dag_of_a_fan_out(tmp_path: Path) -> None:
    result, trajectory = parallel(tmp_path).ask(QUESTION)
    assert {call.id: call.parents for call in trajectory.calls} == {
        "root/PLAN": (),
        "root/QDP": ("root/PLAN",),
        "root/0/PLAN": ("root/QDP",),
        "root/0/AG": ("root/0/PLAN",),
        "root/1/PLAN": ("root/QDP",),
        "root/1/AG": ("root/1/PLAN",),
        "root/AS": ("root/0/AG", "root/1/AG"),
    }
    assert (result["turns"], result["retrievals"]) == (2, 2)
    assert [hop["answer"] for hop in result["hops"]] == ["8611 m", "4806 m"]
    assert [item["id"] for item in result["citations"]] == ["k2", "blanc"]


def test_order_is_send_order_however_branches_race(tmp_path: Path) -> None:
    class Slow(ListRetriever):
        def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
            time.sleep(0.15 if "K2" in queries[0] else 0.0)
            return super().search(queries, k)

    result, trajectory = parallel(tmp_path, Slow(PASSAGES)).ask(QUESTION)
    assert [hop["path"] for hop in result["hops"]] == ["root/0", "root/1"]
    assert [child["path"] for child in result["workflow"]["children"]] == ["root/0", "root/1"]
    order = ["root/PLAN", "root/QDP", "root/0/PLAN", "root/0/AG", "root/1/PLAN", "root/1/AG", "root/AS"]
    assert [call.id for call in trajectory.calls] == result["calls"] == order


def test_siblings_share_nothing(tmp_path: Path) -> None:
    recording = parallel(tmp_path)
    recording.ask(QUESTION, workflow="QDP/QR,AG")
    assert sorted(recording.policy.seen("query_rewriter")) == [
        f"Main question: {QUESTION}\nQuestion: How tall is K2?",
        f"Main question: {QUESTION}\nQuestion: How tall is Mont Blanc?",
    ]


@pytest.mark.parametrize("bad", ["<q1>a</q1>", "<q1>a</q1><q2>b of #1</q2>"])
def test_an_invalid_decomposition_runs_a_plain_chain(bad: str, tmp_path: Path) -> None:
    recording = parallel(tmp_path, parallel_decomposer=bad)
    result, trajectory = recording.ask(QUESTION)
    assert recording.policy.roles == ["planner", "parallel_decomposer", "answer_generator"]
    assert (result["workflow"]["plan"], result["workflow"]["planned"]) == ("R,AG", "QDP")
    assert trajectory.calls[-1].path == "root/AG" and result["turns"] == 1


def test_retrievals_are_split_extra_units_first() -> None:
    assert split(7, 3) == [3, 2, 2] and split(2, 3) == [1, 1, 0] and split(0, 2) == [0, 0]
    assert split(None, 2) == [None, None]


def test_forced_hops_without_a_retrieval_are_skipped(tmp_path: Path) -> None:
    recording = parallel(tmp_path, parallel_decomposer=THREE)
    result, _ = recording.ask(QUESTION, workflow="QDP/R,AG", max_retrievals=2)
    assert [hop.get("skipped") for hop in result["hops"]] == [None, None, "budget"]
    assert (result["turns"], result["retrievals"], result["budget_hit"]) == (2, 2, True)
    assert recording.policy.seen("answer_summariser")[0].splitlines()[2] == "c? = (skipped: budget)"


def test_planned_hops_without_a_retrieval_choose_from_what_is_left(tmp_path: Path) -> None:
    plan = lambda user: "QDP" if "depth 1" in user else "R,AG"  # noqa: E731
    recording = parallel(tmp_path, planner=plan, parallel_decomposer=THREE)
    result, trajectory = recording.ask(QUESTION, max_retrievals=1, max_depth=1)
    plans = [child["plan"] for child in result["workflow"]["children"]]
    assert sorted(plans) == ["AG", "AG", "R,AG"] and plans[0] == "R,AG"
    assert result["budget_hit"] is True and result["retrievals"] == 1
    assert sum(call.format_error is not None for call in trajectory.calls) == 2


def test_turns_of_a_fan_out_do_not_add_up(tmp_path: Path) -> None:
    result, _ = parallel(tmp_path, parallel_decomposer=THREE).ask(QUESTION, max_turns=2)
    assert result["turns"] == 2 and result["budget_hit"] is False
    assert not any("skipped" in hop for hop in result["hops"])
