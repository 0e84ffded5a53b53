"""`jade export`: what is written is a plain model folder that says the same tokens as base and adapter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.adapters import AdapterInfo, content_hash, read_merged
from agents.errors import ConfigError
from agents.model import SharedModel
from agents.model_export import export_merged
from agents.role import Prompts
from agents.roster import prompts_digest
from cli.main import run as jade
from graphs import load_graph
from graphs.ledger import read_ledger
from tests.full_disk import full_disk
from tests.scripted import PASSAGES, ListRetriever
from tests.toy_model import toy_module, toy_tokenizer
from training.adapter import LoraShape, create_adapter, save_adapter


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, an adapter that changes what it says, and the model that `jade export` makes of them."""
    root = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JADE_HOME", str(root / "home"))
        toy_module().save_pretrained(root / "base")
        toy_tokenizer().save_pretrained(root / "base")
        shared = SharedModel.load(root / "base", dtype="fp32", text_digest=prompts_digest(Prompts("bare")))
        create_adapter(shared, LoraShape(4, 8, 0), 3, "start")
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for _, parameter in sorted(shared.adapter_set.parameters("start").items()):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
        info = AdapterInfo(shared.identity["text"], shared.name, shared.weights, "bare", 1.0, ("planner",), 7)
        save_adapter(shared, "start", root / "adapter", info)
        export_merged(root / "merged", root / "adapter", root / "base")
        yield root


def spoken(ledger: Path, model: Path, adapter: Any = "auto") -> list[tuple[int, ...]]:
    graph = load_graph(model, adapter=adapter, dtype="fp32", retriever=ListRetriever(PASSAGES), ledger=ledger)
    assert graph.recorder.prompts.style == "bare" and graph.recorder.defaults.decoding == "free"
    for workflow in ("QR,R,DS,AG", "QDS/AG", None):
        graph.invoke("Who is the mayor of Salzburg?", max_new_tokens=12, workflow=workflow)
    return [call.response_ids for run in read_ledger(ledger) for call in run.calls]


def test_the_exported_model_says_what_base_and_adapter_say(toy: Path, tmp_path: Path) -> None:
    ours = spoken(tmp_path / "one", toy / "base", toy / "adapter")
    assert spoken(tmp_path / "two", toy / "merged") == ours and len(ours) >= 8
    graph = load_graph(toy / "base", adapter=None, prompts="bare", retriever=ListRetriever(PASSAGES),
                       ledger=tmp_path / "three", dtype="fp32", decoding="free")  # fmt: skip
    graph.invoke("Who is the mayor of Salzburg?", max_new_tokens=12, workflow="QR,R,DS,AG")
    (bare,) = read_ledger(tmp_path / "three")
    assert [call.response_ids for call in bare.calls] != ours[: len(bare.calls)]  # the adapter does change them


def test_what_is_written_is_a_plain_model_folder_with_a_note(toy: Path) -> None:
    names = {path.name for path in (toy / "merged").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "jade.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl")) or name.startswith("adapter")]
    note = read_merged(toy / "merged")
    assert note is not None and (note.base, note.prompts, note.version, note.dtype) == ("base", "bare", 7, "fp32")
    assert note.adapter == content_hash(toy / "adapter") and note.roles == ("planner",)
    assert read_merged(toy / "base") is None and read_merged("owner/name") is None
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = torch.tensor([AutoTokenizer.from_pretrained(str(toy / "merged"))("Who wrote Dune?")["input_ids"]])
    with torch.no_grad():
        one = AutoModelForCausalLM.from_pretrained(str(toy / "merged"))(input_ids=ids).logits
        shared = SharedModel.load(toy / "base", adapter=toy / "adapter", dtype="fp32")
        with shared.using("default") as module:
            other = module(input_ids=ids).logits
    assert torch.allclose(one, other, atol=1e-4)


def test_the_command_writes_and_tells(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export", str(tmp_path / "m"), "--adapter", str(toy / "adapter"), "--model", str(toy / "base")]
    assert jade([*arguments, "--dtype", "bf16", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["folder"] == str(tmp_path / "m") and told["dtype"] == "bf16" and told["kind"] == "merged"
    weights = (tmp_path / "m" / "model.safetensors").stat().st_size
    assert weights < 0.6 * (toy / "merged" / "model.safetensors").stat().st_size
    assert jade(arguments) == 2
    assert "/m exists; give a folder that is not there yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--adapter", "none"], "no adapter to merge (--adapter none); give --adapter FOLDER"),
        (["--model", "BASE"], "no adapter to merge (none ships for this model)"),
        (["--adapter", "nowhere"], "adapter folder nowhere does not exist"),
        (["--adapter", "BASE"], "has no adapter_model.safetensors"),
        (["--adapter", "ADAPTER", "--model", "OTHER"], "was trained on base 'base'"),
        (["--adapter", "ADAPTER", "--model", "BASE", "--dtype", "int8"], "dtype='int8'; allowed: fp32, bf16, fp16"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    toy: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    toy_module(seed=1).save_pretrained(tmp_path / "other")
    toy_tokenizer().save_pretrained(tmp_path / "other")
    places = {"BASE": toy / "base", "ADAPTER": toy / "adapter", "OTHER": tmp_path / "other"}
    capsys.readouterr()
    assert jade(["export", str(tmp_path / "m"), *(str(places.get(word, word)) for word in arguments)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and "Traceback" not in captured.err
    assert not (tmp_path / "m").exists() and not (tmp_path / ".m.new").exists()


def test_an_adapter_of_another_version_is_refused(toy: Path, tmp_path: Path) -> None:
    shutil.copytree(toy / "adapter", tmp_path / "adapter")
    card = tmp_path / "adapter" / "jade.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), "text": "older"}))
    with pytest.raises(ConfigError, match="trained under text hash older"):
        export_merged(tmp_path / "m", tmp_path / "adapter", toy / "base")


def test_a_corrupt_note_is_named(toy: Path, tmp_path: Path) -> None:
    shutil.copytree(toy / "merged", tmp_path / "m")
    (tmp_path / "m" / "jade.json").write_text("{")
    with pytest.raises(ConfigError, match=r"m/jade\.json is not the note of an exported model.*export it again"):
        load_graph(tmp_path / "m", retriever=ListRetriever(PASSAGES))


def test_a_full_disk_leaves_nothing_half_written(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export", str(tmp_path / "m"), "--adapter", str(toy / "adapter"), "--model", str(toy / "base")]
    with full_disk((toy / "merged" / "model.safetensors").stat().st_size // 2):
        assert jade(arguments) == 2
    captured = capsys.readouterr()
    assert "m cannot be written" in captured.err and "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == []
