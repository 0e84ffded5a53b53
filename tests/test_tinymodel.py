from pathlib import Path
from typing import Any

import pytest
import torch

from agents.call import Constraint
from agents.roster import ROLES
from agents.workflow import BY_TEXT
from evaluation.metrics import token_f1
from graphs.app import load_graph
from graphs.collection import collect
from training.buffer import RolloutBuffer
from training.tinymodel import TINY_PROMPTS, tiny_config, tiny_model, tiny_tokenizer
from training.tinyoracle import OraclePolicy, simulate
from training.tinyworld import TinyRetriever, tiny_world

WORLD = tiny_world()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer(WORLD)


def test_every_name_plan_and_tag_is_one_token(tokenizer: Any) -> None:
    names = [*WORLD.people, *WORLD.cities, *set(WORLD.facts.values())]
    for text in (*names, *BY_TEXT, "<workflow>", "</workflow>", "<answer>", "</answer>", "<q1>", "</q2>", "#1"):
        assert len(tokenizer.tokenize(text)) == 1, text
    assert tokenizer.tokenize("<answer>baker, smith</answer>") == ["<answer>", "baker", ",Ġ", "smith", "</answer>"]
    assert len(tokenizer) < 1200


def test_any_text_survives_and_the_tokenizer_is_deterministic(tokenizer: Any) -> None:
    for text in ("Zoë said: «naïve»\n\tR,AG? 100 % <q1>x</q1>", "", " "):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tiny_tokenizer(WORLD).get_vocab() == tokenizer.get_vocab()


def test_siblings_speak_in_the_same_words(tokenizer: Any) -> None:
    for passage in tiny_world(facts=5).passages[:20]:
        assert len(tokenizer.tokenize(f"{passage['title']} | {passage['text']}")) == 4


def test_the_model_is_small_seeded_and_leaves_the_global_generator_alone(tokenizer: Any) -> None:
    config = tiny_config(tokenizer, hidden=32, layers=2, heads=2)
    state = torch.random.get_rng_state()
    first, second, other = (tiny_model(config, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    weights = [model.model.embed_tokens.weight for model in (first, second, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert weights[0].dtype == torch.float32 and weights[0].shape == (len(tokenizer), 32)
    assert float(weights[0].detach().std()) == pytest.approx(32**-0.5, rel=0.05)


def test_constrained_decoding_knows_the_tokenizer(tokenizer: Any) -> None:
    from agents.model import SharedModel

    shared = SharedModel(tiny_model(tiny_config(tokenizer, hidden=32, layers=2, heads=2)), tokenizer)
    for constraint in (Constraint(choices=("<workflow>R,AG</workflow>",)), Constraint(regex="<id>(?:Document0)?</id>")):
        ids = tuple(tokenizer(constraint.choices[0] if constraint.choices else "<id>Document0</id>")["input_ids"])
        (logprobs,) = shared.teacher_force([((1, 2, 3), ids, constraint, 1.0)])
        assert all(logprob > float("-inf") for logprob in logprobs)


@pytest.mark.parametrize("planner", ["best", "uniform"])
def test_the_oracle_plays_the_real_graph_as_simulated(tokenizer: Any, tmp_path: Path, planner: Any) -> None:
    graph = load_graph(
        policy=OraclePolicy(tokenizer, planner, seed=1), retriever=TinyRetriever(WORLD), prompts=TINY_PROMPTS,
        ledger=tmp_path, top_k=3, max_depth=1,
    )  # fmt: skip
    examples = WORLD.dev[::6]
    runs = collect(graph, [example.question for example in examples], record="train")
    scores = []
    for run, example in zip(runs, examples, strict=True):
        assert run.outcome == "ok" and not any(call.format_error for call in run.calls), run.question
        expected = simulate(WORLD, example.question, run.workflow or {})
        assert (run.answer, run.turns, len(run.retrievals)) == (
            expected.answer, expected.turns, expected.retrievals,
        )  # fmt: skip
        scores.append(token_f1(run.answer, example.answers))
        assert max(len(call.prompt_ids) for call in run.calls) < 80
    mean = sum(scores) / len(scores)
    assert mean == 1.0 if planner == "best" else 0.1 < mean < 0.6
    buffer = RolloutBuffer.of(runs, "planner")
    assert set(buffer.roles) <= set(ROLES) and buffer.trained.sum() >= len(runs)
    if planner == "uniform":
        assert len({run.workflow["plan"] for run in runs if run.workflow}) >= 5
