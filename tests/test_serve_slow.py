"""Clients who are slow, stuck or strange, spoken to byte by byte: they cost a refusal, and nobody else anything."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from serving import slow
from tests.serving_toy import Served, Toy, play, serving, until


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(served: Served, data: bytes) -> Line:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.client.base_url.port)
    writer.write(data)
    return reader, writer


async def told(line: Line) -> bytes:
    """Return all that the server says until it hangs up."""
    async with asyncio.timeout(10):
        return await line[0].read()


def head(length: int, more: str = "") -> bytes:
    words = f"POST /ask HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{more}"
    return f"{words}Content-Length: {length}\r\n\r\n".encode()


def ends_quietly(story: Callable[[], Awaitable[None]], caplog: pytest.LogCaptureFixture) -> None:
    """Play a story in which the server is stopped; nothing in its log has a traceback."""
    with caplog.at_level(logging.WARNING):
        play(story)
    assert not [record for record in caplog.records if record.exc_info], "no traceback"


def test_a_head_that_does_not_arrive_ends_its_connection(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow, "HEAD_SECONDS", 0.4)

    async def story() -> None:
        async with serving(toy.graph) as served:
            silent = await connect(served, b"")
            halting = await connect(served, b"POST /ask HTTP/1.1\r\nHo")
            again = await connect(served, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await again[0].readuntil(b"}")).startswith(b"HTTP/1.1 200")
            again[1].write(b"GET /he")
            began = asyncio.get_running_loop().time()
            for _ in range(3):  # every byte begins no new wait
                await asyncio.sleep(0.1)
                halting[1].write(b"s")
            assert await told(silent) == await told(halting) == b""
            assert b"HTTP/1.1" not in await told(again)
            assert 0.3 < asyncio.get_running_loop().time() - began < 5

    play(story)


def test_who_has_told_its_head_is_not_hurried(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow, "HEAD_SECONDS", 0.2)

    async def story() -> None:
        async with serving(toy.graph) as served:
            body = json.dumps({"question": "hold Q1"}).encode()
            reader, writer = await connect(served, head(len(body), "Connection: close\r\n"))
            await asyncio.sleep(0.4)  # the body has a limit of its own
            writer.write(body)
            await until(toy.holding.is_set)
            await asyncio.sleep(0.4)
            toy.release.set()
            assert b"answer to Q1" in await told((reader, writer))

    play(story)


def test_a_head_without_end_is_refused(toy: Toy) -> None:
    async def story() -> None:
        async with serving(toy.graph) as served:
            line = await connect(served, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * slow.MOST_HEAD)
            assert (await told(line)).startswith(b"HTTP/1.1 400")
            assert (await served.ask("Q1")).status_code == 200

    play(story)


@pytest.mark.parametrize("hosts", ["", "Host: localhost\r\nHost: evil.example\r\n"])
def test_a_request_names_one_host(toy: Toy, hosts: str) -> None:
    async def story() -> None:
        async with serving(toy.graph) as served:
            line = await connect(served, f"GET /health HTTP/1.1\r\n{hosts}\r\n".encode())
            assert (await told(line)).startswith(b"HTTP/1.1 400")

    play(story)


def test_a_client_that_stops_half_way_does_not_disturb_the_end(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("serving.server.LAST_BYTES_SECONDS", 1)

    async def story() -> None:
        async with serving(toy.graph) as served:
            stuck = await connect(served, head(500) + b'{"question": "Q1')
            idle = await connect(served, b"POST /ask HT")
            assert (await served.ask("Q2")).status_code == 200
        answer = await told(stuck)
        assert answer.startswith(b"HTTP/1.1 503") and b'"code":"draining"' in answer
        assert await told(idle) == b""

    ends_quietly(story, caplog)
    assert "a client was cut off at the end: it had not sent all in time" in caplog.text
    assert [run.outcome for run in toy.runs] == ["ok"]


def test_a_client_that_does_not_read_does_not_disturb_the_end(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("serving.server.LAST_BYTES_SECONDS", 1)

    async def story() -> None:
        async with serving(toy.graph) as served:
            body = json.dumps({"question": "hold Q1", "stream": True}).encode()
            reader, writer = await connect(served, head(len(body)) + body)
            await until(toy.holding.is_set)
            (protocol,) = [one for one in served.server.server_state.connections if one.cycle is not None]
            protocol.flow.pause_writing()  # as when the client's buffers and ours are full
            toy.release.set()
            await until(lambda: served.server.desk.idle)
            assert (await served.ask("Q2")).status_code == 200
        assert b"event: result" not in await told((reader, writer))

    ends_quietly(story, caplog)
    assert "it had not read in time" in caplog.text
    assert sorted(run.outcome for run in toy.runs) == ["ok", "ok"], "what ran is recorded all the same"
