"""The planner's exact probabilities: equal to teacher forcing one choice at a time, and to how often it samples."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from agents.call import Constraint, Request
from agents.model import SharedModel
from agents.model_choices import choice_probabilities
from agents.planner import PLANNER
from agents.role import Prompts
from evaluation.planner import PlannerView, entropy, plan_probabilities, root_inputs
from tests.toy_model import toy_model

QUESTIONS = ["Who wrote Dune?", "Which is taller, K2 or Mont Blanc?"]
PROMPTS = Prompts("bare")


@pytest.fixture(scope="module")
def shared() -> SharedModel:
    return toy_model()


def test_sharing_the_prompt_changes_nothing(shared: SharedModel) -> None:
    choices = ("<id>Document0</id>", "<id>Document0,Document2</id>", "<id></id>", "<id>")  # one begins others
    for question in QUESTIONS:
        prompt = shared.encode([{"role": "user", "content": question}])
        for tau in (1.0, 0.5):
            (found,) = choice_probabilities(shared, [(prompt.ids, choices)], tau=tau)
            slow = [math.exp(value) for value in shared.choice_logprobs(prompt, choices, tau=tau)]
            assert list(found.values()) == pytest.approx(slow, abs=1e-5)
            assert sum(found.values()) == pytest.approx(1.0, abs=1e-5)


def test_the_model_is_left_as_it_was(shared: SharedModel) -> None:
    request = Request((0, "q", "p", 0), "planner", shared.encode([{"role": "user", "content": "Hi"}]), 8, 0.0)
    before = shared.sample([request])[0].logprobs
    plan_probabilities(shared, None, PROMPTS, QUESTIONS, {"max_depth": 1})
    assert shared.sample([request])[0].logprobs == before


def test_legal_plans_get_all_the_mass(shared: SharedModel) -> None:
    free, shallow = (plan_probabilities(shared, None, PROMPTS, QUESTIONS, {"max_depth": depth})[0] for depth in (2, 0))
    assert set(free) - set(shallow) == {"QDS", "QDP"} and len(shallow) == 6
    assert sum(free.values()) == pytest.approx(1.0) and sum(shallow.values()) == pytest.approx(1.0)
    closed = plan_probabilities(shared, None, PROMPTS, QUESTIONS, {"max_depth": 0, "max_retrievals": 0})[0]
    assert set(closed) == {"AG", "QR,AG"}


def test_they_are_the_frequencies_of_sampled_plans(shared: SharedModel) -> None:
    inputs = root_inputs(QUESTIONS[0], {"max_depth": 2})
    prompt = shared.encode(PLANNER.messages(inputs, PROMPTS))
    constraint = PLANNER.constraint(inputs)
    assert isinstance(constraint, Constraint)
    requests = [Request((0, "q", "p", n), "planner", prompt, 64, 1.0, PLANNER.stop, constraint) for n in range(400)]
    counts = Counter(PLANNER.parse(item.text, inputs) for item in shared.sample(requests))
    expected = plan_probabilities(shared, None, PROMPTS, QUESTIONS[:1], {"max_depth": 2})[0]
    for plan, p in expected.items():
        assert abs(counts[plan] / 400 - p) < 4 * math.sqrt(p * (1 - p) / 400) + 1e-3, plan


def test_entropies_by_hand() -> None:
    view = PlannerView("jade", "nq", {"a": {"R,AG": 1.0, "QDS": 0.0}, "b": {"R,AG": 0.0, "QDS": 1.0}})
    row = view.to_json()
    assert row["entropy"] == 0.0 and row["entropy_of_mean"] == pytest.approx(math.log(2))
    assert entropy({"a": 0.25, "b": 0.25, "c": 0.5}) == pytest.approx(1.5 * math.log(2))
    assert torch.get_num_threads() == 1
