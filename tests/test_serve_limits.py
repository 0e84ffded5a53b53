"""How much a server takes on: the queue, deadlines, clients who hang up, and stopping; nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import httpx
import pytest

from graphs.ledger import is_sealed
from tests.serving_toy import Toy, events, name_in, play, serving, until


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


def test_beyond_the_queue_429_and_what_was_taken_is_answered_once(toy: Toy) -> None:
    async def story() -> None:
        async with serving(toy.graph, capacity=2, queue=3) as served:
            names = [f"Q{n}" for n in range(12)]
            asked = {name: asyncio.create_task(served.ask(f"hold {name}")) for name in names}
            await until(lambda: sum(task.done() for task in asked.values()) == 7)
            assert served.counts == (2, 3)
            toy.release.set()
            answers = {name: await task for name, task in asked.items()}
            refused = [response for response in answers.values() if response.status_code == 429]
            assert len(refused) == 7
            for response in refused:
                assert int(response.headers["retry-after"]) >= 1 and response.json()["error"]["code"] == "busy"
            taken = {name: response.json() for name, response in answers.items() if response.status_code == 200}
            assert {name: got["answer"] for name, got in taken.items()} == {name: f"answer to {name}" for name in taken}
            assert len({got["run"] for got in taken.values()}) == len(taken) == 5
            assert Counter(name_in(run.question) for run in toy.runs) == Counter(taken.keys())
            assert served.counts == (0, 0)
            again = await asyncio.gather(*(served.ask(f"Q{n}") for n in range(20, 25)))
            assert [response.json()["answer"] for response in again] == [f"answer to Q{n}" for n in range(20, 25)]

    play(story)


def test_who_waits_longest_runs_first(toy: Toy) -> None:
    async def story() -> None:
        async with serving(toy.graph, capacity=1, queue=4) as served:
            tasks = []
            for number in range(4):
                tasks.append(asyncio.create_task(served.ask(f"hold Q{number}")))
                await until(lambda wanted=number + 1: sum(served.counts) == wanted)
            toy.release.set()
            await asyncio.gather(*tasks)
            assert [name_in(run.question) for run in toy.runs] == ["Q0", "Q1", "Q2", "Q3"]

    play(story)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_who_hangs_up_frees_its_slot(toy: Toy, stream: bool) -> None:
    async def story() -> None:
        async with serving(toy.graph, capacity=1, queue=0) as served:
            gone = asyncio.create_task(served.ask("hold Q1", stream=stream))
            await until(toy.holding.is_set)
            assert (await served.ask("Q2")).status_code == 429
            gone.cancel()
            await until(lambda: served.server.desk.idle)
            toy.release.set()
            assert (await served.ask("Q3")).json()["answer"] == "answer to Q3"
            told = {name_in(run.question): (run.outcome, run.error) for run in toy.runs}
            assert told == {"Q1": ("crashed", "Problem: the client went away"), "Q3": ("ok", None)}
            await until(lambda: 'outcome="gone"} 1.0' in served.server.desk.metrics.text().decode())

    play(story)


def test_who_hangs_up_while_waiting_never_runs(toy: Toy) -> None:
    async def story() -> None:
        async with serving(toy.graph, capacity=1, queue=1) as served:
            first = asyncio.create_task(served.ask("hold Q1"))
            await until(toy.holding.is_set)
            waiting = asyncio.create_task(served.ask("Q2"))
            await until(lambda: served.counts == (1, 1))
            waiting.cancel()
            await until(lambda: served.counts == (1, 0))
            toy.release.set()
            assert (await first).status_code == 200
            assert [name_in(run.question) for run in toy.runs] == ["Q1"]

    play(story)


@pytest.mark.parametrize("stream", [False, True])
def test_a_deadline_ends_the_run_and_the_record_says_so(toy: Toy, stream: bool) -> None:
    async def story() -> None:
        async with serving(toy.graph, capacity=1, queue=1, timeout=0.4) as served:
            late, waiting = (asyncio.create_task(served.ask(f"hold Q{n}", stream=stream)) for n in (1, 2))
            response = await late
            assert response.status_code == (200 if stream else 504)
            error = list(events(response.text))[-1][1]["error"] if stream else response.json()["error"]
            assert error["code"] == "timeout" and "0.4 seconds" in error["message"]
            assert (await waiting).status_code == 504 or stream
            await until(lambda: served.server.desk.idle)
            run = next(run for run in toy.runs if name_in(run.question) == "Q1")
            assert run.outcome == "timeout" and run.error == "TimeoutError: there was no answer within 0.4 seconds"
            toy.release.set()
            assert (await served.ask("Q3")).json()["answer"] == "answer to Q3"

    play(story)


async def stopping(served: object) -> None:
    await until(lambda: served.server.desk.draining)  # type: ignore[attr-defined]


def test_a_stopping_server_finishes_what_runs_and_sends_the_others_away(toy: Toy) -> None:
    async def story() -> None:
        async with serving(toy.graph, capacity=1, queue=1) as served:
            running = asyncio.create_task(served.ask("hold Q1"))
            await until(toy.holding.is_set)
            waiting = asyncio.create_task(served.ask("Q2"))
            await until(lambda: served.counts == (1, 1))
            served.terminate()
            await stopping(served)
            for response in (await waiting, await served.ask("Q3"), await served.client.get("/ready")):
                assert response.status_code == 503 and response.headers["retry-after"]
                assert response.json()["error"]["code"] == "draining"
            assert (await served.client.get("/health")).status_code == 200
            toy.release.set()
            assert (await running).json()["answer"] == "answer to Q1"
            url = served.client.base_url
        assert [(name_in(run.question), run.outcome) for run in toy.runs] == [("Q1", "ok")]
        assert all(is_sealed(file) for file in toy.folder.glob("*.jsonl"))
        async with httpx.AsyncClient(base_url=url, trust_env=False) as late:
            with pytest.raises(httpx.ConnectError):
                await late.get("/health")

    play(story)


def test_a_second_signal_ends_what_runs_and_records_it(toy: Toy) -> None:
    async def story() -> None:
        async with serving(toy.graph) as served:
            running = asyncio.create_task(served.ask("hold Q1"))
            await until(toy.holding.is_set)
            served.terminate()
            served.terminate()
            assert (await running).status_code == 503
            toy.release.set()
        assert [(run.outcome, run.error) for run in toy.runs] == [
            ("crashed", "Problem: the server stops; ask again in a moment")
        ]

    play(story)
