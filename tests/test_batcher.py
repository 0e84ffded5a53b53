"""Both batchers: who is merged with whom, when a batch is cut, and where errors and cancellations go."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from typing import Any

import pytest

from agents.batcher import LockstepBatcher, TimedBatcher
from agents.call import Completion, Prompt, Request
from tests.scripted import PASSAGES, ListRetriever, ScriptedPolicy, decode_ids, encode_text


def request(text: str = "hello", *key: str | int) -> Request:
    return Request(key or (0, text), "r", Prompt(tuple(encode_text(text)), 0), 50)


def echo(**extra: Any) -> ScriptedPolicy:
    return ScriptedPolicy(lambda role, user: user.upper(), **extra)


@dataclass
class Slow(ScriptedPolicy):
    """Holds each batch until `go` is set, so that the next one fills up meanwhile."""

    def __post_init__(self) -> None:
        self.go = threading.Event()
        self.began = threading.Semaphore(0)

    def sample(self, requests: Sequence[Request]) -> list[Completion]:
        self.began.release()
        assert self.go.wait(10)
        return super().sample(requests)


def sizes(policy: ScriptedPolicy) -> list[int]:
    return [len(batch) for batch in policy.batches]


# ---- serving


def test_timed_merges_what_arrives_together() -> None:
    policy = echo()
    batcher = TimedBatcher(policy, quiet_seconds=0.2)
    futures = [batcher.submit(f"run{i}", request(f"text {i}")) for i in range(5)]
    assert [future.result(5).text for future in futures] == [f"TEXT {i}" for i in range(5)]
    assert sizes(policy) == [5]


def test_timed_merges_submissions_of_many_threads() -> None:
    policy = echo()
    batcher = TimedBatcher(policy, quiet_seconds=0.2)
    barrier, texts = threading.Barrier(8), {}

    def ask(name: str) -> None:
        barrier.wait()
        texts[name] = batcher.submit(name, request(name)).result(5).text

    threads = [threading.Thread(target=ask, args=(f"t{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {f"t{i}": f"T{i}" for i in range(8)} and sizes(policy) == [8]


def test_timed_collects_the_next_batch_while_one_is_sampled() -> None:
    policy = Slow(lambda role, user: user)
    batcher = TimedBatcher(policy, quiet_seconds=0.001)
    first = batcher.submit("a", request("first"))
    assert policy.began.acquire(timeout=5)
    later = [batcher.submit("b", request(f"later {i}")) for i in range(3)]
    policy.go.set()
    wait([first, *later], 5)
    assert sizes(policy) == [1, 3]


def test_timed_never_cuts_more_than_its_rows_and_sorts_by_length_and_key() -> None:
    policy = Slow(lambda role, user: user)
    batcher = TimedBatcher(policy, quiet_seconds=0.05, max_rows=3)
    blocker = batcher.submit("x", request("block"))
    assert policy.began.acquire(timeout=5)
    texts = ["long long long", "b", "a", "medium m", "c"]
    futures = [batcher.submit("x", request(text)) for text in texts]
    policy.go.set()
    assert [future.result(5).text for future in futures] == texts and blocker.result(5).text == "block"
    rows = [[decode_ids(item.prompt.ids) for item in batch] for batch in policy.batches]
    assert rows == [["block"], ["a", "b", "long long long"], ["c", "medium m"]]


def test_timed_waits_longer_while_some_run_has_not_spoken() -> None:
    policy = echo()
    batcher = TimedBatcher(policy, quiet_seconds=0.001, patience_seconds=3.0)
    batcher.enter("a")
    batcher.enter("b")
    first = batcher.submit("a", request("one"))
    time.sleep(0.1)
    assert not first.done()
    second = batcher.submit("b", request("two"))
    wait([first, second], 5)
    assert sizes(policy) == [2]
    alone = batcher.submit("a", request("three"))
    time.sleep(0.05)
    started = time.monotonic()
    batcher.leave("b")
    assert alone.result(5).text == "THREE" and time.monotonic() - started < 2.0


def test_a_batch_that_fails_is_tried_again_in_halves_and_the_worker_goes_on() -> None:
    def script(role: str, user: str) -> str:
        if "bad" in user:
            raise OSError("no more memory")
        return user

    batcher = TimedBatcher(ScriptedPolicy(script), quiet_seconds=0.2)
    futures = [batcher.submit("a", request(text)) for text in ("good", "bad", "fine")]
    assert [futures[place].result(5).text for place in (0, 2)] == ["good", "fine"]
    with pytest.raises(OSError, match="no more memory"):
        futures[1].result(5)
    assert batcher.submit("a", request("again")).result(5).text == "again"


def test_timed_skips_what_was_cancelled() -> None:
    policy = echo()
    batcher = TimedBatcher(policy, quiet_seconds=0.2)
    futures = [batcher.submit("a", request(text)) for text in ("one", "two")]
    assert futures[0].cancel()
    assert futures[1].result(5).text == "TWO"
    assert [user for _, user in policy.asked] == ["two"]
    assert batcher.submit("a", request("three")).result(5).text == "THREE"


def test_search_is_answered_in_the_calling_thread() -> None:
    batcher = TimedBatcher(echo())
    found = batcher.search("a", ListRetriever(PASSAGES), "mayor of Salzburg", 2)
    assert found.done() and found.result()[0]["id"] == "mayor" and len(found.result()) == 2


# ---- collection


def test_lockstep_cuts_only_when_every_run_in_flight_waits() -> None:
    policy = echo()
    batcher = LockstepBatcher(policy)
    for run in "abc":
        batcher.enter(run)
    futures = [batcher.submit("a", request("1")), batcher.submit("b", request("2"))]
    assert not batcher.idle() and not any(future.done() for future in futures)
    futures.append(batcher.submit("c", request("3")))
    assert batcher.idle() and [future.result(0).text for future in futures] == ["1", "2", "3"]
    assert not batcher.idle() and sizes(policy) == [3]


def test_lockstep_goes_on_without_a_run_that_left() -> None:
    batcher = LockstepBatcher(echo())
    batcher.enter("a")
    batcher.enter("b")
    future = batcher.submit("a", request("1"))
    assert not batcher.idle()
    batcher.leave("b")
    assert batcher.idle() and future.done()


def test_lockstep_counts_a_run_that_entered_twice() -> None:
    batcher = LockstepBatcher(echo())
    for run in ("a", "b", "b"):
        batcher.enter(run)
    batcher.submit("a", request("1"))
    batcher.leave("b")
    assert not batcher.idle()
    batcher.leave("b")
    assert batcher.idle()


def test_lockstep_answers_all_queries_before_it_samples() -> None:
    policy, retriever, other = echo(), ListRetriever(PASSAGES), ListRetriever(PASSAGES[:2])
    batcher = LockstepBatcher(policy)
    batcher.enter("a")
    asked = batcher.submit("a", request("1"))
    found = [
        batcher.search("a", retriever, "tall K2", 1),
        batcher.search("a", other, "mayor", 1),
        batcher.search("a", retriever, "Mozart born", 1),
        batcher.search("a", retriever, "Mozart born", 2),
    ]
    assert batcher.idle() and not asked.done()
    assert [[passage["id"] for passage in item.result(0)] for item in found] == [
        ["k2"],
        ["mayor"],
        ["mozart"],
        ["mozart", "mayor"],
    ]
    assert batcher.idle() and asked.done()


def test_lockstep_order_does_not_depend_on_arrival() -> None:
    rows = []
    for texts in (["bb", "a", "cccccccc"], ["cccccccc", "bb", "a"]):
        policy = echo()
        batcher = LockstepBatcher(policy)
        for text in texts:
            batcher.submit("r", request(text, 7, text))
        batcher.idle()
        rows.append([item.key for item in policy.batches[0]])
    assert rows[0] == rows[1] == [(7, "a"), (7, "bb"), (7, "cccccccc")]


def test_lockstep_errors_reach_their_futures_only() -> None:
    class Broken(ListRetriever):
        def search(self, queries: Sequence[str], k: int) -> Any:
            raise OSError("gone")

    batcher = LockstepBatcher(echo())
    bad = batcher.search("a", Broken(PASSAGES), "x", 1)
    good = batcher.search("a", ListRetriever(PASSAGES), "K2", 1)
    assert batcher.idle() and good.result(0)[0]["id"] == "k2"
    with pytest.raises(OSError, match="gone"):
        bad.result(0)


def test_an_interrupt_reaches_both_the_futures_and_the_caller() -> None:
    def script(role: str, user: str) -> str:
        raise KeyboardInterrupt

    batcher = LockstepBatcher(ScriptedPolicy(script))
    future = batcher.submit("a", request("1"))
    with pytest.raises(KeyboardInterrupt):
        batcher.idle()
    assert isinstance(future.exception(0), KeyboardInterrupt)


def test_lockstep_waits_for_a_thread_at_work_but_not_for_ever() -> None:
    batcher = LockstepBatcher(echo(), patience_seconds=0.1)
    batcher.busy = lambda: 2
    batcher.enter("a")
    futures = [batcher.submit("a", request("1"))]  # by one of the two threads
    assert not batcher.idle()
    time.sleep(0.11)
    futures.append(batcher.submit("a", request("2")))  # and by the other
    assert batcher.idle() and all(future.done() for future in futures)
    lonely = batcher.submit("a", request("3"))
    assert not batcher.idle()
    time.sleep(0.11)
    assert batcher.idle() and lonely.done()
