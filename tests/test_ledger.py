"""The ledger: what is written is what is read, and damage costs the damaged line only."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.call import Call, Constraint
from agents.errors import LedgerError
from graphs.feedback import append_feedback, read_feedback
from graphs.ledger import LedgerWriter, find_run, is_sealed, read_ledger
from graphs.ledger_lines import Problem
from graphs.resume import unfinished
from graphs.trajectory import Retrieval, Trajectory

CALL = Call(
    id="root/AG",
    role="answer_generator",
    path="root/AG",
    parents=("root/planner",),
    prompt_ids=(1, 2, 3),
    response_ids=(4, 5),
    logprobs=(-0.125, -1.0000000000000002e-3),
    mask=(1, 0),
    temperature=0.7,
    greedy=False,
    text="<answer>Zürich\u2028</answer>",
    value="Zürich",
    format_error=None,
    truncated=False,
    constraint=Constraint(regex="<answer>.*</answer>"),
    seconds={"decode": 0.25},
)
RUN = Trajectory(
    run="run-1",
    question="Where?",
    answer="Zürich",
    outcome="ok",
    calls=(CALL,),
    retrievals=(Retrieval("root/R", "where", ("a", "b"), (0.5, 0.25), 0.01),),
    workflow={"path": "root", "plan": "R,AG", "children": []},
    hashes={"text": "t"},
    started="2026-01-01T00:00:00Z",
)


def read(path: Path) -> tuple[list[Trajectory], list[Problem]]:
    problems: list[Problem] = []
    return list(read_ledger(path, on_problem=problems.append)), problems


def only_file(folder: Path) -> Path:
    (file,) = folder.glob("*.jsonl")
    return file


def test_a_run_comes_back_as_it_went_in(tmp_path: Path) -> None:
    writer = LedgerWriter(tmp_path / "new" / "ledger")
    assert not (tmp_path / "new").exists()  # nothing before the first line
    assert writer.open("run-1", {"question": "Where?"}) is None
    assert writer.close(RUN) is None
    trajectories, problems = read(tmp_path / "new" / "ledger")
    assert trajectories == [RUN]
    assert problems == []


def test_open_without_close_reads_as_crashed_and_comes_last(tmp_path: Path) -> None:
    writer = LedgerWriter(tmp_path)
    writer.open("died", {"question": "Who?", "seed": 7})
    writer.open("run-1", {"question": "Where?"})
    writer.close(RUN)
    trajectories, problems = read(tmp_path)
    assert [item.run for item in trajectories] == ["run-1", "died"]
    assert (trajectories[1].outcome, trajectories[1].question, trajectories[1].seed) == ("crashed", "Who?", 7)
    assert trajectories[1].error
    assert problems == []


def test_a_paused_run_keeps_its_calls_until_another_process_closes_it(tmp_path: Path) -> None:
    first = LedgerWriter(tmp_path, "1")
    first.open("run-1", {"question": "Where?", "thread": "t"})
    first.pause("run-1", {"thread": "t", "calls": []})
    first.pause("run-1", {"thread": "t", "calls": [CALL.to_json()]})
    found = unfinished(tmp_path, "t")
    assert found is not None and (found.run, found.closed) == ("run-1", False)
    assert [Call.from_json(call) for call in found.data["calls"]] == [CALL]
    assert unfinished(tmp_path, "another") is None
    (crashed,) = read(tmp_path)[0]
    assert (crashed.outcome, crashed.question, crashed.calls) == ("crashed", "Where?", (CALL,))
    second = LedgerWriter(tmp_path, "2")
    second.open("run-1", {"question": "Where?"})
    second.close(RUN)
    assert read(tmp_path)[0] == [RUN]
    assert unfinished(tmp_path, "t") is None


def test_the_order_of_files_does_not_turn_a_closed_run_into_a_crash(tmp_path: Path) -> None:
    LedgerWriter(tmp_path, "2").open("run-1", {"question": "Where?"})
    LedgerWriter(tmp_path, "1").close(RUN)
    assert read(tmp_path)[0] == [RUN]


def test_a_forked_process_writes_its_own_file(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from graphs.ledger import LedgerWriter\n"
        "w = LedgerWriter(Path(sys.argv[1])); w.open('parent', {})\n"
        "if os.fork() == 0: w.open('child', {}); os._exit(0)\n"
        "os.wait(); w.open('parent-again', {})"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    counts = sorted(len(file.read_text().splitlines()) for file in tmp_path.glob("*.jsonl"))
    assert counts == [1, 2]
    assert {item.run for item in read(tmp_path)[0]} == {"parent", "child", "parent-again"}


def test_threads_never_mix_their_lines(tmp_path: Path) -> None:
    writer = LedgerWriter(tmp_path)

    def work(name: str) -> None:
        for index in range(50):
            writer.close(replace(RUN, run=f"{name}-{index}", question="x" * 5000))

    threads = [threading.Thread(target=work, args=(str(index),)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    trajectories, problems = read(tmp_path)
    assert len({item.run for item in trajectories}) == 400
    assert problems == []


def test_a_segment_is_sealed_once_all_of_it_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = LedgerWriter(tmp_path, "iteration-3")
    writer.close(RUN)
    assert writer.file == tmp_path / "iteration-3.jsonl"
    assert not is_sealed(writer.file)
    writer.seal()
    assert is_sealed(writer.file)
    assert read(writer.file) == ([RUN], [])
    assert not is_sealed(tmp_path / "iteration-4.jsonl")

    broken = LedgerWriter(tmp_path, "iteration-4")
    broken.open("r", {})
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        broken.close(RUN)
    with pytest.raises(LedgerError, match="cannot be sealed"):
        broken.seal()


def test_what_is_not_json_is_refused_for_what_it_is(tmp_path: Path) -> None:
    warning = LedgerWriter(tmp_path).open("run-1", {"question": "Where?", "mine": object()})
    assert warning is not None and "object is not JSON" in warning and "make room" not in warning


def test_find_run_by_prefix(tmp_path: Path) -> None:
    writer = LedgerWriter(tmp_path)
    for name in ("abc-1", "abc-2", "xyz"):
        writer.open(name, {"question": "Q"})
        writer.close(replace(RUN, run=name))
    writer.open("open-only", {"question": "Q"})
    assert find_run(tmp_path, "x").run == "xyz"
    assert find_run(tmp_path, "abc-1").run == "abc-1"
    assert find_run(tmp_path, "open").outcome == "crashed"
    assert find_run(tmp_path, None).run == "open-only"
    with pytest.raises(LedgerError, match=r"2 runs start with 'abc'.*abc-1, abc-2"):
        find_run(tmp_path, "abc")
    with pytest.raises(LedgerError, match=r"no run starts with 'q'.*jade runs"):
        find_run(tmp_path, "q")


def test_an_exact_id_wins_over_longer_ones(tmp_path: Path) -> None:
    writer = LedgerWriter(tmp_path)
    for name in ("r1", "r11"):
        writer.close(replace(RUN, run=name))
    assert find_run(tmp_path, "r1").run == "r1"


def test_feedback_joins_by_run_and_the_latest_counts(tmp_path: Path) -> None:
    LedgerWriter(tmp_path).close(RUN)
    append_feedback(tmp_path, "run-1", 0.25)
    append_feedback(tmp_path, "run-1", 1.0, note="checked")
    append_feedback(tmp_path, "run-2", 0.0)
    assert read_feedback(tmp_path) == {"run-1": 1.0, "run-2": 0.0}
    assert read(tmp_path) == ([RUN], [])
    with pytest.raises(LedgerError, match="not recorded"):
        append_feedback(Path("/proc/no-such-ledger"), "run-1", 1.0)


def test_reading_keeps_memory_flat(tmp_path: Path) -> None:
    writer = LedgerWriter(tmp_path)
    big = replace(RUN, calls=tuple(replace(CALL, prompt_ids=tuple(range(2000))) for _ in range(5)))
    peaks = []
    for count in (20, 200):
        for index in range(count):
            writer.close(replace(big, run=f"{count}-{index}"))
        tracemalloc.start()
        assert sum(1 for _ in read_ledger(tmp_path)) >= count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


TEXT = st.text(max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
IDS = st.lists(st.integers(0, 49151), max_size=5).map(tuple)
NUMBERS = st.lists(st.floats(allow_nan=False), max_size=5).map(tuple)


def one_length(call: Call) -> Call:
    """Cut response, log-probabilities and mask to the shortest of them."""
    size = min(len(call.response_ids), len(call.logprobs), len(call.mask))
    return replace(call, response_ids=call.response_ids[:size], logprobs=call.logprobs[:size], mask=call.mask[:size])


CALLS = st.builds(
    Call,
    id=TEXT,
    role=TEXT,
    path=TEXT,
    parents=st.lists(TEXT, max_size=3).map(tuple),
    prompt_ids=IDS,
    response_ids=IDS,
    logprobs=NUMBERS,
    mask=IDS,
    temperature=st.floats(0, 5),
    greedy=st.booleans(),
    text=TEXT,
    value=JSON,
    format_error=st.none() | TEXT,
    truncated=st.booleans(),
    constraint=st.none()
    | st.builds(Constraint, choices=st.lists(TEXT, min_size=1, max_size=3).map(tuple))
    | st.builds(Constraint, regex=TEXT),
    adapter=st.none() | TEXT,
    seconds=st.dictionaries(TEXT, st.floats(0, 9), max_size=2),
).map(one_length)
TRAJECTORIES = st.builds(
    Trajectory,
    run=st.from_regex(r"[\w.-]{1,12}", fullmatch=True).filter(str.isascii),
    question=TEXT,
    answer=TEXT,
    outcome=st.sampled_from(["ok", "invalid", "truncated", "retriever-error", "timeout", "crashed"]),
    calls=st.lists(CALLS, max_size=3).map(tuple),
    retrievals=st.lists(
        st.builds(
            Retrieval,
            path=TEXT,
            query=TEXT,
            ids=st.lists(TEXT, max_size=3).map(tuple),
            scores=NUMBERS,
            seconds=st.floats(0, 9),
        ),
        max_size=2,
    ).map(tuple),
    question_id=st.none() | TEXT,
    evidence=st.lists(TEXT, max_size=3).map(tuple),
    citations=st.lists(TEXT, max_size=3).map(tuple),
    workflow=st.none() | st.dictionaries(TEXT, JSON, max_size=3),
    hops=st.lists(st.dictionaries(TEXT, JSON, max_size=3), max_size=2).map(tuple),
    turns=st.integers(0, 99),
    seed=st.integers(0, 2**63),
    options=st.dictionaries(TEXT, JSON, max_size=3),
    warnings=st.lists(TEXT, max_size=2).map(tuple),
    error=st.none() | TEXT,
)
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@QUICK
@given(trajectories=st.lists(TRAJECTORIES, max_size=3))
def test_any_trajectory_survives_the_round_trip(
    trajectories: list[Trajectory], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("ledger")
    writer = LedgerWriter(folder)
    for trajectory in trajectories:
        assert writer.close(trajectory) is None
    assert read(folder) == (trajectories, [])
