"""`cost=`: which adapter of a sweep plays a run, what is recorded of it, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from langgraph.checkpoint.memory import InMemorySaver
from peft import LoraConfig

from agents.adapters import AdapterInfo, content_hash, write_adapter_info
from agents.errors import ConfigError
from agents.model import SharedModel
from agents.role import Prompts
from agents.roster import prompts_digest
from cli.main import run as jade
from graphs import collect, load_graph
from graphs.costs import Speaker, cost_folders
from graphs.ledger import read_ledger
from tests.scripted import PASSAGES, ListRetriever, ScriptedPolicy, says
from tests.toy_model import toy_module, toy_tokenizer

LOW = {"low": Speaker("cost-low", "abc", "7")}
SCRIPT = says(planner="R,AG", answer_generator="Salzburg")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model, and the adapters of a sweep, each of which says something else."""
    root = tmp_path_factory.mktemp("toy")
    toy_module().save_pretrained(root / "model")
    toy_tokenizer().save_pretrained(root / "model")
    digest = prompts_digest(Prompts("bare"))
    for seed, name in enumerate(("default", "low", "high")):
        model = SharedModel.load(root / "model", dtype="fp32", text_digest=digest)
        model.adapter_set.create("mine", LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"]))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.adapter_set.parameters("mine").values():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
        model.adapter_set.save("mine", root / "sweep" / name)
        info = AdapterInfo(model.identity["text"], "toy", model.weights, "bare", version=seed)
        write_adapter_info(root / "sweep" / name, info)
    return root


def test_the_named_adapter_plays_all_roles_and_the_record_says_so(toy: Path, tmp_path: Path) -> None:
    sweep = toy / "sweep"
    graph = load_graph(
        toy / "model", adapter=sweep / "default", dtype="fp32", retriever=ListRetriever(PASSAGES[:1]), ledger=tmp_path
    )
    options: Any = {"record": "train", "workflow": "QDS/QR,AG", "max_new_tokens": 6}
    for cost in ("low", "default", "high"):
        graph.invoke("Paris?", cost=cost, **options)
    collect(graph, ["Paris?"], cost="low", **options)
    low, default, high, collected = read_ledger(tmp_path)
    for run, name, folder, version in ((low, "cost-low", "low", "1"), (high, "cost-high", "high", "2")):
        assert len(run.calls) >= 2 and {call.adapter for call in run.calls} == {name}
        assert run.hashes["policy"] == content_hash(sweep / folder) and run.options["cost"] == folder
        assert (run.identity["adapter"], run.identity["version"]) == (name, version)
        assert run.identity["adapters"] == {"*": name}
    assert {call.adapter for call in default.calls} == {"default"}
    assert default.hashes["policy"] == content_hash(sweep / "default") and "cost" not in default.options
    assert collected.hashes == low.hashes
    assert [call.response_ids for call in collected.calls] == [call.response_ids for call in low.calls]
    shared: Any = graph.recorder.batcher.policy.load()  # type: ignore[attr-defined]
    call = low.calls[0]
    row = [(call.prompt_ids, call.response_ids, call.constraint, 1.0)]
    assert shared.teacher_force(row, "cost-low")[0] == pytest.approx(list(call.logprobs), abs=1e-4)
    assert shared.teacher_force(row, "default")[0] != pytest.approx(list(call.logprobs), abs=1e-2)


def test_where_the_adapters_are_found(toy: Path) -> None:
    sweep = toy / "sweep"
    both = {"low": sweep / "low", "high": sweep / "high"}
    assert cost_folders(None, sweep / "default") == both
    assert cost_folders(None, sweep / "low") == {} and cost_folders(None, None) == {}
    assert cost_folders(str(sweep), None) == both
    assert cost_folders({"low": sweep / "high"}, sweep / "default") == {"low": sweep / "high"}


@pytest.mark.parametrize(
    ("costs", "message"),
    [
        ({"cheap": "x"}, r"costs names \['cheap'\]; allowed: low, high"),
        ({"low": "nowhere"}, "adapter folder nowhere does not exist"),
        ("nowhere", "costs='nowhere' holds no adapter; give a folder with low/ or high/ in it"),
    ],
)
def test_impossible_costs_are_refused_at_once(toy: Path, costs: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_graph(toy / "model", adapter=None, costs=costs, retriever=ListRetriever(PASSAGES), lazy=True)


def scripted(folder: Path, **options: Any) -> Any:
    """Load a graph around a scripted policy that has an adapter for low cost."""
    graph = load_graph(policy=ScriptedPolicy(SCRIPT), retriever=ListRetriever(PASSAGES), ledger=folder, **options)
    return graph.with_recorder(costs=LOW)


def test_a_cost_without_an_adapter_is_refused_before_anything_runs(tmp_path: Path) -> None:
    graph = scripted(tmp_path)
    message = (
        r"cost='high': no adapter is loaded for it; loaded: default, low\. Give load_graph\(costs={'high': FOLDER}"
    )
    for ask in (lambda: graph.invoke("Who?", cost="high"), lambda: collect(graph, ["Who?"], cost="high")):
        with pytest.raises(ConfigError, match=message):
            ask()
    with pytest.raises(ConfigError, match=r"option cost='cheap'.*'low', 'default' or 'high'"):
        graph.invoke("Who?", cost="cheap")
    assert list(tmp_path.glob("*")) == []
    with pytest.raises(ConfigError, match="a policy was given"):
        load_graph(policy=ScriptedPolicy(SCRIPT), retriever=ListRetriever(PASSAGES), costs="somewhere")


def test_an_interrupted_run_goes_on_with_its_own_adapter(tmp_path: Path) -> None:
    graph = scripted(tmp_path, checkpointer=InMemorySaver())
    policy: Any = graph.recorder.batcher.policy
    config = {"configurable": {"thread_id": "t"}}
    graph.invoke("Who?", config, cost="low", interrupt_before=["single_round"])
    assert policy.roles == ["planner"]
    graph.invoke(None, config)
    assert [request.adapter for batch in policy.batches for request in batch] == ["cost-low", "cost-low"]
    (run,) = read_ledger(tmp_path)
    assert run.hashes["policy"] == "abc" and run.identity["version"] == "7"


def test_the_command_line_takes_a_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JADE_HOME", str(tmp_path / "home"))
    given: dict[str, Any] = {}

    def load(**arguments: Any) -> Any:
        given.update(arguments)
        return scripted(tmp_path / "ledger")

    monkeypatch.setattr("graphs.app.load_graph", load)
    assert jade(["ask", "Where was Mozart born?", "--costs", "sweep", "--cost", "low"]) == 0
    assert given["costs"] == "sweep"
    assert next(iter(read_ledger(tmp_path / "ledger"))).identity["adapter"] == "cost-low"
    assert jade(["ask", "Where was Mozart born?", "--cost", "high"]) == 2
    assert "no adapter is loaded for it; loaded: default, low" in " ".join(capsys.readouterr().err.split())
