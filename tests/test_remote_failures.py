"""What goes wrong between an inference server and the policy on it: refusals, lost connections, deadlines, aborts."""

from __future__ import annotations

import dataclasses
import threading
import time
from email.utils import formatdate

import pytest

from agents.batcher import TimedBatcher
from agents.call import Completion, Request
from agents.errors import ServerError
from agents.remote import RemotePolicy
from agents.remote_http import retry_after
from tests import remote_asking
from tests.ports import free_port
from tests.remote_asking import policy_at, request_of, requests_of, same, until
from tests.remote_toy import ServerProcess, toy_server

local = remote_asking.local  # its fixture


def test_at_most_so_many_requests_at_once(local):
    with toy_server(slow=0.005) as (toy, address):
        policy = policy_at(address, concurrency=2)
        requests = requests_of(policy, 7, max_new_tokens=4)
        found = policy.sample(requests)
        assert toy.busiest == 2
        assert [item.response_ids for item in found] == [item.response_ids for item in local.sample(requests)]
        assert sum(item.prefill_seconds + item.decode_seconds for item in found) < 60


def test_refusals_for_the_moment_are_tried_again_when_the_server_says(local):
    with toy_server() as (toy, address):
        policy = policy_at(address, patience_seconds=5)
        request = request_of(policy)
        _ = policy.facts
        toy.refusals = [(429, {"Retry-After": "0.3"}), (503, {})]
        started = time.monotonic()
        same(policy.sample([request])[0], local.sample([request])[0])
        assert time.monotonic() - started >= 0.3
        assert len(toy.asked) == 3
        toy.refusals = [(400, {})]
        with pytest.raises(ServerError, match="refused with 400"):
            policy.sample([request])
        assert len(toy.asked) == 4  # a wrong request stays wrong
        policy = policy_at(address, patience_seconds=0.4)
        toy.refusals = [(429, {"Retry-After": "60"})]
        with pytest.raises(ServerError, match=r"has not answered for 0.4 s \(429"):
            policy.sample([request])


def test_retry_after_is_seconds_or_a_date():
    assert retry_after("7") == 7.0
    assert retry_after("-3") == 0.0
    assert retry_after(formatdate(time.time() + 30, usegmt=True)) == pytest.approx(30, abs=2)
    assert retry_after(None) is retry_after("soon") is retry_after("nan") is None


def test_an_answer_that_breaks_off_is_taken_up_where_it_broke(local):
    with toy_server() as (toy, address):
        policy = policy_at(address, patience_seconds=5)
        request = request_of(policy)
        wanted = local.sample([request])[0]
        toy.breaks_after = 5
        same(policy.sample([request])[0], wanted)
        assert toy.asked[-1]["prompt"] == [*request.prompt.ids, *wanted.response_ids[:5]]
        assert toy.asked[-1]["n_predict"] == 7


def test_a_server_killed_in_the_middle_of_a_batch_and_started_again_loses_nothing(local):
    server = ServerProcess(slow=0.02)
    policy = policy_at(server.address, patience_seconds=30, concurrency=8)
    grown: dict[int, list[str]] = {i: [] for i in range(8)}
    requests = [dataclasses.replace(r, on_text=grown[i].append) for i, r in enumerate(requests_of(policy, 8))]
    found: list[Completion] = []
    asking = threading.Thread(target=lambda: found.extend(policy.sample(requests)))
    try:
        asking.start()
        until(lambda: all(len(texts) >= 3 for texts in grown.values()))
        server.kill()
        time.sleep(0.2)
        assert not found
        server.start()
        asking.join(30)
    finally:
        server.kill()
    assert len(found) == 8
    for item, wanted in zip(found, local.sample(requests_of(local, 8)), strict=True):
        same(item, wanted)
    assert all(len(texts) == len(found[i].response_ids) for i, texts in grown.items())  # each token told once


def test_a_server_that_is_away_is_named():
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ServerError, match=f"server at {address} has not answered for 0.5 s .*see that it runs"):
        _ = policy_at(address).context_length


def test_a_cancelled_request_is_aborted_on_the_server(local):
    with toy_server(slow=0.02) as (toy, address):
        policy = policy_at(address)
        long, short = request_of(policy, max_new_tokens=200, stop=None, temperature=1.0), request_of(policy, "Why?")
        toy.finished = 0
        begun = threading.Event()
        watched = dataclasses.replace(long, on_text=lambda text: begun.set())
        failures: list[Exception] = []
        waiting = threading.Thread(target=lambda: failures.append(_failure(policy, [watched, short])))
        waiting.start()
        assert begun.wait(10)
        policy.cancel(long.key)
        waiting.join(10)
        assert [str(failure) for failure in failures] == ["the request was cancelled"]
        until(lambda: toy.aborted == 1 and toy.busy == 0)
        asked = len(toy.asked)
        same(policy.sample([short])[0], local.sample([short])[0])
        assert len(toy.asked) == asked  # it was answered while the other was cancelled, and is not asked again


def test_a_deadline_ends_a_request_and_the_servers_work_on_it():
    with toy_server(slow=0.05) as (toy, address):
        policy = policy_at(address, deadline_seconds=0.3)
        with pytest.raises(ServerError, match=r"took more than 0.3 s .*deadline_seconds"):
            policy.sample([request_of(policy, max_new_tokens=200, stop=None, temperature=1.0)])
        until(lambda: toy.aborted == 1 and toy.busy == 0)


def test_one_bad_request_of_a_batch_fails_alone_and_the_others_are_asked_once(local):
    with toy_server() as (toy, address):
        policy = policy_at(address)
        requests = requests_of(policy, 5)
        _ = policy.facts
        toy.refusals = [(400, {})]
        batcher = TimedBatcher(policy, quiet_seconds=0.05, patience_seconds=0.05)
        futures = [batcher.submit(f"run{i}", request) for i, request in enumerate(requests)]
        failed = [future.exception(20) for future in futures]
        assert [type(error) for error in failed if error] == [ServerError]
        assert len(toy.asked) == 5
        for future, wanted in zip(futures, local.sample(requests), strict=True):
            if future.exception() is None:
                same(future.result(), wanted)


def _failure(policy: RemotePolicy, requests: list[Request]) -> Exception:
    with pytest.raises(ServerError) as caught:
        policy.sample(requests)
    return caught.value
