"""What is asked of an inference server beside prompts, and what ends it: outages, stalls, cancels and the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from agents.batcher import TimedBatcher
from agents.errors import ServerError
from tests import remote_asking
from tests.ports import free_port
from tests.remote_asking import DIALECTS, policy_at, request_of, requests_of, same, until
from tests.remote_toy import toy_server

local = remote_asking.local  # its fixture


class Waiting:
    """Calls in threads of their own, and the errors that came of them."""

    def __init__(self, *calls: Callable[[], object]) -> None:
        self.errors: list[str] = []
        self._threads = [threading.Thread(target=self._run, args=(call,), daemon=True) for call in calls]
        for thread in self._threads:
            thread.start()

    def _run(self, call: Callable[[], object]) -> None:
        try:
            call()
        except ServerError as error:
            self.errors.append(str(error))

    def join(self, seconds: float = 10.0) -> None:
        for thread in self._threads:
            thread.join(seconds)
            assert not thread.is_alive(), "it waits for ever"


@pytest.mark.parametrize("dialect", ["auto", *DIALECTS])
def test_a_server_that_still_loads_its_model_is_waited_for(dialect, local, caplog):
    with toy_server(loading=3) as (toy, address):
        policy = policy_at(address, dialect, patience_seconds=5)
        same(policy.sample([request_of(policy)])[0], local.sample([request_of(local)])[0])
        assert toy.loading == 0
    assert [record.message for record in caplog.records if "trying again" in record.message]


@pytest.mark.parametrize("dialect", ["auto", "llama.cpp"])
def test_a_stalled_server_is_waited_for_until_the_deadline_and_asked_again_by_the_next(dialect):
    with toy_server(stalled=True) as (toy, address):
        policy = policy_at(address, dialect, deadline_seconds=0.8)
        started = time.monotonic()
        waiting = Waiting(*[lambda: policy.facts] * 4)
        waiting.join()
        assert time.monotonic() - started < 2.2  # all of them waited for the same answer
        assert len(waiting.errors) == 4
        assert all("took more than 0.8 s for saying what it" in error for error in waiting.errors)
        toy.stalled = False
        assert policy.facts.model


def test_a_batch_on_a_stalled_server_waits_once_and_not_once_for_each_part():
    with toy_server(stalled=True) as (_, address):
        policy = policy_at(address, deadline_seconds=0.8)
        batcher = TimedBatcher(policy, quiet_seconds=0.02, patience_seconds=0.02)
        started = time.monotonic()
        futures = [batcher.submit(f"run{i}", request) for i, request in enumerate(requests_of(policy, 6))]
        assert {type(future.exception(10)) for future in futures} == {ServerError}
        assert time.monotonic() - started < 2.2


def test_an_outage_is_waited_out_once_and_its_end_is_noticed(local):
    port = free_port()
    policy = policy_at(f"http://127.0.0.1:{port}", patience_seconds=2)
    with pytest.raises(ServerError, match=r"has not answered for 2 s .*ConnectError"):
        _ = policy.facts
    again = time.monotonic()
    with pytest.raises(ServerError, match="has not answered for 2 s"):
        _ = policy.facts
    assert time.monotonic() - again < 0.5  # one try, without a wait
    with toy_server(port=port):
        same(policy.sample([request_of(policy)])[0], local.sample([request_of(local)])[0])


def test_the_same_request_twice_at_once_is_cancelled_twice(local):
    with toy_server(slow=0.02) as (toy, address):
        policy = policy_at(address)
        begun = [threading.Event(), threading.Event()]

        def asks(place: int, tokens: int) -> Callable[[], object]:
            heard = begun[place]
            request = request_of(
                policy, max_new_tokens=tokens, stop=None, temperature=1.0, on_text=lambda text: heard.set()
            )
            return lambda: policy.sample([request])

        short, long = asks(0, 4), asks(1, 300)
        both = Waiting(long)
        assert begun[1].wait(10)
        short()  # the same key; what is over takes nothing of what still runs along
        policy.cancel((3, "Who wrote Dune?", "root/AG", 0))
        both.join()
        assert both.errors == ["the request was cancelled"]
        until(lambda: toy.busy == 0)
        begun[0].clear(), begun[1].clear()
        both = Waiting(long, asks(0, 300))
        assert begun[0].wait(10) and begun[1].wait(10)
        policy.cancel((3, "another", "root/AG", 0))
        policy.cancel((3, "Who wrote Dune?", "root/AG", 0))
        both.join()
        assert both.errors == ["the request was cancelled"] * 2
        until(lambda: toy.busy == 0)


def test_cancelling_all_ends_questions_that_are_no_requests_too():
    with toy_server(stalled=True) as (toy, address):
        policy = policy_at(address)
        waiting = Waiting(lambda: policy.facts)
        time.sleep(0.2)
        policy.cancel((1, "some", "root/AG", 0))
        time.sleep(0.1)
        assert not waiting.errors
        policy.cancel()
        waiting.join()
        assert waiting.errors == ["the request was cancelled"]
        toy.stalled = False
        assert policy.facts.model


def test_closing_ends_all_that_wait_and_what_comes_later_is_told():
    with toy_server(slow=0.02) as (toy, address):
        policy, other = policy_at(address, concurrency=2), policy_at(address)
        request = request_of(policy, max_new_tokens=300, stop=None, temperature=1.0)
        asked = [lambda: policy.sample([request])] * 4  # the same key, and two of them wait for a place
        waiting = Waiting(*asked)
        until(lambda: toy.busy == 2)
        policy.close()
        waiting.join()
        assert waiting.errors == ["the request was cancelled"] * 4
        until(lambda: toy.busy == 0)
        with pytest.raises(ServerError, match=f"connections to {address} were closed"):
            policy.sample([request])
        policy.cancel()
        policy.close()
        until(lambda: policy._asker._loop().is_closed())
        other.close()  # it was never used
        with pytest.raises(ServerError, match="were closed"):
            _ = other.facts


def test_closing_ends_those_who_wait_for_a_stalled_server():
    with toy_server(stalled=True) as (_, address):
        policy = policy_at(address)
        waiting = Waiting(*[lambda: policy.facts] * 3)
        time.sleep(0.2)
        policy.close()
        waiting.join()
        assert len(waiting.errors) == 3
