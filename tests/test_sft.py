"""The warm start at toy size: rows become calls, the loss falls, and only the adapter moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from agents.errors import ConfigError
from agents.roster import ROLES
from tests.toy_model import toy_model
from training.adapter import TRAINED, LoraShape, create_adapter, first_adapted_layer
from training.learner import Learner
from training.rows import Row
from training.sft import split_rows
from training.sft_config import SFTConfig
from training.supervised import Warmup, row_weights, supervised_buffer, supervised_calls


class Silent:
    """A tracker that keeps what it is told."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        self.losses.append(values["sft/loss"])


def rows(count: int = 24) -> list[Row]:
    documents = [{"number": 0, "id": "d0", "title": "Ada", "text": "Ada was born in London.", "score": 1.0}]
    made = []
    for index in range(count):
        question = f"Where was Ada born, number {index}?"
        made.append(
            Row(
                "answer_generator",
                {"question": question, "query": question, "documents": documents, "known": []},
                "<answer>London</answer>",
                "made/up",
                question=question,
            )
        )
        made.append(
            Row(
                "planner",
                {"question": question, "depth_left": 2, "turns_left": None, "retrievals_left": None},
                "<workflow>R,AG</workflow>",
                "made/up",
                question=question,
            )
        )
    return made


def test_targets_end_as_sampling_would_end_them() -> None:
    shared = toy_model()
    hops = Row("serial_decomposer", {"question": "Who?", "max_hops": 4}, "<q1>A?</q1><q2>B #1?</q2>", "made/up")
    single, several = supervised_calls([rows(1)[0], hops], shared)
    assert single.response_ids[-1] != shared.end_token
    assert several.response_ids[-1] == shared.end_token
    assert shared.tokenizer.decode(single.response_ids) == "<answer>London</answer>"
    assert all(call.mask == (1,) * len(call.response_ids) for call in (single, several))


def test_weights_follow_the_role_weights_and_sum_to_one() -> None:
    calls = supervised_calls(rows(4), toy_model())
    buffer = supervised_buffer(calls, {"planner": 3.0})
    mass = dict.fromkeys(ROLES, 0.0)
    assert buffer.weights is not None
    for row, weight, count in zip(buffer.rows, buffer.weights, buffer.counts, strict=True):
        mass[row.call.role] += float(weight * count)
    assert sum(mass.values()) == pytest.approx(1.0)
    assert mass["planner"] == pytest.approx(0.75)


def test_a_row_weighs_what_its_source_is_worth() -> None:
    given, shared = rows(2), toy_model()
    doubtful = [replace(given[0], weight=0.5), *given[1:], replace(given[1], target_text="x " * 5000)]
    calls = supervised_calls(doubtful, shared)
    assert len(calls) == len(given), "a target that is too long is left out"
    own = row_weights(doubtful, calls)
    assert own == [0.5, *[1.0] * (len(given) - 1)]
    weights = supervised_buffer(calls, {}, own).weights
    assert weights is not None
    mass = [float(weight) * len(call.response_ids) for weight, call in zip(weights, calls, strict=True)]
    assert mass[0] == pytest.approx(0.5 * mass[1]) and sum(mass) == pytest.approx(1.0)


def test_the_loss_falls_and_only_the_adapter_moves() -> None:
    shared = toy_model()
    create_adapter(shared, LoraShape(rank=8, alpha=16, first_layer=1), seed=0)
    before = {name: p.detach().clone() for name, p in shared.module.named_parameters() if "lora" not in name}
    learner = Learner(shared, first_adapted_layer(shared, [TRAINED]))
    assert learner.trunk.first == 1
    config = SFTConfig(lr=2e-2, epochs=8, rows_per_step=16, warmup=2, token_budget=2048)
    buffer = supervised_buffer(supervised_calls(rows(), shared), {})
    told = Silent()
    warmup = Warmup(config, learner, buffer)
    warmup.run(told)  # type: ignore[arg-type]
    assert told.losses[-1] < 0.5 * told.losses[0]
    for name, parameter in shared.module.named_parameters():
        if name in before:
            assert torch.equal(parameter, before[name]), name


def test_the_same_seed_gives_the_same_adapter() -> None:
    def trained() -> str:
        shared = toy_model()
        create_adapter(shared, LoraShape(rank=4, alpha=8, first_layer=1), seed=3)
        config = SFTConfig(epochs=1, rows_per_step=8, seed=3)
        buffer = supervised_buffer(supervised_calls(rows(6), shared), {})
        Warmup(config, Learner(shared, 1), buffer).run(Silent())  # type: ignore[arg-type]
        shared.refresh(TRAINED)
        return shared.policy_hash(TRAINED)

    assert trained() == trained()


def test_held_out_rows_are_not_trained_on() -> None:
    train, held = split_rows(rows(10), held_out=3)
    assert len(held) == 6 and len(train) == 14
    assert not {(row.role, row.question) for row in train} & {(row.role, row.question) for row in held}


def test_no_rows_left_is_named() -> None:
    with pytest.raises(ConfigError, match="no supervised rows"):
        supervised_buffer([], {})


@pytest.mark.parametrize(("field", "value"), [("lr", 0.0), ("rank", -1), ("role_weights", {"poet": 1.0})])
def test_impossible_values_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        SFTConfig(**{field: value})  # type: ignore[arg-type]


def test_trunk_and_top_equal_the_whole_forward_pass() -> None:
    shared = toy_model()
    learner = Learner(shared, 1)
    ids = torch.from_numpy(np.random.default_rng(0).integers(5, 200, (2, 17)))
    with torch.no_grad():
        whole = shared.module(input_ids=ids).logits
        halves = learner.trunk.logits(learner.trunk.above(learner.trunk.below(ids)))
    assert torch.allclose(whole, halves, atol=1e-5)
