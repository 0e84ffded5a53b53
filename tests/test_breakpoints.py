"""Breakpoints that a call names: before or after any node, however deep."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from agents.errors import ConfigError
from graphs.jade import build_jade
from tests.scripted import record
from tests.test_resume import QUESTION, SCRIPT, THREAD, essence, fresh


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what a run that nobody stops amounts to."""
    made = record(build_jade, SCRIPT, tmp_path_factory.mktemp("straight"))
    return essence(made.ask(QUESTION, seed=3)[1])


@pytest.mark.parametrize("side", ["interrupt_before", "interrupt_after"])
def test_breakpoints_at_any_depth_are_named_by_the_call(side: str, straight: Any, tmp_path: Path) -> None:
    saver = InMemorySaver()
    stops: Any = {side: ["parallel", "R", "summarise"]}
    fresh(tmp_path, saver).graph.invoke(QUESTION, THREAD, seed=3, **stops)
    for _ in range(10):
        made = fresh(tmp_path, saver)
        result = made.graph.invoke(None, THREAD, **stops)
        if made.trajectories:
            break
    assert essence(made.trajectories[0]) == straight and result["answer"] == "S"
    assert made.graph.interrupt_before_nodes == made.graph.interrupt_after_nodes == []


def test_a_run_that_stops_deep_inside_resumes_without_naming_it_again(straight: Any, tmp_path: Path) -> None:
    saver = InMemorySaver()
    made = fresh(tmp_path, saver)
    asyncio.run(made.graph.ainvoke(QUESTION, THREAD, seed=3, interrupt_before=["DS"]))
    assert set(made.policy.roles) == {"planner", "parallel_decomposer", "serial_decomposer", "query_rewriter"}
    made = fresh(tmp_path, saver)
    asyncio.run(made.graph.ainvoke(None, THREAD))
    assert essence(made.trajectories[0]) == straight


def test_a_breakpoint_at_no_node_is_refused(tmp_path: Path) -> None:
    made = fresh(tmp_path, InMemorySaver())
    with pytest.raises(ConfigError, match=r"no node \['GA'\] to stop at; the nodes are AG, DS, QR, R, close"):
        made.graph.invoke(QUESTION, THREAD, interrupt_before=["GA", "AG"])
    assert made.policy.asked == []
