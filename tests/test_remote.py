"""The policy on an inference server speaks as the local model does: tokens, log-probabilities, masks, text."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agents.call import Completion, Constraint, Request
from agents.errors import ConfigError, PromptError, ServerError
from agents.model import SharedModel
from agents.model_text import TextSide
from agents.remote import RemotePolicy
from agents.remote_wire import RAW
from agents.sampling import draw, draw_among, greedy, masked_logprobs, uniforms
from graphs.app import load_graph
from graphs.ledger import read_ledger
from tests import remote_asking
from tests.ppo_toy import start_adapter
from tests.remote_asking import DIALECTS, policy_at, request_of, requests_of, same, until
from tests.remote_toy import CONTEXT, side, toy_server
from tests.scripted import PASSAGES, ListRetriever
from tests.toy_model import toy_model

served, local = remote_asking.served, remote_asking.local  # its fixtures
PLANS = Constraint(choices=("<workflow>R,AG</workflow>", "<workflow>QDS</workflow>", "<workflow>QDP</workflow>"))
ANSWER = Constraint(regex=r"<answer>[^<>\n]{1,20}</answer>")


def forced(local: SharedModel, request: Request, found: Completion) -> list[float]:
    row = (request.prompt.ids, found.response_ids, request.constraint, request.temperature or 1.0)
    return local.teacher_force([row])[0]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_it_speaks_as_the_local_model_does(dialect, served, local):
    policy = policy_at(served[1], dialect)
    requests = requests_of(policy, 3)
    assert requests == requests_of(local, 3)
    for found, wanted in zip(policy.sample(requests), local.sample(requests), strict=True):
        same(found, wanted)
    assert policy.identity["text"] == local.identity["text"]
    assert policy.identity["policy"] == local.identity["policy"]
    assert policy.identity["logprobs"] == "exact"
    assert policy.context_length == CONTEXT


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_logprobs_of_what_the_server_samples_are_the_trainers(dialect, tau, served, local):
    policy = policy_at(served[1], dialect)
    requests = requests_of(policy, 3, temperature=tau)
    for request, found in zip(requests, policy.sample(requests), strict=True):
        assert found.logprobs == pytest.approx(forced(local, request, found), abs=1e-4)
        assert set(found.mask) == {1}
    again = policy_at(served[1], dialect).sample(requests)
    assert [item.response_ids for item in again] == [item.response_ids for item in policy.sample(requests)]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("tau", [0.0, 0.7, 1.0])
def test_choices_are_drawn_over_the_very_set_that_training_rebuilds(dialect, tau, served, local):
    policy = policy_at(served[1], dialect)
    requests = requests_of(policy, 4, temperature=tau, constraint=PLANS, stop="</workflow>", max_new_tokens=40)
    for request, found, wanted in zip(requests, policy.sample(requests), local.sample(requests), strict=True):
        same(found, wanted)
        assert found.text in PLANS.choices
        assert found.logprobs == pytest.approx(forced(local, request, found), abs=1e-4)


@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_vllm_holds_a_response_to_a_pattern(tau, served, local):
    policy = policy_at(served[1], "vllm")
    requests = requests_of(policy, 3, temperature=tau, constraint=ANSWER, max_new_tokens=40)
    found = policy.sample(requests)
    for request, item in zip(requests, found, strict=True):
        assert item.text.startswith("<answer>")
        assert item.logprobs == pytest.approx(forced(local, request, item), abs=1e-4)
    if tau == 0.0:
        for item, wanted in zip(found, local.sample(requests), strict=True):
            same(item, wanted)
    served[0].breaks_after = 4
    if tau == 0.0:
        same(policy.sample(requests[:1])[0], found[0])


@given(
    scores=st.dictionaries(st.integers(0, 40), st.floats(-30, 0), min_size=1, max_size=9),
    tau=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    index=st.integers(0, 5),
)
def test_a_token_drawn_among_a_few_is_the_one_drawn_over_all(scores, tau, index):
    ids = np.array(sorted(scores), dtype=np.int64)
    token, logprob = draw_among(scores, ids, ("k", 1), index, tau)
    logits = torch.full((1, 41), float("-inf"))
    logits[0, ids] = torch.tensor([scores[int(i)] for i in ids])
    logprobs = masked_logprobs(logits, None, torch.tensor([tau or 1.0]))
    wanted = draw(logprobs, torch.from_numpy(uniforms(("k", 1), index, 41))[None]) if tau else greedy(logprobs)
    assert token == int(wanted)
    assert logprob == pytest.approx(float(logprobs[0, token]), abs=1e-5)


def test_what_a_server_cannot_do_is_refused_clearly(served, tmp_path):
    with pytest.raises(ConfigError, match=r"llama\.cpp server cannot hold AG to a pattern"):
        policy = policy_at(served[1])
        policy.sample([request_of(policy, constraint=ANSWER)])
    with pytest.raises(ConfigError, match="no adapter 'other'; it has: none"):
        policy.sample([request_of(policy, adapter="other")])
    with pytest.raises(ConfigError, match=r"convert .*gguf"):
        policy.load_adapter("default", start_adapter(tmp_path / "adapter"))
    with pytest.raises(PromptError, match="holds 960"):
        policy.sample([request_of(policy, "Berlin " * 2000)])
    for wrong in ({"address": "127.0.0.1:80"}, {"dialect": "tgi"}, {"concurrency": 0}):
        with pytest.raises(ConfigError):
            RemotePolicy(**{"address": "http://127.0.0.1:1", "tokenizer": side(), **wrong})


def test_raw_logprobs_are_measured_marked_and_not_constrained(local):
    with toy_server(processed=False) as (_, address):
        policy = policy_at(address, "vllm")
        assert policy.identity["logprobs"] == RAW
        request = request_of(policy, temperature=1.0)
        found = policy.sample([request])[0]
        assert found.logprobs == pytest.approx(forced(local, request, found), abs=1e-4)  # at τ = 1 they are the same
        with pytest.raises(ConfigError, match="--logprobs-mode processed_logprobs"):
            policy.sample([request_of(policy, constraint=PLANS)])


def test_stop_tag_hangs_up_where_the_server_would_go_on(local):
    with toy_server(slow=0.002) as (toy, address):
        policy = policy_at(address)
        request = request_of(policy, temperature=1.0, max_new_tokens=200)
        whole = policy.sample([request])[0]
        stop = next(c for c in whole.text[3:] if c.isascii() and c.isalpha())
        found = policy.sample([dataclasses.replace(request, stop=stop)])[0]
        assert found.text.endswith(stop)
        assert found.response_ids == whole.response_ids[: len(found.response_ids)]
        assert len(found.response_ids) < len(whole.response_ids)
        until(lambda: toy.aborted == 1)


def test_text_streams_as_it_grows(served, local):
    policy = policy_at(served[1])
    heard: list[str] = []
    policy.sample([request_of(policy, on_text=heard.append)])
    wanted: list[str] = []
    local.sample([request_of(local, on_text=wanted.append)])
    assert heard == wanted
    assert len(heard) > 3


def test_tokens_that_the_server_keeps_back_do_not_count_as_sampled(local):
    with toy_server(holds_back=True) as (_, address):
        policy = policy_at(address)
        requests = requests_of(policy, 12, temperature=1.5, max_new_tokens=30, stop=None)
        found = policy.sample(requests)
        kept_back = [item for item in found if 0 in item.mask]
        assert kept_back, "no request of these meets a character of several tokens; take other questions"
        for item in found:
            assert len(item.response_ids) == len(item.logprobs) == len(item.mask)
            assert all(logprob == 0.0 for logprob, m in zip(item.logprobs, item.mask, strict=True) if not m)
            assert all(math.isfinite(logprob) for logprob in item.logprobs)


@pytest.mark.filterwarnings("ignore:Adapter .* was active")
def test_adapters_are_loaded_by_the_servers_own_interface(tmp_path, served, local):
    toy, address = served
    first, second = start_adapter(tmp_path / "one", 5), start_adapter(tmp_path / "two", 6)
    local.add_adapter("trained", first)
    policy = policy_at(address, "vllm")
    policy.load_adapter("trained", first)
    policy.adapter = "trained"
    assert policy.identity["policy"] == local.policy_hash("trained")
    request = request_of(policy, adapter="trained")
    plain, adapted = policy.sample([request_of(policy), request])
    same(adapted, local.sample([request])[0])
    assert adapted.response_ids != plain.response_ids
    policy.load_adapter("trained", first)  # it is there: nothing happens
    local.add_adapter("trained", second)
    policy.load_adapter("trained", second)
    same(policy.sample([request])[0], local.sample([request])[0])
    assert len(toy.model.adapters) == 1
    with pytest.raises(ConfigError):
        policy.load_adapter("trained", tmp_path)
    local.remove_adapter("trained")
    policy.adapter = None


@pytest.mark.parametrize(("owner", "dialect"), [("llamacpp", "llama.cpp"), ("vllm", "vLLM")])
def test_the_server_says_what_it_is(owner, dialect):
    with toy_server(owner=owner) as (_, address):
        assert policy_at(address, "auto").identity["server"] == dialect
    with (
        toy_server(owner="somebody") as (_, address),
        pytest.raises(ServerError, match=r"owned by somebody\).*llama\.cpp, vllm"),
    ):
        _ = policy_at(address, "auto").facts


def test_a_graph_asks_a_server(tmp_path):
    toy_model().module.save_pretrained(str(tmp_path / "model"))
    toy_model().tokenizer.save_pretrained(str(tmp_path / "model"))
    options: dict[str, Any] = {"retriever": ListRetriever(PASSAGES), "ledger": tmp_path / "ledger"}
    with toy_server() as (toy, address):
        graph = load_graph(tmp_path / "model", server=address, **options)
        result = graph.invoke("Who wrote Dune?", workflow="R,AG", max_new_tokens=8)
    here = load_graph(tmp_path / "model", dtype="fp32", decoding="free", **options)
    assert result["answer"] == here.invoke("Who wrote Dune?", workflow="R,AG", max_new_tokens=8)["answer"]
    remote, local = read_ledger(tmp_path / "ledger")
    assert remote.hashes == local.hashes
    assert remote.identity["server"] == "vLLM"
    assert len(toy.asked) == 1 + len(remote.calls)
    with pytest.raises(ConfigError, match="server and policy"):
        load_graph(server=address, policy=toy.model, **options)


def test_a_key_is_sent_and_its_lack_is_named():
    with toy_server(key="secret") as (_, address):
        policy = policy_at(address, key="secret")
        assert policy.sample([request_of(policy)])[0].response_ids
        with pytest.raises(ServerError, match=r"401.*give its API key"):
            other = policy_at(address)
            other.sample([request_of(other)])


def test_another_kind_of_server_is_told_apart():
    with toy_server() as (_, address), pytest.raises(ServerError, match=r"404|does not answer as"):
        _ = RemotePolicy(f"{address}/v2", side()).context_length


def test_the_text_side_of_a_folder_is_that_of_its_model(tmp_path):
    shared = toy_model()
    shared.module.save_pretrained(str(tmp_path), safe_serialization=True)
    shared.tokenizer.save_pretrained(str(tmp_path))
    loaded = SharedModel.load(tmp_path, dtype="fp32", device="cpu")
    found = TextSide.load(tmp_path)
    assert found.base == TextSide.of(loaded).base
    assert (found.ends, found.context_length, found.vocabulary) == (
        TextSide.of(loaded).ends, loaded.context_length, 4 + len(shared.tokenizer)
    )  # fmt: skip
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    assert TextSide.load(tmp_path).weights == "unknown"
    with pytest.raises(ConfigError):
        TextSide.load(tmp_path / "none")
