"""The Python door: what `load_graph` takes, what it refuses, and what it does not load."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from peft import LoraConfig

from agents.adapters import AdapterInfo, write_adapter_info
from agents.errors import ConfigError, JadeError
from agents.lazy import LazyPolicy, LazyRetriever
from agents.role import Prompts
from agents.roster import ROLES, prompts_digest
from graphs import Question, app, load_graph
from graphs.ledger import LedgerWriter, read_ledger
from graphs.recorded import RecordedGraph
from tests.scripted import PASSAGES, ListRetriever, ScriptedPolicy, says
from tests.toy_model import toy_model, toy_module, toy_tokenizer

ROOT = Path(__file__).parent.parent
QUESTION = "Who is the mayor of Salzburg?"
SCRIPT = says(planner="R,AG", answer_generator="Bernhard Auinger")


def given(folder: Path, **options: Any) -> RecordedGraph:
    """Load a graph with a scripted policy and a list for an index."""
    parts = {"policy": ScriptedPolicy(SCRIPT), "retriever": ListRetriever(PASSAGES), "ledger": folder, **options}
    return load_graph(**parts)


def test_the_promise_of_the_readme(tmp_path: Path) -> None:
    graph = given(tmp_path / "ledger", top_k=2)
    result = graph.invoke(QUESTION)
    assert result["answer"] == "Bernhard Auinger"
    assert result["citations"] == [{"id": "mayor", "title": "Salzburg"}] and len(result["evidence"]) == 2
    assert graph.invoke(Question(question=QUESTION))["answer"] == "Bernhard Auinger"
    stored = list(read_ledger(tmp_path / "ledger"))
    assert stored[0].run == result["run"] and stored[0].identity["code"] == app.code_version() != ""


def test_parts_and_defaults(tmp_path: Path) -> None:
    graph = given(tmp_path, workflow="AG", seed=4, prompts="bare")
    assert graph.invoke(QUESTION)["workflow"]["plan"] == "AG" and graph.recorder.defaults.decoding == "free"
    assert graph.recorder.prompts == Prompts("bare") and graph.recorder.adapters == {}
    mine, writer = Prompts("examples", (("planner", "Plan."),)), LedgerWriter(tmp_path)
    graph = given(tmp_path, prompts=mine, ledger=writer, checkpointer=InMemorySaver())
    assert graph.recorder.prompts is mine and graph.recorder.ledger is writer
    assert isinstance(graph.checkpointer, InMemorySaver)


@pytest.mark.parametrize("topology", ["jade", "single_round", "qds", "qdp"])
def test_each_topology_alone(topology: Any, tmp_path: Path) -> None:
    graph = given(tmp_path, topology=topology)
    assert graph.name == topology and set(graph.get_input_jsonschema()["properties"]) == {"question"}
    described = graph.get_context_jsonschema()["properties"]
    assert all(option["description"] for option in described.values()) and "max_retrievals" in described


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topology": "qdx"}, "topology 'qdx'; allowed: jade, single_round, qds, qdp"),
        ({"max_depth": 3}, "max_depth=3; allowed: 0 to 2"),
        ({"top_k": 0}, "top_k=0; allowed: 1 to 100"),
        ({"wrokflow": "AG"}, r"no argument 'wrokflow'; did you mean 'workflow'\? allowed: model, adapter, .*max_turns"),
        ({"zzz": 1}, "no argument 'zzz'; allowed: model"),
        ({"temperature": 9}, "temperature=9"),
        ({"prompts": "nowhere"}, "prompts='nowhere'; allowed: examples, bare, or a folder of <role>.txt files"),
        ({"prompts": Path(__file__).parent}, "holds no .txt file; allowed: planner.txt"),
    ],
)
def test_what_is_refused(options: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        given(tmp_path, **options)


def test_prompts_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / "planner.txt").write_text("Plan well.\n")
    graph = given(tmp_path / "ledger", prompts=str(tmp_path))
    assert graph.recorder.prompts.text(ROLES["planner"]) == "Plan well."
    assert graph.recorder.prompts.text(ROLES["query_rewriter"]) != ""
    (tmp_path / "plannr.txt").write_text("Plan well.\n")
    with pytest.raises(ConfigError, match=r"holds \['plannr.txt'\]; allowed: planner.txt"):
        given(tmp_path / "ledger", prompts=str(tmp_path))


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ("nowhere", "adapter folder nowhere does not exist"),
        ({"plannr": "x"}, r"unknown roles \['plannr'\]; allowed: \*, planner"),
        ({"planner": "nowhere"}, "adapter folder nowhere does not exist"),
    ],
)
def test_adapters_that_are_not_there_are_refused_at_once(adapter: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_graph(adapter=adapter, retriever=ListRetriever(PASSAGES), lazy=True)


def test_lazy_loads_at_the_first_question_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def policy(*arguments: Any) -> Any:
        loaded.append("policy")
        return ScriptedPolicy(SCRIPT)

    def retriever(*arguments: Any) -> Any:
        loaded.append("retriever")
        return ListRetriever(PASSAGES)

    monkeypatch.setattr(app, "_load_policy", policy)
    monkeypatch.setattr(app, "_open_retriever", retriever)
    graph = load_graph(adapter=None, lazy=True, ledger=tmp_path)
    assert graph.get_graph(xray=True).nodes and loaded == []
    for _ in range(2):
        graph.invoke(QUESTION, record="off")
    assert sorted(loaded) == ["policy", "retriever"]
    assert graph.recorder.defaults.decoding == "constrained"  # an untuned model
    load_graph(adapter=None, ledger=tmp_path)
    assert sorted(loaded) == ["policy", "policy", "retriever", "retriever"]


def test_a_missing_index_is_told_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JADE_HOME", str(tmp_path))
    monkeypatch.setattr("agents.retriever.open_embedder", lambda *arguments: object())
    with pytest.raises(JadeError, match="nothere"):
        load_graph(policy=ScriptedPolicy(SCRIPT), index="nothere")
    with pytest.raises(ConfigError, match='no retrieval mode "best"'):
        load_graph(policy=ScriptedPolicy(SCRIPT), retriever_mode="best")


# ---- a model and its adapters, at toy size


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model, an adapter trained under it, and one of other prompts."""
    root = tmp_path_factory.mktemp("toy")
    toy_module().save_pretrained(root / "model")
    toy_tokenizer().save_pretrained(root / "model")
    from agents.model import SharedModel

    for name, style in (("bare", "bare"), ("examples", "examples")):
        digest = prompts_digest(Prompts(style))  # type: ignore[arg-type]
        model = SharedModel.load(root / "model", dtype="fp32", text_digest=digest)
        model.adapter_set.create("default", LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"]))
        model.adapter_set.save("default", root / name)
        write_adapter_info(root / name, AdapterInfo(model.identity["text"], "toy", model.weights, style, version=3))
    return root


def test_a_folder_as_model_and_adapters_per_role(toy: Path, tmp_path: Path) -> None:
    options: Any = {"dtype": "fp32", "retriever": ListRetriever(PASSAGES[:1]), "ledger": tmp_path}
    graph = load_graph(
        toy / "model", adapter={"*": toy / "bare", "planner": toy / "bare", "query_rewriter": None}, **options
    )
    assert graph.recorder.prompts.style == "bare" and graph.recorder.defaults.decoding == "free"
    graph.invoke("Paris?", workflow="QDS/AG", max_new_tokens=6)
    graph.invoke("Paris?", max_new_tokens=6, record="train")
    forced, planned = read_ledger(tmp_path)
    assert forced.identity["adapters"] == {"*": "default", "planner": "role-planner"}
    assert {call.adapter for call in forced.calls} == {"default"} and planned.calls[0].adapter == "role-planner"
    graph.invoke("Paris?", workflow="QR,AG", max_new_tokens=6)
    assert [call.adapter for call in list(read_ledger(tmp_path))[2].calls] == [None, "default"]
    assert planned.identity["version"] == "3" and planned.hashes["policy"]


@pytest.mark.parametrize(
    ("adapter", "prompts", "message"),
    [
        ("bare", "examples", "/bare was trained under prompt set 'bare', not 'examples'; leave the prompt set to"),
        ("bare", Prompts("examples"), "trained under text hash"),
        ({"*": "bare", "planner": "examples"}, None, "different prompt sets"),
    ],
)
def test_an_adapter_of_other_prompts_is_refused(toy: Path, adapter: Any, prompts: Any, message: str) -> None:
    folders = {role: toy / name for role, name in adapter.items()} if isinstance(adapter, dict) else toy / adapter
    with pytest.raises(ConfigError, match=message):
        load_graph(toy / "model", adapter=folders, prompts=prompts, dtype="fp32", retriever=ListRetriever(PASSAGES))


def test_prompts_of_ones_own_do_not_go_with_an_adapter(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "planner.txt").write_text("Plan well.")
    options: Any = {"prompts": tmp_path, "dtype": "fp32", "retriever": ListRetriever(PASSAGES)}
    with pytest.raises(ConfigError, match=r"would replace what adapter .*/bare was trained under; .*--adapter none"):
        load_graph(toy / "model", adapter=toy / "bare", **options)
    graph = load_graph(toy / "model", adapter=None, **options)
    assert graph.recorder.prompts.text(ROLES["planner"]) == "Plan well."


def test_an_adapter_of_another_base_is_refused(toy: Path, tmp_path: Path) -> None:
    toy_module(seed=1).save_pretrained(tmp_path)
    toy_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="trained on base 'toy'"):
        load_graph(tmp_path, adapter=toy / "bare", dtype="fp32", retriever=ListRetriever(PASSAGES))


def test_a_policy_that_is_given_needs_no_adapter() -> None:
    graph = load_graph(policy=toy_model(), retriever=ListRetriever(PASSAGES), decoding="constrained")
    assert graph.invoke("Paris?", record="off", workflow="AG", max_new_tokens=12)["question"] == "Paris?"


# ---- what the server imports


def test_every_name_in_langgraph_json_resolves_and_shares_one_model() -> None:
    exports = json.loads((ROOT / "langgraph.json").read_text())["graphs"]
    made = {}
    for name, place in exports.items():
        module, _, attribute = place.partition(":")
        made[name] = getattr(importlib.import_module(module), attribute)
        assert isinstance(made[name], RecordedGraph) and made[name].name == name
    assert list(made) == ["jade", "single_round", "qds", "qdp"]
    assert len({id(graph.recorder.batcher) for graph in made.values()}) == 1
    assert isinstance(made["jade"].recorder.batcher.policy, LazyPolicy)
    assert len({id(graph.recorder.retriever) for graph in made.values()}) == 1
    assert isinstance(made["qds"].recorder.retriever, LazyRetriever)


def test_importing_graphs_loads_neither_langgraph_nor_a_model() -> None:
    code = "import sys, graphs; print(sorted({'torch', 'transformers', 'chromadb', 'langgraph'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
