"""Adapters on a server that forgets them: it is started anew, told again, and asked again."""

from __future__ import annotations

import dataclasses
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.errors import ServerError
from agents.model import SharedModel
from agents.remote import RemotePolicy
from tests.ppo_toy import start_adapter
from tests.remote_asking import policy_at, request_of, requests_of, same, until
from tests.remote_toy import ServerProcess, ToyServer, toy_server
from tests.toy_model import toy_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return start_adapter(tmp_path_factory.mktemp("adapters") / "one")


@pytest.fixture(scope="module")
def local(folder: Path) -> SharedModel:
    shared = toy_model()
    shared.add_adapter("trained", folder)
    return shared


@pytest.fixture
def loaded(folder: Path) -> Iterator[tuple[ToyServer, RemotePolicy]]:
    with toy_server() as (toy, address):
        policy = policy_at(address, "vllm", patience_seconds=5)
        policy.load_adapter("trained", folder)
        yield toy, policy


def forget(toy: ToyServer) -> None:
    for name in toy.model.adapters:
        toy.model.remove_adapter(name)


def test_a_forgotten_adapter_is_loaded_again_once_for_all_that_miss_it(loaded, local):
    toy, policy = loaded
    _ = policy.facts
    forget(toy)
    requests = requests_of(policy, 5, adapter="trained")
    for found, wanted in zip(policy.sample(requests), local.sample(requests), strict=True):
        same(found, wanted)
    assert toy.loads == toy.loads[:1] * 2  # at first, and once again under the same name


def test_a_server_killed_and_started_again_in_the_middle_has_its_adapter_again(folder, local):
    server = ServerProcess(slow=0.02)
    policy = policy_at(server.address, "vllm", patience_seconds=30)
    grown: list[str] = []
    try:
        policy.load_adapter("trained", folder)
        request = request_of(policy, adapter="trained", on_text=grown.append)
        found: list[object] = []
        asking = threading.Thread(target=lambda: found.extend(policy.sample([request])))
        asking.start()
        until(lambda: len(grown) >= 3)
        server.kill()
        server.start()
        asking.join(30)
    finally:
        server.kill()
    same(found[0], local.sample([dataclasses.replace(request, on_text=None)])[0])


@pytest.mark.filterwarnings("ignore:Adapter .* was active")
def test_an_adapter_whose_folder_changed_is_not_loaded_in_its_place(loaded, tmp_path, folder):
    toy, policy = loaded
    mine = tmp_path / "mine"
    shutil.copytree(folder, mine)
    policy.load_adapter("mine", mine)
    request = request_of(policy, adapter="mine")
    _ = policy.facts
    shutil.rmtree(mine)
    forget(toy)
    with pytest.raises(ServerError, match=r"has forgotten the adapter 'mine', and .* no longer holds it"):
        policy.sample([request])
    start_adapter(mine, seed=6)
    with pytest.raises(ServerError, match="call load_adapter with the one that shall speak"):
        policy.sample([request])
    policy.load_adapter("mine", mine)
    assert policy.sample([request])[0].response_ids


def test_a_model_that_is_not_there_is_no_forgotten_adapter(loaded):
    toy, policy = loaded
    _ = policy.facts
    asked = len(toy.asked)
    toy.refusals = [(404, {})]
    with pytest.raises(ServerError, match=r"refused with 404.*right dialect and model"):
        policy.sample([request_of(policy)])
    assert len(toy.asked) == asked + 1
    toy.refusals = [(404, {})] * 3
    with pytest.raises(ServerError, match="refused with 404"):
        policy.sample([request_of(policy, adapter="trained")])
    assert len(toy.asked) == asked + 3  # asked again once


def test_an_adapter_that_somebody_else_loads_at_the_same_time_is_no_failure(loaded, folder):
    toy, policy = loaded
    toy.about = [({}, b'{"data": []}')]  # the list from before it was there
    policy_at(f"{policy._connection.address}", "vllm").load_adapter("trained", folder)
    assert len(toy.loads) == 2 and toy.loads[0] == toy.loads[1] and len(toy.model.adapters) == 1


def test_loading_waits_for_a_server_that_loads_its_model(loaded, folder):
    toy, policy = loaded
    toy.loading = 2
    policy.load_adapter("again", folder)
    assert toy.loading == 0 and len(toy.model.adapters) == 2


def test_loading_on_a_stalled_server_ends(folder):
    with toy_server(stalled=True) as (_, address):
        policy = policy_at(address, "vllm", deadline_seconds=0.3)
        with pytest.raises(ServerError, match=r"took more than 0\.3 s for loading the adapter 'trained'"):
            policy.load_adapter("trained", folder)
