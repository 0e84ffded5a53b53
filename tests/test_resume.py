"""Interrupted runs: resumed by fresh objects (another process, say) from the checkpointer's database and the ledger."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt

from graphs.acting import act
from graphs.jade import build_jade
from graphs.ledger import LedgerWriter, read_ledger
from graphs.trajectory import Trajectory
from tests.scripted import ListRetriever, Recording, Script, record, says
from tests.test_acting import ECHO, State

QUESTION = "Who is older, the mayor of Salzburg or of Linz?"
PLANS = {"depth 2": "QDP", "depth 1": "QDS", "depth 0": "QR,R,DS,AG"}
SCRIPT = says(
    planner=lambda user: PLANS[user.split("Left: ")[1][:7]],
    parallel_decomposer="<q1>mayor of Salzburg</q1><q2>mayor of Linz</q2>",
    serial_decomposer="<q1>Where?</q1><q2>Who is the mayor of #1?</q2>",
    query_rewriter="mayor town",
    document_selector="Document0",
    answer_generator="A",
    answer_summariser="S",
)
THREAD: RunnableConfig = {"configurable": {"thread_id": "t"}}
NODES = {
    "open": 1,
    "plan": 4,  # the root's, those of QDP's two hops at once, those of their first and second hops
    "parallel": 1,
    "decompose": 2,
    "hop": 3,
    "serial": 1,
    "single_round": 2,
    "QR": 2,
    "R": 2,
    "DS": 2,
    "AG": 2,
    "solved": 3,
    "summarise": 2,
    "close": 1,
}
"""Node → how often a run as a whole stops before it."""


def fresh(folder: Path, saver: Any, before: Any = (), script: Script = SCRIPT) -> Recording:
    """Return new objects over the same database and ledger; they stop before the nodes `before`, at any depth."""

    def build(retriever: ListRetriever) -> Any:
        graph = build_jade(retriever)
        for part in [graph, *(part for _, part in graph.get_subgraphs(recurse=True))]:
            part.interrupt_before_nodes = before if before == "*" else [name for name in before if name in part.nodes]
        return graph.copy({"checkpointer": saver})

    return record(build, script, folder)


def essence(trajectory: Trajectory) -> Any:
    calls = [(call.id, call.role, call.parents, call.prompt_ids, call.text, call.order) for call in trajectory.calls]
    retrievals = [(item.path, item.query, item.ids) for item in trajectory.retrievals]
    return calls, retrievals, trajectory.answer, trajectory.turns, trajectory.seed, trajectory.workflow


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Trajectory:
    """Return the trajectory of a run that nobody interrupted."""
    made = record(build_jade, SCRIPT, tmp_path_factory.mktemp("straight"))
    made.ask(QUESTION, seed=3)
    assert len(made.trajectories[0].calls) == 25
    return made.trajectories[0]


def run_to_the_end(folder: Path, before: Any) -> tuple[int, Trajectory, dict[str, Any]]:
    """Resume until nothing is left to resume; each time with fresh objects."""
    given: Any = QUESTION
    with SqliteSaver.from_conn_string(str(folder / "state.db")) as saver:
        for stops in range(100):
            made = fresh(folder / "ledger", saver, before)
            result = made.graph.invoke(given, THREAD, **({"seed": 3} if given else {}))
            given = None
            if made.trajectories:
                return stops, made.trajectories[0], result
    raise AssertionError("it never ends")


@pytest.mark.parametrize("node", NODES)
def test_a_run_resumes_before_any_node(node: str, straight: Trajectory, tmp_path: Path) -> None:
    stops, trajectory, result = run_to_the_end(tmp_path, [node])
    assert stops == NODES[node]
    assert essence(trajectory) == essence(straight)
    assert result["calls"] and set(result["calls"]) == {call.id for call in trajectory.calls}
    assert result["model_calls"] == 25 and result["run"] == trajectory.run and result["warnings"] == []
    assert [(item.run, item.outcome) for item in read_ledger(tmp_path / "ledger")] == [(trajectory.run, "ok")]


def test_a_run_stops_before_every_node(straight: Trajectory, tmp_path: Path) -> None:
    stops, trajectory, _ = run_to_the_end(tmp_path, "*")
    assert stops > 20 and essence(trajectory) == essence(straight)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=st.sets(st.sampled_from(list(NODES)), min_size=2))
def test_a_run_stops_before_any_nodes(
    before: set[str], straight: Trajectory, tmp_path_factory: pytest.TempPathFactory
) -> None:
    _, trajectory, _ = run_to_the_end(tmp_path_factory.mktemp("some"), sorted(before))
    assert essence(trajectory) == essence(straight)


def test_an_async_run_resumes_from_the_async_saver(straight: Trajectory, tmp_path: Path) -> None:
    async def main() -> Trajectory:
        async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "state.db")) as saver:
            given: Any = QUESTION
            for _ in range(10):
                made = fresh(tmp_path / "ledger", saver, ["AG", "summarise"])
                await made.graph.ainvoke(given, THREAD, **({"seed": 3} if given else {}))
                given = None
                if made.trajectories:
                    return made.trajectories[0]
        raise AssertionError("it never ends")

    assert essence(asyncio.run(main())) == essence(straight)


def test_a_paused_run_reads_as_unfinished(tmp_path: Path) -> None:
    made = fresh(tmp_path, InMemorySaver(), ["parallel"])
    made.graph.invoke(QUESTION, THREAD)
    (stored,) = read_ledger(tmp_path)
    assert stored.outcome == "crashed" and stored.error == "stopped at a breakpoint, not resumed"
    assert [call.id for call in stored.calls] == ["root/PLAN"] and made.trajectories == []


@pytest.mark.parametrize("call", [0, 1, 4, 9, 16, 23, 24])
def test_a_crashed_run_is_recorded_and_can_be_taken_up_again(call: int, straight: Trajectory, tmp_path: Path) -> None:
    fuse = iter(range(call))

    def broken(role: str, user: str) -> str:
        if next(fuse, None) is None:
            raise OSError("out of memory")
        return SCRIPT(role, user)

    saver = InMemorySaver()
    with pytest.raises(OSError, match="out of memory"):
        fresh(tmp_path, saver, script=broken).graph.invoke(QUESTION, THREAD, seed=3)
    made = fresh(tmp_path, saver)
    made.graph.invoke(None, THREAD)
    assert essence(made.trajectories[0]) == essence(straight)
    crashed, finished = read_ledger(tmp_path)
    assert (crashed.outcome, finished.outcome) == ("crashed", "ok") and crashed.run != finished.run
    assert essence(finished) == essence(straight)


KILLED = """
import os, sys
from pathlib import Path
from langgraph.checkpoint.sqlite import SqliteSaver
from tests.test_resume import QUESTION, SCRIPT, THREAD, fresh
left = int(sys.argv[2])
def mortal(role, user):
    global left
    left -= 1
    if left < 0:
        os._exit(9)
    return SCRIPT(role, user)
with SqliteSaver.from_conn_string(sys.argv[1] + "/state.db") as saver:
    fresh(Path(sys.argv[1]) / "ledger", saver, script=mortal).graph.invoke(QUESTION, THREAD, seed=3)
"""


@pytest.mark.parametrize("calls", [3, 14])
def test_a_killed_process_loses_nothing(calls: int, straight: Trajectory, tmp_path: Path) -> None:
    """The database may lag behind the ledger: what is done again replaces what was recorded."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(calls)], env=environment, timeout=120)
    assert killed.returncode == 9
    (torn,) = read_ledger(tmp_path / "ledger")
    assert torn.outcome == "crashed"
    _, trajectory, _ = run_to_the_end_of(tmp_path)
    assert essence(trajectory) == essence(straight) and trajectory.run == torn.run
    assert [item.outcome for item in read_ledger(tmp_path / "ledger")] == ["ok"]


def run_to_the_end_of(folder: Path) -> tuple[int, Trajectory, dict[str, Any]]:
    """Resume what a dead process left."""
    with SqliteSaver.from_conn_string(str(folder / "state.db")) as saver:
        made = fresh(folder / "ledger", saver)
        result = made.graph.invoke(None, THREAD)
        return 0, made.trajectories[0], result


# ---- people in the loop


def asking(folder: Path, saver: Any) -> Recording:
    """Return a graph whose node speaks, asks a person, and speaks again."""

    def node(state: dict[str, Any], config: RunnableConfig) -> dict[str, Any]:
        first = act(ECHO, state, config)
        said = interrupt("go on?")
        return {"answer": [first, said, act(ECHO, state, config)]}

    def build(_: Any) -> Any:
        graph = StateGraph(State)
        graph.add_node("node", node)
        graph.add_edge(START, "node")
        return graph.compile(checkpointer=saver)

    return record(build, lambda role, user: "<say>hello</say>", folder)


def test_a_node_that_runs_again_replaces_its_calls(tmp_path: Path) -> None:
    saver = InMemorySaver()
    assert "__interrupt__" in asking(tmp_path, saver).graph.invoke("Who?", THREAD)
    made = asking(tmp_path, saver)
    assert made.graph.invoke(Command(resume="yes"), THREAD)["answer"] == ["hello", "yes", "hello"]
    assert [(call.id, call.parents) for call in made.trajectories[0].calls] == [("node", ()), ("node#1", ("node",))]
    assert made.trajectories[0].question == "Who?"


def test_each_resume_finds_the_latest_run_of_its_thread(tmp_path: Path) -> None:
    saver = InMemorySaver()
    made = asking(tmp_path, saver)
    for thread, question in (("a", "left alone?"), ("a", "first?"), ("b", "second?")):
        made.graph.invoke(question, {"configurable": {"thread_id": thread}})
    for thread in ("a", "b"):
        asking(tmp_path, saver).graph.invoke(Command(resume="yes"), {"configurable": {"thread_id": thread}})
    stored = {item.question: (item.outcome, len(item.calls)) for item in read_ledger(tmp_path)}
    assert stored == {"left alone?": ("crashed", 1), "first?": ("ok", 2), "second?": ("ok", 2)}


@pytest.mark.parametrize("again", ["off", "on"])
def test_the_rest_of_an_unrecorded_run_is_not_recorded(again: str, tmp_path: Path) -> None:
    made = asking(tmp_path, InMemorySaver())
    made.graph.invoke("Who?", THREAD, record="off")
    assert made.graph.invoke(Command(resume="yes"), THREAD, record=again)["answer"][1] == "yes"
    (trajectory,) = made.trajectories
    assert bool(trajectory.warnings) is (again == "on") and not list(tmp_path.glob("*"))


def test_a_corrupt_pause_line_costs_the_record_only(tmp_path: Path) -> None:
    saver = InMemorySaver()
    asking(tmp_path, saver).graph.invoke("Who?", THREAD)
    (file,) = tmp_path.glob("*.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        line.pop("places", None)
    file.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    made = asking(tmp_path, saver)
    assert made.graph.invoke(Command(resume="yes"), THREAD)["answer"][1] == "yes"


def test_a_breakpoint_without_a_thread_is_a_crash(tmp_path: Path) -> None:
    made = record(build_jade, SCRIPT, tmp_path)
    made.graph.invoke(QUESTION, interrupt_before=["close"])
    assert made.trajectories[0].outcome == "crashed" and "nobody can resume" in str(made.trajectories[0].error)


def test_pauses_are_only_written_where_somebody_can_resume(tmp_path: Path) -> None:
    writer = LedgerWriter(tmp_path)
    record(build_jade, SCRIPT, tmp_path).graph.with_recorder(ledger=writer).invoke(QUESTION)
    assert writer.file is not None and '"event":"pause"' not in writer.file.read_text()
