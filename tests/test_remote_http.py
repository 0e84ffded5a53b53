"""HTTP to an inference server: how long is waited between tries, and answers that are not what they should be."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import remote_http
from agents.errors import ConfigError, ServerError
from agents.remote_http import Patience, Transient, pause_before, retry_after
from tests.remote_asking import policy_at, request_of
from tests.remote_toy import toy_server


@given(tries=st.integers(0, 10**6), asked=st.none() | st.floats(0, 1e6))
def test_no_pause_is_shorter_than_the_server_asks_for_and_none_is_zero(tries, asked):
    own = pause_before(tries, asked) - (asked or 0.0)
    assert 0.049 <= own <= 10.001
    assert tries < 8 or own >= 4.999


def test_no_pause_of_zero_seconds_is_a_flood_of_tries():
    tries = asyncio.run(_until_impatient(Patience(0.5), Transient("429", 0.0)))
    assert 3 <= tries <= 7  # 0.05 to 0.1 s, then twice as long each time


def test_those_who_are_told_the_same_do_not_come_back_at_once():
    async def waits() -> list[float]:
        async def one() -> float:
            await Patience(5).wait(Transient("429", 0.2), "here")
            return time.monotonic()

        return await asyncio.gather(*(one() for _ in range(8)))

    started = time.monotonic()
    back = [at - started for at in asyncio.run(waits())]
    assert min(back) >= 0.2
    assert max(back) - min(back) > 0.001


def test_an_outage_is_waited_out_once_until_it_is_another_one(monkeypatch):
    monkeypatch.setattr(remote_http, "_LONGEST_WAIT", 0.05)
    monkeypatch.setattr(remote_http.random, "uniform", lambda low, high: high)  # no later pause is shorter
    patience, trouble = Patience(0.2), Transient("away")
    assert asyncio.run(_until_impatient(patience, trouble)) > 1
    patience.lapse()
    assert asyncio.run(_until_impatient(patience, trouble)) == 1
    time.sleep(0.35)
    patience.lapse()
    assert asyncio.run(_until_impatient(patience, trouble)) > 1


@given(value=st.text() | st.floats().map(str) | st.datetimes().map(lambda at: at.strftime("%a, %d %b %Y %H:%M:%S GMT")))
def test_any_retry_after_is_seconds_or_nothing(value):
    found = retry_after(value)
    assert found is None or found >= 0


def test_an_address_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"'http://here:port' .*wanted http://HOST:PORT"):
        policy_at("http://here:port")


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\x85"])
def test_text_with_the_line_ends_of_unicode_is_one_event(sign):
    token = {"id": 5, "prob": 0.5}
    events = [
        {"content": sign, "tokens": [5], "stop": False, "completion_probabilities": [{**token, "top_probs": [token]}]},
        {"content": "", "tokens": [], "stop": True, "stop_type": "eos"},
    ]
    told = "".join(f"data: {json.dumps(event, ensure_ascii=False)}\r\n\r\n" for event in events).encode()
    with toy_server() as (toy, address):
        policy = policy_at(address)
        toy.verbatim = [({}, told)]
        assert policy.sample([request_of(policy)])[0].response_ids == (5,)


def test_the_last_event_needs_no_line_end():
    with toy_server() as (toy, address):
        policy = policy_at(address)
        toy.verbatim = [({}, b': a comment\ndata: {"stop": true, "stop_type": "eos"}')]
        assert policy.sample([request_of(policy)])[0].response_ids == ()


@pytest.mark.parametrize("wrong", [
    ({"Content-Encoding": "gzip"}, b"this is not compressed"),
    ({}, b"data: {half\n\n"),
    ({}, b"data: " + b"[" * 100_000 + b"\n\n"),
    ({}, b"data: \xff\xfe\n\n"),
])  # fmt: skip
def test_an_answer_that_is_garbled_is_asked_for_again_and_then_named(wrong):
    with toy_server() as (toy, address):
        policy = policy_at(address, patience_seconds=0.3)
        request = request_of(policy)
        toy.verbatim = [wrong]
        assert policy.sample([request])[0].response_ids
        toy.verbatim = [wrong] * 50
        with pytest.raises(ServerError, match=f"server at {address} has not answered for 0.3 s"):
            policy.sample([request])
        assert len(toy.verbatim) > 40


def test_facts_that_are_garbled_are_named():
    with toy_server() as (toy, address):
        toy.about = [({"Content-Encoding": "gzip"}, b"this is not compressed")] * 50
        with pytest.raises(ServerError, match=f"server at {address} has not answered for 0.2 s .DecodingError"):
            _ = policy_at(address, patience_seconds=0.2).facts


async def _until_impatient(patience: Patience, trouble: Transient) -> int:
    """Return how many tries patience had for trouble that does not end."""
    for tries in range(1, 10_000):
        try:
            await patience.wait(trouble, "here")
        except ServerError:
            return tries
    raise AssertionError("patience had no end")
