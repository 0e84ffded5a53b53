"""Asking a toy server beside the model that it runs: the same requests to both, and whether the answers agree."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agents.call import Completion, Request
from agents.model import SharedModel
from agents.remote import RemotePolicy
from tests.remote_toy import ToyServer, side, toy_server
from tests.toy_model import toy_model

DIALECTS = ("llama.cpp", "vllm")
SYSTEM = "You answer questions. Choose a workflow for the question."


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[ToyServer, str]]:
    with toy_server() as served:
        yield served


@pytest.fixture(scope="module")
def local() -> SharedModel:
    return toy_model()


def policy_at(address: str, dialect: str = "llama.cpp", **options: Any) -> RemotePolicy:
    return RemotePolicy(address, side(), dialect=dialect, **{"patience_seconds": 0.5, **options})


def request_of(policy: Any, question: str = "Who wrote Dune?", **changes: Any) -> Request:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    request = Request((3, question, "root/AG", 0), "AG", policy.encode(messages), 12, 0.0, "</answer>")
    return dataclasses.replace(request, **changes)


def requests_of(policy: Any, count: int, **changes: Any) -> list[Request]:
    return [request_of(policy, f"Which planet is number {i}?", **changes) for i in range(count)]


def same(found: Completion, wanted: Completion) -> None:
    assert found.response_ids == wanted.response_ids
    assert found.logprobs == pytest.approx(wanted.logprobs, abs=1e-4)
    assert (found.mask, found.text, found.truncated) == (wanted.mask, wanted.text, wanted.truncated)


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to be so"
        time.sleep(0.005)
