"""What came of requests is kept for a moment, for any number of threads."""

from __future__ import annotations

import threading
from typing import Any

from agents import remote_kept
from agents.call import Completion, Prompt, Request
from agents.remote_kept import Kept

SAID = Completion((1,), (-0.5,), (1,), "a", False)


def request(number: int) -> Request:
    return Request((number,), "AG", Prompt((1,), 0), 4)


def test_an_outcome_is_taken_once():
    kept, failure = Kept(), ValueError("no")
    asked = [request(i) for i in range(3)]
    kept.keep(asked, [SAID, None, failure])
    assert kept.take([asked[2], asked[1]]) == [failure, None]
    assert kept.take(asked) == [SAID, None, None]
    assert kept.take(asked) == [None] * 3


def test_an_outcome_is_kept_for_a_moment_only(monkeypatch: Any):
    monkeypatch.setattr(remote_kept, "_SECONDS", -1.0)
    kept = Kept()
    kept.keep([request(1)], [SAID])
    assert kept.take([request(1)]) == [None]
    kept.keep([request(1)], [SAID])
    kept.keep([request(2)], [SAID])
    assert list(kept._found) == [request(2)]  # what is old does not pile up


def test_many_threads_keep_and_take_at_once():
    kept, failures = Kept(), []
    per_thread, rounds = 40, 60

    def work(number: int) -> None:
        asked = [request(number * per_thread + i) for i in range(per_thread)]
        try:
            for _ in range(rounds):
                kept.keep(asked, [SAID] * per_thread)
                assert [kept.take([one]) for one in asked] == [[SAID]] * per_thread
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
