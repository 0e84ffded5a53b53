"""What is loaded at first use is loaded once, whoever asks, and a failure is not kept."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from agents.call import Prompt, Request
from agents.lazy import LazyPolicy, LazyRetriever, Once
from tests.scripted import PASSAGES, ListRetriever, ScriptedPolicy, encode_text


def test_once_makes_its_value_once_and_an_error_is_not_kept() -> None:
    made: list[int] = []

    def make() -> int:
        made.append(1)
        if len(made) == 1:
            raise OSError("not yet")
        time.sleep(0.02)
        return 7

    once = Once(make)
    with pytest.raises(OSError, match="not yet"):
        once()
    values: list[int] = []
    threads = [threading.Thread(target=lambda: values.append(once())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values == [7] * 4 and len(made) == 2


def test_those_who_wait_share_a_failure_but_not_an_interruption() -> None:
    begun, go = threading.Event(), threading.Event()
    causes: list[BaseException] = [OSError("away"), KeyboardInterrupt()]
    made: list[int] = []

    def make() -> int:
        made.append(1)
        begun.set()
        assert go.wait(10)
        if causes:
            raise causes.pop(0)
        return 7

    once = Once(make)
    found: list[Any] = []

    def ask() -> None:
        try:
            found.append(once())
        except BaseException as error:
            found.append(type(error))

    def all_ask() -> None:
        begun.clear(), go.clear(), found.clear()
        threads = [threading.Thread(target=ask) for _ in range(4)]
        threads[0].start()
        assert begun.wait(10)
        for thread in threads[1:]:
            thread.start()
        time.sleep(0.1)
        go.set()
        for thread in threads:
            thread.join(10)

    all_ask()
    assert found == [OSError] * 4 and len(made) == 1
    all_ask()
    assert sorted(map(str, found)) == sorted(map(str, [KeyboardInterrupt, 7, 7, 7])) and len(made) == 3


def test_lazy_policy_and_retriever_pass_everything_on() -> None:
    policy, retriever = ScriptedPolicy(lambda role, user: user.upper(), context_length=77), ListRetriever(PASSAGES)
    made: list[str] = []
    lazy = LazyPolicy(lambda: made.append("policy") or policy)
    source = LazyRetriever(lambda: made.append("retriever") or retriever)
    assert made == []
    assert lazy.context_length == 77 and lazy.identity == policy.identity
    turns: Any = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    assert lazy.encode(turns) == policy.encode(turns)
    assert lazy.sample([Request((0,), "r", Prompt(tuple(encode_text("x")), 0), 50)])[0].text == "X"
    assert source.identity == retriever.identity and source.search(["K2"], 1)[0][0]["id"] == "k2"
    assert made == ["policy", "retriever"]
