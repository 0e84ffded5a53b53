"""Events of an inference server that are not as agreed: each is named with the address, and none escapes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.errors import ServerError
from agents.remote_dialects import LlamaCpp, Vllm
from agents.remote_wire import Heard, understand
from tests.remote_asking import policy_at, request_of
from tests.remote_toy import toy_server

NAMES = (
    "choices", "completion_probabilities", "content", "finish_reason", "id", "logprob", "logprobs", "prob", "stop",
    "text", "token_ids", "token_logprobs", "tokens", "tokens_predicted", "top_logprobs", "top_probs",
)  # fmt: skip
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["token_id:7", "token_id:x", "", "3"])
)
EVENTS = st.dictionaries(
    st.sampled_from(NAMES),
    st.recursive(
        LEAVES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6),
        max_leaves=12,
    ),
    max_size=8,
)


@pytest.mark.parametrize("dialect", [LlamaCpp(), Vllm()])
@given(event=EVENTS)
def test_any_event_is_understood_or_named(dialect, event):
    try:
        heard = understand(dialect, event, "http://there")
    except ServerError as error:
        assert f"http://there{dialect.path} sent an event that is not of a {dialect.name} server" in str(error)
    else:
        assert all(token >= 0 for token in heard.ids)


def test_what_is_no_token_and_no_log_probability_is_refused():
    for wrong in ({"ids": (-1,)}, {"logprobs": (float("nan"),)}, {"logprobs": (float("-inf"),)},
                  {"scores": {3: float("nan")}}):  # fmt: skip
        with pytest.raises(ValueError, match=r"tokens|log-probabilities"):
            Heard(**wrong)
    assert Heard((0,), (-0.5,), {3: float("-inf")}).ids == (0,)


def llama(**changes: Any) -> dict[str, Any]:
    """Return an event of llama.cpp's server."""
    token = {"id": 5, "prob": 0.5}
    shown = [{**token, "top_probs": [token]}]
    return {"content": "a", "tokens": [5], "stop": False, "completion_probabilities": shown, **changes}


def vllm(**changes: Any) -> dict[str, Any]:
    """Return an event of vLLM."""
    found = {"tokens": ["token_id:5"], "token_logprobs": [-0.5], "top_logprobs": [{"token_id:5": -0.5}]}
    return {"choices": [{"text": "a", "token_ids": [5], "logprobs": {**found, **changes}, "finish_reason": None}]}


@pytest.mark.parametrize(("dialect", "event", "named"), [
    ("llama.cpp", llama(completion_probabilities=[{"prob": 0.5, "top_probs": [{"prob": 0.5}]}]), "KeyError: 'id'"),
    ("llama.cpp", llama(completion_probabilities=[{"id": 5}]), "KeyError: 'prob'"),
    ("llama.cpp", llama(tokens=[2**70, "x"]), "ValueError"),
    ("llama.cpp", llama(tokens=[-3]), "ValueError"),
    ("llama.cpp", llama(tokens=[5, 6]), "2 tokens with 1 log-probabilities"),
    ("llama.cpp", llama(tokens=[2**40]), "sent token 1099511627776 of .* another model"),
    ("vllm", vllm(top_logprobs=[{"token_id:x": -0.5}]), "ValueError: .*'x'"),
    ("vllm", vllm(token_logprobs=[None]), "TypeError"),
    ("vllm", {"choices": {"text": "a"}}, "KeyError"),
    ("vllm", {"choices": "none"}, "AttributeError"),
])  # fmt: skip
def test_a_malformed_event_fails_its_request_by_name(dialect, event, named):
    with toy_server() as (toy, address):
        policy = policy_at(address, dialect)
        request = request_of(policy)
        _ = policy.facts
        toy.verbatim = [({}, f"data: {json.dumps(event)}\n\n".encode())]
        with pytest.raises(ServerError, match=f"{address}.*{named}"):
            policy.sample([request])
        assert policy.sample([request])[0].response_ids


@pytest.mark.parametrize("told", [b"[]", b"5", b'"x"', b'{"data": [7]}', b'{"data": [{"id": "toy"}]}', b"no JSON"])
@pytest.mark.parametrize("dialect", ["llama.cpp", "vllm"])
def test_facts_that_are_not_as_agreed_are_named(dialect, told):
    with toy_server() as (toy, address):
        toy.about = [({}, told)] * 3
        with pytest.raises(ServerError, match=f"{address}/.* does not answer as a .* server does"):
            _ = policy_at(address, dialect).facts
