"""Which graph made a recorded run, and what is refused before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.errors import ConfigError, RetrieverError
from agents.role import Prompts
from evaluation.counterfactual import explain
from evaluation.rebuildable import check_identity, check_record, check_roles
from evaluation.rebuilding import Rebuilder, Setting, adapter_of, topology_of
from graphs.costs import Speaker
from graphs.jade import build_jade, build_topology
from graphs.recorded import RecordedGraph, trainable
from graphs.solo import build_solo
from graphs.trajectory import Trajectory
from tests.ppo_toy import start_adapter
from tests.replay_toy import SPLIT, ask, play
from tests.scripted import PASSAGES, ListRetriever
from tests.test_counterfactual import own
from tests.toy_model import toy_model

Install = Callable[..., list[dict[str, Any]]]
TOY = Setting(adapter="none")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Install:
    """Let `load_graph` return a scripted graph; return the list of what it is called with."""

    def install(graph: RecordedGraph | None = None) -> list[dict[str, Any]]:
        seen: list[dict[str, Any]] = []
        played = graph or play(tmp_path)[0]

        def load_graph(**arguments: Any) -> RecordedGraph:
            seen.append(arguments)
            return played

        monkeypatch.setattr("graphs.app.load_graph", load_graph)
        return seen

    return install


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_the_depth_of_the_graph_is_found_out(depth: int, installed: Install, tmp_path: Path) -> None:
    graph, _ = play(tmp_path, build=lambda retriever: build_jade(retriever, max_depth=depth))
    run = ask(graph, SPLIT)
    seen = installed()
    found = Rebuilder(TOY)
    made = ask(found.graph(run), SPLIT)
    assert [call.prompt_ids for call in made.calls] == [call.prompt_ids for call in run.calls]
    assert found.graph(run) is found.graph(run) and len(seen) == 1
    assert seen[0]["index"] == "list" and seen[0]["top_k"] == 5 and seen[0]["adapter"] is None and seen[0]["lazy"]


@pytest.mark.parametrize("topology", ["single_round", "qdp"])
def test_topologies_alone_are_recognised(topology: Any, installed: Install, tmp_path: Path) -> None:
    graph, _ = play(tmp_path, build=lambda retriever: build_topology(topology, retriever))
    run = ask(graph, SPLIT)
    installed()
    assert topology_of(run) == ("jade" if topology == "single_round" else "qdp")
    assert len(ask(Rebuilder(TOY).graph(run), SPLIT).calls) == len(run.calls)
    forced = ask(play(tmp_path)[0], SPLIT, workflow="QDP/R,AG")
    assert topology_of(forced) == "jade" and Rebuilder(TOY).graph(forced).name == "jade"


def test_solo_is_recognised_by_its_role(installed: Install, tmp_path: Path) -> None:
    graph, policy = play(tmp_path, build=build_solo, solo=lambda user: "<answer>K2</answer>")
    run = ask(graph)
    installed(graph)
    assert Rebuilder(TOY).graph(run).name == "solo" and len(policy.asked) == 1


def test_ones_own_graph_must_be_named(installed: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = own(tmp_path)
    run = ask(graph, "Is it?")
    installed(graph)
    with pytest.raises(ConfigError, match=r"not JADE's \(roles: judge, writer\); name it: --graph package.module:name"):
        Rebuilder(TOY).graph(run)
    monkeypatch.setattr("tests.test_rebuilding.MINE", graph)
    found = Rebuilder(replace(TOY, graph="tests.test_rebuilding:MINE")).graph(run)
    assert ask(found, "Is it?").answer == run.answer
    with pytest.raises(ConfigError, match="cannot be imported"):
        Rebuilder(replace(TOY, graph="tests.test_rebuilding:NOTHING")).graph(run)
    monkeypatch.setattr("tests.test_rebuilding.MINE", play(tmp_path)[0])
    with pytest.raises(ConfigError, match=r"at root/PLAN, which was not recorded.*--graph package.module:name"):
        Rebuilder(replace(TOY, graph="tests.test_rebuilding:MINE")).graph(run)
    texts = replace(run, identity={**run.identity, "roles": {**run.identity["roles"], "judge": "0"}})
    monkeypatch.setattr("tests.test_rebuilding.MINE", graph)
    with pytest.raises(ConfigError, match="recorded with other texts of the role judge"):
        Rebuilder(replace(TOY, graph="tests.test_rebuilding:MINE")).graph(texts)


MINE: Any = None


def test_records_that_are_not_enough(tmp_path: Path) -> None:
    run = ask(play(tmp_path)[0])
    check_record(run)
    for changed, message in (
        (replace(run, outcome="timeout", error="too slow"), r"ended as timeout \(too slow\)"),
        (replace(run, calls=()), "holds no calls.*record='on'"),
        (replace(run, calls=(replace(run.calls[0], prompt_ids=()),)), "holds no tokens of root/PLAN"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_record(changed)
        with pytest.raises(ConfigError, match=message):
            Rebuilder(TOY).graph(changed)  # before any graph is made


def hashed(run: Trajectory, **hashes: str) -> Trajectory:
    """Return a run as other hashes would have been recorded."""
    played = dict.fromkeys(run.identity["speakers"], hashes.get("policy", run.hashes["policy"]))
    return replace(run, hashes={**run.hashes, **hashes}, identity={**run.identity, "speakers": played})


def test_what_is_installed_is_compared_with_the_record(tmp_path: Path, installed: Install) -> None:
    graph, policy = play(tmp_path)
    run = ask(graph)
    assert check_identity(run, graph) == []
    assert check_identity(hashed(run, policy="old"), graph) == [
        "the run was played by old, what goes on live is played by script"
    ]
    installed(graph)
    asked = len(policy.asked)
    with pytest.raises(ConfigError, match=r"under text hash other on scripted, here it is toy on scripted.*--prompts"):
        Rebuilder(TOY).graph(hashed(run, text="other"))
    with pytest.raises(ConfigError, match="searched collection 'list', which is not what is there now"):
        Rebuilder(TOY).graph(hashed(run, environment="other"))
    assert len(policy.asked) == asked
    check_roles(run, run)


def test_roles_on_other_adapters_than_recorded_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planner of its own beside the shipped adapter: the run's policy hash stands for the latter alone."""
    shared = toy_model()
    for seed, name in enumerate(("warm", "shipped")):
        shared.add_adapter(name, start_adapter(tmp_path / name, seed))
    shared.adapter = "shipped"
    retriever = ListRetriever(PASSAGES)
    graph = trainable(build_jade(retriever, max_depth=0), policy=shared, retriever=retriever, prompts=Prompts("bare"))
    mixed = graph.with_recorder(adapters={"planner": "warm", "*": "shipped"})
    run = ask(mixed, max_new_tokens=6, decoding="constrained")
    warm, shipped = shared.policy_hash("warm"), shared.policy_hash("shipped")
    assert run.hashes["policy"] == shipped
    assert run.identity["speakers"] == {"planner": warm} | {
        call.role: shipped for call in run.calls if call.role != "planner"
    }
    assert check_identity(run, mixed) == []
    live = graph.with_recorder(adapters={"*": "shipped"})
    assert check_identity(run, live) == [f"other adapters go on live: planner was played by {warm}, live by {shipped}"]
    older = replace(run, identity={name: known for name, known in run.identity.items() if name != "speakers"})
    assert check_identity(older, live) == [
        "the record does not say which adapter played planner, so that cannot be checked"
    ]
    plain = ask(live, max_new_tokens=6, decoding="constrained")
    assert check_identity(replace(plain, identity={**plain.identity, "speakers": {}}), live) == []
    monkeypatch.setattr("graphs.app.shipped_adapter", lambda model: tmp_path / "shipped")
    assert adapter_of(plain, Setting()) == "auto"
    with pytest.raises(ConfigError, match=f"played by several adapters .planner: {warm}; answer_generator: {shipped}"):
        adapter_of(run, Setting())


def test_an_index_that_is_gone_is_named(tmp_path: Path, installed: Install) -> None:
    graph, _ = play(tmp_path)
    run = ask(graph)

    class Gone:
        @property
        def identity(self) -> Any:
            raise RetrieverError("there is no collection; build it: jade index")

        def search(self, queries: Any, k: int) -> Any:
            raise RetrieverError("gone")

    installed(graph.with_recorder(retriever=Gone()))
    with pytest.raises(
        RetrieverError, match=f"run {run.run} searched collection 'list': there is no collection; build"
    ):
        Rebuilder(TOY).graph(run)


def test_the_recorded_adapter_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ask(play(tmp_path)[0])
    assert adapter_of(hashed(run, policy="base:123"), Setting()) is None
    assert adapter_of(run, Setting(adapter="runs/ppo/adapter")) == "runs/ppo/adapter"
    assert adapter_of(run, Setting(adapter="auto")) == "auto" and adapter_of(run, Setting(adapter="none")) is None
    monkeypatch.setattr("graphs.app.shipped_adapter", lambda model: tmp_path if model is None else None)
    monkeypatch.setattr("evaluation.rebuilding.content_hash", lambda folder: "shipped")
    assert adapter_of(hashed(run, policy="shipped"), Setting()) == "auto"
    for policy, model in (("mine", None), ("shipped", "another")):
        with pytest.raises(ConfigError, match=f"played by the adapter {policy} on scripted.*give --adapter FOLDER"):
            adapter_of(hashed(run, policy=policy), Setting(model=model))


def test_a_run_at_a_cost_is_played_by_the_adapter_of_that_cost(tmp_path: Path, installed: Install) -> None:
    speaker = Speaker("cost-low", "cheap", "3")
    graph, policy = play(tmp_path, adapters={"*": "tuned"})
    graph = graph.with_recorder(costs={"low": speaker})
    run = ask(graph, cost="low")
    assert run.hashes["policy"] == "cheap"
    installed(graph)
    found = Rebuilder(replace(TOY, adapter="auto")).graph(run)
    assert check_identity(run, found) == []
    policy.batches.clear()
    explain(run, found, golds=["Salzburg"], resamples=1, kinds=["resampled"], roles=["document_selector"])
    assert {request.adapter for batch in policy.batches for request in batch} == {"cost-low"}
    with pytest.raises(ConfigError, match="cost"):
        check_identity(run, found.with_recorder(costs={}))
