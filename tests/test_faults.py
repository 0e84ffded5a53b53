"""The harness that counts faults: it sees what it should see, and at tiny size it runs."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx
import pytest

from agents.chroma_patience import Patience
from agents.errors import ConfigError, LedgerError, RetrieverError
from agents.model_load import weights_hash
from evaluation.dataset import Example
from faults.__main__ import FAULTS, conduct, read_arguments
from faults.books import Books, books, same_lines, same_weights, torn_checkpoint, torn_lines
from faults.lives import Pace
from faults.proxy import Fault, Proxy
from faults.rows import HEADINGS, Row, table
from faults.toy import Job
from graphs.ledger import LedgerWriter
from tests.test_ledger import RUN
from training.rollout import record

ASKED = [Example(id=f"q{number}", question=f"Number {number}?", answers=("yes",)) for number in range(4)]
WHOLE = Books(2, {"ok": 2}, {}, 0, 0, 0)


def ledger(folder: Path, *names: str, **changes: object) -> Path:
    writer = LedgerWriter(folder, "a")
    for place, name in enumerate(names):
        writer.close(replace(RUN, run=f"r{place}", question_id=name, **changes))  # type: ignore[arg-type]
    return folder


# ---- the books


def test_every_question_with_one_outcome_is_in_order(tmp_path: Path) -> None:
    found = books(ledger(tmp_path, "q0", "q1", "q2", "q3"), ASKED)
    assert found.exact and (found.asked, found.answered, found.failed) == (4, 4, 0)


def test_lost_doubled_torn_and_failed_questions_are_counted(tmp_path: Path) -> None:
    folder = ledger(tmp_path, "q0", "q1", "q1", "q1")
    file = folder / "a.jsonl"
    file.write_bytes(file.read_bytes() + file.read_bytes()[:200])
    LedgerWriter(folder, "b").close(
        replace(RUN, run="x", question_id="q2", outcome="retriever-error", error="no Chroma | server")
    )
    found = books(folder, ASKED)
    assert (found.lost, found.twice, found.torn, found.failed) == (1, 2, 1, 1) and not found.exact
    row = Row("a", "b", 1, found, True, 0.0)
    assert not row.held and "1 × no Chroma / server" in row.cells()[-1]


def test_a_fault_or_a_death_that_never_came_shows_nothing() -> None:
    row = Row("a", "b", 1, WHOLE, True, 0.0, deaths=3)
    assert row.held and row.cells()[8] == "yes" and "the training was killed 3 times" in row.cells()[-1]
    assert not replace(row, times=0).held
    untried = replace(row, deaths=0)
    assert not untried.held and untried.cells()[8] == "not tried"


def test_lines_are_the_same_but_for_their_clocks(tmp_path: Path) -> None:
    for name, seconds in (("one", 1.0), ("two", 2.0)):
        ledger(tmp_path / name, "q0", "q1", seconds={"total": seconds}, started=name)
    assert same_lines(tmp_path / "one", tmp_path / "two")
    ledger(tmp_path / "two", "q0", turns=7)
    assert not same_lines(tmp_path / "one", tmp_path / "two")


def test_one_bit_of_a_weight_is_seen(tmp_path: Path) -> None:
    names = ["adapter/a", "checkpoint/adapter/a", "checkpoint/heads", "checkpoint/optimizer"]
    for folder in ("one", "two"):
        for name in names:
            file = tmp_path / folder / f"{name}.safetensors"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"\x00\x01")
    assert same_weights(tmp_path / "one", tmp_path / "two")
    (tmp_path / "two" / "checkpoint" / "heads.safetensors").write_bytes(b"\x00\x00")
    assert not same_weights(tmp_path / "one", tmp_path / "two")
    assert not same_weights(tmp_path / "none", tmp_path / "none"), "nothing is not the same as nothing"


def test_a_damaged_checkpoint_and_a_missing_segment_are_seen(tmp_path: Path) -> None:
    assert torn_checkpoint(tmp_path) is None
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "state.json").write_text("{")
    assert "corrupt" in (torn_checkpoint(tmp_path) or "")
    assert torn_lines(tmp_path / "gone.jsonl") == 1


def test_lives_grow_while_the_job_is_behind_and_shrink_while_it_is_ahead(tmp_path: Path) -> None:
    pace = Pace(Job(str(tmp_path), "", 8, 2), deaths=4, longest=1.0, seed=0)
    assert [pace._next() for _ in range(4)] == pytest.approx([1.15**n for n in range(1, 5)])
    pace.progress = lambda: 2.0  # type: ignore[method-assign]
    assert pace._next() == pytest.approx(1.15**4 * 0.85)


def test_a_life_that_never_gets_beyond_its_start_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(str(tmp_path / "job"), "", 8, 2)
    asleep = get_context("fork").Process(target=time.sleep, args=(60,))

    def start(*given: Any) -> Any:
        asleep.start()
        job.stage.write_text("")  # as while the job writes it
        return asleep

    monkeypatch.setattr("faults.lives.PATIENCE", 0.05)
    monkeypatch.setattr("faults.lives.start", start)
    with pytest.raises(TimeoutError, match="is still starting after"):
        Pace(job, deaths=4, longest=0.0, seed=0).life()
    asleep.join(10)
    assert asleep.exitcode == -signal.SIGKILL


def test_the_table_is_markdown_and_says_no() -> None:
    text = table([Row("disk", "full", 3, WHOLE, False, 1.6)]).splitlines()
    assert text[0] == f"| {' | '.join(HEADINGS)} |" and text[1].count("---") == len(HEADINGS)
    assert text[2] == "| disk | full | 3 | 2 | 2 answered, 0 failed | 0 | 0 | 0 | NO | 2 |  |"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["disc"], "no fault disc; allowed: process, "),
        (["--kills", "0"], "--kills 0; give 1 or more"),
        (["--questions", "10", "--batch", "8"], "give a multiple of the batch"),
        (["--keep", "."], "is not empty"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_arguments(arguments)


def test_every_fault_is_a_module_that_runs() -> None:
    folder = Path(__file__).resolve().parent.parent / "faults"
    assert all("\ndef run(plan: Plan) -> Iterator[Row]:" in (folder / f"{name}.py").read_text() for name in FAULTS)


# ---- the network


@contextmanager
def shouting(size: int) -> Iterator[int]:
    """Serve `size` bytes to whoever connects; yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as door:

        def serve() -> None:
            while True:
                try:
                    client, _ = door.accept()
                except OSError:
                    return
                with client:
                    client.sendall(b"x" * size)

        threading.Thread(target=serve, daemon=True).start()
        yield int(door.getsockname()[1])


def heard(port: int) -> int:
    """Return how many bytes come before the connection ends, however it ends."""
    count = 0
    with suppress(ConnectionResetError), socket.create_connection(("127.0.0.1", port), timeout=10) as link:
        while data := link.recv(4096):
            count += len(data)
    return count


@pytest.mark.parametrize(("fault", "whole"), [("none", True), ("slow", True), ("cut", False)])
def test_the_proxy_hands_on_delays_and_cuts(fault: Fault, whole: bool) -> None:
    size = 6000
    with shouting(size) as port:
        proxy = Proxy(port, seed=1)
        proxy.fault = fault
        counts = [heard(proxy.port) for _ in range(3)]
        assert all(count == size for count in counts) if whole else all(count < 4000 for count in counts)
        assert proxy.times == (0 if fault == "none" else 3)
        proxy.close()


def test_the_proxy_refuses_for_a_while() -> None:
    with shouting(10) as port:
        proxy = Proxy(port, seed=1)
        refusing = threading.Thread(target=proxy.refuse, args=(0.3,))
        refusing.start()
        time.sleep(0.1)
        with pytest.raises(ConnectionRefusedError):
            heard(proxy.port)
        refusing.join()
        assert heard(proxy.port) == 10
        proxy.close()


# ---- patience with Chroma


def test_patience_is_one_an_outage() -> None:
    patience, tries = Patience(), [0]

    def away(times: int) -> str:
        tries[0] += 1
        if tries[0] <= times:
            raise RetrieverError("away") from httpx.ConnectError("refused")
        return "found"

    assert patience.search(lambda: away(2), 5.0) == "found" and tries == [3]
    tries[0] = 0
    began = time.monotonic()
    with pytest.raises(RetrieverError):
        patience.search(lambda: away(10**9), 0.3)
    assert tries[0] > 1 and time.monotonic() - began < 0.6
    tries[0] = 0
    with pytest.raises(RetrieverError):
        patience.search(lambda: away(1), 0.05)
    assert tries == [1], "the outage is over only when a search succeeds"
    assert patience.search(lambda: away(1), 0.3) == "found"


def test_a_refusal_is_not_waited_out() -> None:
    def refuse() -> None:
        raise RetrieverError("no such collection") from ValueError("gone")

    began = time.monotonic()
    with pytest.raises(RetrieverError, match="no such collection"):
        Patience().search(refuse, 60.0)
    assert time.monotonic() - began < 1.0


# ---- disks that cannot be written


def test_a_segment_that_cannot_be_replaced_is_named(tmp_path: Path) -> None:
    nobody: Any = None
    with pytest.raises(LedgerError, match=r"cannot be replaced .* make its disk writable"):
        record(nobody, nobody, ASKED, tmp_path, nobody)  # a folder stands in the segment's place


def test_a_home_that_cannot_be_written_costs_its_memo_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    known = weights_hash(tmp_path)
    monkeypatch.setenv("JADE_HOME", "/proc/no-such-home")
    assert weights_hash(tmp_path) == known


# ---- the harness


def test_a_killed_job_at_tiny_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["process", "--kills", "2", "--questions", "4", "--batch", "2", "--steps", "0"]
    output = tmp_path / "table.md"
    assert conduct(read_arguments([*words, "--output", str(output)]), tmp_path) == 0
    row = output.read_text().splitlines()[2]
    told = r"\| the process \| kill -9 at a random moment \| [12] \| 4 \| 4 answered, 0 failed \| 0 \| 0 \| 0 \| yes \|"
    assert re.match(told, row)
    assert output.read_text() == capsys.readouterr().out
    state = json.loads((tmp_path / "process" / "killed" / "checkpoint" / "state.json").read_text())["state"]
    assert state["iteration"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FAULTS if name != "process"])
def test_every_other_fault_at_small_size(tmp_path: Path, name: str) -> None:
    words = [name, "--kills", "16", "--questions", "16", "--batch", "8", "--steps", "60"]
    assert conduct(read_arguments(words), tmp_path) == 0
