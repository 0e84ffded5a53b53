"""Backbone transfer at toy size: random backbones of the base's kind, one planner over executors on two models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agents.adapters import content_hash
from agents.errors import ConfigError, RetrieverError
from agents.model import SharedModel
from agents.role import Prompts
from agents.roster import prompts_digest
from evaluation.config import read_config
from evaluation.glossary import check_metrics
from evaluation.systems import read_systems
from experiments import trained
from experiments import transfer as backbones
from experiments.arms import Results
from experiments.transfer import OWN, PROGRAM, TransferConfig, figures, measure, setting_of, show, transfer
from graphs.options import read_options
from tests.eval_toy import retrievers, toy_eval, two_sets
from tests.ppo_toy import start_adapter
from tests.toy_model import toy_model, toy_module, toy_tokenizer
from training.backbones import backbone_path, make_random


def toy_transfer(folder: Path, **changes: Any) -> TransferConfig:
    derived = ("systems", "other", "output")
    fields = {key: value for key, value in toy_eval(folder).__dict__.items() if key not in derived}
    return TransferConfig(**{**fields, "output": str(folder / "transfer"), **changes})


def test_a_random_backbone_is_of_the_bases_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JADE_HOME", str(tmp_path / "home"))
    base = tmp_path / "toy"
    toy_module().save_pretrained(base)
    toy_tokenizer().save_pretrained(base)
    make_random("random:1x32", str(base))
    folder = Path(backbone_path("random:1x32", str(base)))
    made = SharedModel.load(str(folder), dtype="fp32", device="cpu", threads=1)
    assert (made.module.config.num_hidden_layers, made.module.config.hidden_size) == (1, 32)
    question = [{"role": "user", "content": "Who wrote Dune?"}]
    assert made.encode(question).ids == toy_model().encode(question).ids
    before = (folder / "model.safetensors").stat().st_mtime_ns
    make_random("random:1x32", str(base))
    make_random("some/model", str(base))
    assert (folder / "model.safetensors").stat().st_mtime_ns == before, "made once"
    assert not [item for item in folder.parent.iterdir() if item.name.startswith(".")], "nothing half-written is left"


def test_a_backbone_that_is_not_whole_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JADE_HOME", str(tmp_path / "home"))
    base = tmp_path / "toy"
    toy_module().save_pretrained(base)
    folder = Path(backbone_path("random:1x32", str(base)))
    with pytest.raises((OSError, ValueError, TypeError)):  # its weights are written when the tokenizer is missed
        make_random("random:1x32", str(base))
    assert not folder.exists() and [*folder.parent.glob(".*")] == []
    toy_tokenizer().save_pretrained(base)
    folder.mkdir()
    (folder / "config.json").write_text("{}")  # as an interrupted copy leaves it
    make_random("random:1x32", str(base))
    assert SharedModel.load(str(folder), dtype="fp32", device="cpu", threads=1).module.config.hidden_size == 32


def test_a_planner_that_is_trained_again_into_its_folder_makes_other_arms(tmp_path: Path) -> None:
    config = toy_transfer(tmp_path, planner=str(start_adapter(tmp_path / "planner")))
    mine = config.evaluation(None)
    own = read_systems(mine.systems, read_options(mine.options()), mine.model, mine.other)
    before = setting_of(config, own)
    assert before["planner"] == config.planner and "backbones" not in before
    assert before["adapter_content"] == [content_hash(Path(config.planner))]
    assert setting_of(config, own) == before
    start_adapter(tmp_path / "planner", seed=6)
    assert setting_of(config, own) != before


def test_a_backbone_with_other_weights_in_its_folder_is_another_arm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JADE_HOME", str(tmp_path / "home"))
    config = toy_transfer(tmp_path, planner=str(start_adapter(tmp_path / "planner")), backbones=[str(tmp_path / "b")])
    for seed, same in ((0, True), (1, False)):
        toy_module().save_pretrained(tmp_path / "b")
        before = transfer(config).arms
        toy_module(seed=seed).save_pretrained(tmp_path / "b")
        _, *now = transfer(config).arms
        assert ([arm.options for arm in before[1:]] == [arm.options for arm in now]) is same
        assert before[0].options == {"backbone": None}


def test_a_wrong_embedder_is_told_before_any_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any) -> Any:
        raise RetrieverError("the index was built with another embedder")

    def never(*given: Any) -> Any:
        raise AssertionError("a model was made or loaded")

    for module, loaders in ((trained, ["load_model"]), (backbones, ["load_base", "load_other", "make_random"])):
        monkeypatch.setattr(module, "check", lambda config, models=True: ([], []))
        monkeypatch.setattr(module, "open_retrievers", refuse)
        for name in loaders:
            monkeypatch.setattr(module, name, never)
    config = toy_transfer(tmp_path, backbones=["random:2x64"])
    with pytest.raises(RetrieverError, match="another embedder"):
        trained.asked(config.evaluation(None), "f1")
    for arm in transfer(config).arms:
        with pytest.raises(RetrieverError, match="another embedder"):
            backbones.ask(config, arm)


def test_one_planner_over_two_backbones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.figures.figures_of", lambda report: {})
    planner = start_adapter(tmp_path / "planner")
    config = toy_transfer(tmp_path, planner=str(planner), backbones=["base", "random:2x64"])
    experiment, results, sets = transfer(config), Results(tmp_path / "results.jsonl"), two_sets()
    models = {None: None, "base": None, "random:2x64": toy_model(seed=9)}
    rows = []
    for arm in experiment.arms:
        mine = config.evaluation(arm.options["backbone"])
        systems = read_systems(mine.systems, read_options(mine.options()), mine.model, mine.other)
        shared, other = toy_model(text_digest=prompts_digest(Prompts("bare"))), models[arm.options["backbone"]]
        found = measure(mine, systems, sets, shared, retrievers(sets), other)
        check_metrics(found["metrics"])
        rows.append(results.add(arm, found))
    assert [row["arm"] for row in rows] == [OWN, "base", "random:2x64"]
    assert all([len(scores) for scores in row["planned"]] == [5, 3] for row in rows), "both sets, every question"
    sizes = [row["parameters"] for row in rows]
    assert sizes == [sum(p.numel() for p in toy_module().parameters())] * 3, "adapters are not counted"
    table = show(config, rows).splitlines()
    assert len(table) == 2 + 3 and table[0].startswith("| executors | parameters | F1, R,AG | F1, planned")
    mean = sum(sum(scores) / len(scores) for scores in rows[2]["fixed"]) / 2
    assert f"| {mean:.3f} |" in table[-1], "every set counts the same"
    assert (tmp_path / "transfer" / "random-2x64" / "report.md").is_file()
    (figure,) = figures(config, rows).values()
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [row["arm"] for row in rows]


def test_the_systems_follow_from_planner_and_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JADE_HOME", str(tmp_path))
    config = TransferConfig(planner="runs/a", backbones=["base", "/models/large", "random:2x64"])
    found = {name: config.evaluation(name) for name in (None, *config.backbones)}
    assert found[None].systems == ["R,AG@runs/a", "jade@runs/a"] and found[None].other is None
    assert found["base"].systems == ["R,AG@none", "jade@planner=runs/a;*=none"] and found["base"].other is None
    assert found["/models/large"].systems == ["R,AG@other", "jade@planner=runs/a;*=other"]
    assert found["/models/large"].other == "/models/large"
    assert found["random:2x64"].other == str(tmp_path / "models" / "random-2x64-embedded")
    assert len({item.output for item in found.values()}) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backbones", "['random:2x50']"], "a width that 32 divides"),
        (["--backbones", "['random']"], "give random:LAYERSxWIDTH"),
        (["--backbones", "['base', 'base']"], "each once"),
        (["--backbones", "[]"], "at least one"),
        (["--systems", "['jade']"], "leave them out"),
        (["--sample", "0"], "sample=0"),
    ],
)
def test_bad_wishes_are_refused_by_name(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(TransferConfig, arguments, PROGRAM)
