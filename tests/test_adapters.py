import json
import subprocess
import sys

import pytest
import torch

from agents.adapters import CARD, CONFIG, WEIGHTS, AdapterInfo, content_hash, read_adapter, write_adapter_info
from agents.call import Request
from agents.errors import ConfigError
from agents.model import SharedModel
from tests.toy_model import toy_model

INFO = AdapterInfo("text", "toy", "weights", "bare", 1.0, ("planner",), 3)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / WEIGHTS).write_bytes(b"weights")
    (tmp_path / CONFIG).write_text("{}")
    write_adapter_info(tmp_path, INFO)
    return tmp_path


def test_the_card_comes_back_as_written(folder):
    assert read_adapter(folder, base_weights="weights", text="text", prompts="bare") == INFO


def test_unknown_card_fields_are_ignored(folder):
    data = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps({**data, "later": 1}))
    assert read_adapter(folder) == INFO


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"base_weights": "other"}, "trained on base 'toy'"),
        ({"prompts": "examples"}, "prompt set 'bare', not 'examples'"),
        ({"text": "other"}, "text hash"),
    ],
)
def test_an_adapter_of_another_house_is_refused(folder, wanted, message):
    with pytest.raises(ConfigError, match=message):
        read_adapter(folder, **wanted)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, CARD])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
        read_adapter(folder)


def test_missing_folder_and_broken_card_are_named(folder, tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        read_adapter(tmp_path / "nowhere")
    for text in ("{", "[]", '{"text": "t"}'):
        (folder / CARD).write_text(text)
        with pytest.raises(ConfigError, match="not an adapter card"):
            read_adapter(folder)


def test_the_content_hash_covers_weights_and_configuration_only(folder):
    first = content_hash(folder)
    (folder / CARD).write_text("{}")
    assert content_hash(folder) == first
    (folder / CONFIG).write_text('{"r": 2}')
    second = content_hash(folder)
    (folder / WEIGHTS).write_bytes(b"weightz")
    assert len({first, second, content_hash(folder)}) == 3


def test_reading_a_card_loads_neither_peft_nor_torch():
    code = "import sys, agents.adapters; print([m for m in ('torch', 'peft', 'transformers') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def _random_adapter(model: SharedModel, name: str, seed: int, folder) -> None:
    from peft import LoraConfig

    model.adapter_set.create(name, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"]))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.adapter_set.parameters(name).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    model.adapter_set.save(name, folder)
    write_adapter_info(folder, AdapterInfo("t", "toy", model.weights, "bare"))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two random adapters on disk, and the base's weights hash."""
    root = tmp_path_factory.mktemp("adapters")
    model = toy_model()
    for seed, name in enumerate(("left", "right")):
        _random_adapter(model, name, seed, root / name)
    return root


def _request(model, adapter, key=0, tau=1.0):
    messages = [{"role": "system", "content": "You answer questions."}, {"role": "user", "content": "Who wrote Dune?"}]
    return Request((key,), "AG", model.encode(messages), 10, tau, adapter=adapter)


def test_adapters_differ_and_the_base_stays_bit_identical(two):
    bare = toy_model()
    alone = bare.sample([_request(bare, None)])[0]
    model = toy_model()
    assert model.add_adapter("left", two / "left").base == "toy"
    model.add_adapter("right", two / "right")
    assert model.adapters == ("left", "right")
    mixed = [_request(model, name, key) for key in range(3) for name in ("left", None, "right")]
    completions = model.sample(mixed)
    assert [c.response_ids for c in completions] == [model.sample([r])[0].response_ids for r in mixed]
    left, base, right = completions[:3]
    assert len({left.logprobs, right.logprobs, alone.logprobs}) == 3
    assert base.response_ids == alone.response_ids
    assert model.sample([_request(model, None)])[0].logprobs == alone.logprobs  # not approximately


def test_recorded_logprobs_equal_teacher_forced_ones_under_each_adapter(two):
    model = toy_model()
    for name in ("left", "right"):
        model.add_adapter(name, two / name)
    for name in ("left", "right", None):
        request = _request(model, name)
        completion = model.sample([request])[0]
        row = (request.prompt.ids, completion.response_ids, None, 1.0)
        assert completion.logprobs == pytest.approx(model.teacher_force([row], name)[0], abs=1e-4)
    assert model.teacher_force([row], "left") != model.teacher_force([row], "right")


def test_the_policy_hash_is_the_content_hash(two):
    model = toy_model()
    model.add_adapter("left", two / "left")
    assert model.policy_hash("left") == content_hash(two / "left")
    assert model.identity["policy"] == f"base:{model.weights}"
    model.adapter = "left"
    assert model.identity["policy"] == content_hash(two / "left") and model.identity["adapter"] == "left"
    model.refresh("left")
    assert model.policy_hash("left").startswith("memory:")


def test_the_weights_hash_of_the_base_survives_adapters(two):
    model = toy_model()
    before = model.weights
    model.add_adapter("left", two / "left")
    assert model.weights == before == toy_model().weights


def test_sampling_leaves_the_trainers_state_alone(two):
    model = toy_model()
    model.add_adapter("left", two / "left", trainable=True)
    model.add_adapter("right", two / "right")
    with model.using("left"):
        flags = {name: p.requires_grad for name, p in model.module.named_parameters()}
        model.sample([_request(model, "right"), _request(model, None)])
        with model.using("right"):
            pass
        assert {name: p.requires_grad for name, p in model.module.named_parameters()} == flags
        loss = model.module(input_ids=torch.tensor([[5, 6, 7]])).logits.square().sum()
    loss.backward()
    assert all(p.grad is not None for p in model.adapter_set.parameters("left").values())
    assert all(p.grad is None for p in model.adapter_set.parameters("right").values())


def test_heads_are_kept_apart_by_adapter_and_dropped_when_it_changes(two):
    model = toy_model()
    model.add_adapter("left", two / "left")
    base = model.sample([_request(model, None, tau=0.0)])[0]
    with_a = model.sample([_request(model, "left", tau=0.0)])[0]
    with torch.no_grad():
        for parameter in model.adapter_set.parameters("left").values():
            parameter.zero_()
    model.refresh("left")
    assert model.sample([_request(model, "left", tau=0.0)])[0].logprobs == pytest.approx(base.logprobs, abs=1e-5)
    assert with_a.logprobs != pytest.approx(base.logprobs, abs=1e-3)


def test_loading_again_replaces_and_removing_restores_the_base(two):
    model = toy_model()
    alone = model.sample([_request(model, None)])[0]
    model.add_adapter("left", two / "left")
    first = model.sample([_request(model, "left")])[0]
    model.add_adapter("left", two / "right")
    second = model.sample([_request(model, "left")])[0]
    assert first.logprobs != second.logprobs
    model.remove_adapter("left")
    assert model.adapters == ()
    assert model.sample([_request(model, None)])[0].logprobs == alone.logprobs


def test_unknown_names_and_foreign_bases_are_refused(two):
    model = toy_model()
    with pytest.raises(ConfigError, match="no adapter 'left' is loaded; loaded: none"):
        model.sample([_request(model, "left")])
    with pytest.raises(ConfigError, match="trained on base"):
        toy_model(seed=1).add_adapter("left", two / "left")
    with pytest.raises(ConfigError, match="no adapter"):
        model.policy_hash("left")
