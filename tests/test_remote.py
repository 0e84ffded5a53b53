import dataclasses
import math
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agents.batcher import TimedBatcher
from agents.call import Completion, Constraint, Request
from agents.errors import ConfigError, PromptError, ServerError
from agents.model import SharedModel
from agents.model_text import TextSide
from agents.remote import RemotePolicy
from agents.remote_http import retry_after
from agents.remote_wire import RAW
from agents.role import Prompts
from agents.roster import prompts_digest
from agents.sampling import draw, draw_among, greedy, masked_logprobs, uniforms
from graphs.app import load_graph
from graphs.ledger import read_ledger
from tests.ports import free_port
from tests.ppo_toy import EXAMPLES, start_adapter, toy_session
from tests.remote_toy import CONTEXT, ServerProcess, ToyServer, side, toy_server
from tests.scripted import PASSAGES, ListRetriever
from tests.toy_model import toy_model
from training.rollout import record, run_options
from training.screening import Screened, limits_of, screen
from training.session import Session

PLANS = Constraint(choices=("<workflow>R,AG</workflow>", "<workflow>QDS</workflow>", "<workflow>QDP</workflow>"))
ANSWER = Constraint(regex=r"<answer>[^<>\n]{1,20}</answer>")
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
    with pytest.raises(ServerError, match=f"no inference server can be used at {address} .*see that it runs"):
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


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_mismatch_of_recorded_runs_against_the_trainer_is_a_metric(dialect, tmp_path, served):
    session = toy_session(tmp_path / "ours")
    found = screened(session, served[1], dialect, tmp_path)
    assert 0.0 < found.metrics["replay/parity_mean"] < 1e-5
    assert found.metrics["replay/parity_call"] < 1e-3
    assert not found.dropped.counts
    assert {run.identity["logprobs"] for run in found.buffer.trajectories} == {"exact"}
    assert len(found.buffer.trajectories) == 6


def test_a_server_that_runs_other_weights_is_found_out(tmp_path):
    session = toy_session(tmp_path / "ours")
    with toy_server(model=toy_model(seed=9)) as (_, address):
        found = screened(session, address, "llama.cpp", tmp_path)
    assert found.metrics["replay/parity_mean"] > 0.1
    assert found.dropped.counts == {"parity-mean": 6}


def screened(session: Session, address: str, dialect: str, folder: Path) -> Screened:
    """Record three questions, twice each, over a server, by the base, and let the trainer judge them."""
    policy = policy_at(address, dialect, text_digest=prompts_digest(Prompts("bare")))
    graph, file = session.worlds[0].graph.with_recorder(adapters={}), folder / "remote.jsonl"
    record(graph, policy, EXAMPLES[:3], file, session.config, **{**run_options(session.config, 7), "seed": 7})
    runs = list(read_ledger(file))
    limits = limits_of(session.players, None, None, 4, 0.3)
    return screen(session.players, session.store, runs, version=0, limits=limits, token_budget=4096)


def until(condition: Any, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to be so"
        time.sleep(0.005)


def _failure(policy: RemotePolicy, requests: list[Request]) -> Exception:
    with pytest.raises(ServerError) as caught:
        policy.sample(requests)
    return caught.value
