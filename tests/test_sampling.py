import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agents.sampling import draw, greedy, masked_logprobs, uniforms


def _logprobs(probs: list[float]) -> torch.Tensor:
    return torch.tensor([probs], dtype=torch.float64).log().float()


def _draw(probs: list[float], u: float) -> int:
    return int(draw(_logprobs(probs), torch.tensor([u], dtype=torch.float64))[0])


def test_uniforms_are_a_function_of_key_and_index_and_nothing_else():
    key = (7, "who?", "root/AG", 0)
    assert uniforms(key, 3) == uniforms(list(key), 3)
    others = [uniforms(key, 4), uniforms((8, *key[1:]), 3), uniforms((7, "who?", "root/AG", 1), 3)]
    assert len({uniforms(key, 3), *others}) == 4
    assert uniforms(("1",), 0) != uniforms((1,), 0)  # no two keys share a text


def test_uniforms_fill_the_unit_interval_evenly():
    numbers = [uniforms((0, "q"), i) for i in range(4000)]
    assert min(numbers) >= 0.0 and max(numbers) < 1.0
    assert abs(sum(numbers) / 4000 - 0.5) < 0.02
    assert abs(sum(x * x for x in numbers) / 4000 - 1 / 3) < 0.02


def test_masked_logprobs_by_hand():
    logits = torch.tensor([[0.0, math.log(2.0), math.log(3.0), 9.0]])
    allowed = torch.tensor([[True, True, True, False]])
    values = masked_logprobs(logits, allowed, torch.tensor([1.0]))[0]
    assert values[:3].exp().tolist() == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    assert values[3] == -math.inf
    # tau = 1/2 squares the odds: 1 : 4 : 9
    values = masked_logprobs(logits, allowed, torch.tensor([0.5]))[0]
    assert values[:3].exp().tolist() == pytest.approx([1 / 14, 4 / 14, 9 / 14])


def test_each_row_has_its_own_temperature_and_fp32_from_the_logits_on():
    logits = torch.tensor([[0.0, 1.0], [0.0, 1.0]], dtype=torch.bfloat16)
    values = masked_logprobs(logits, None, torch.tensor([1.0, 2.0]))
    assert values.dtype == torch.float32
    assert values[:, 1].tolist() == pytest.approx([-math.log1p(math.exp(-1)), -math.log1p(math.exp(-0.5))])


def test_draw_is_the_inverse_cdf_in_vocabulary_order():
    probs = [0.0, 0.25, 0.0, 0.5, 0.25, 0.0]
    wanted = {0.0: 1, 0.2499: 1, 0.2501: 3, 0.7499: 3, 0.7501: 4, 1 - 2**-53: 4}
    assert {u: _draw(probs, u) for u in wanted} == wanted


def test_draw_reaches_across_blocks_and_never_past_the_last_allowed_token():
    probs = [0.0] * 1000
    probs[255], probs[256], probs[999] = 0.5, 0.25, 0.25
    assert [_draw(probs, u) for u in (0.0, 0.4999, 0.5001, 0.7499, 0.7501, 1 - 2**-53)] == [
        255,
        255,
        256,
        256,
        999,
        999,
    ]


@given(
    st.lists(st.sampled_from([0.0, 1e-30, 1e-9, 0.1, 1.0, 3.0]), min_size=1, max_size=600).filter(any),
    st.floats(0.0, 1.0, exclude_max=True),
)
def test_draw_never_returns_a_token_without_probability(weights, u):
    probs = torch.tensor(weights, dtype=torch.float64)
    logprobs = (probs / probs.sum()).log().float()[None]
    token = int(draw(logprobs, torch.tensor([u], dtype=torch.float64))[0])
    assert weights[token] > 0


def test_draw_follows_the_distribution():
    probs = [0.1, 0.2, 0.3, 0.4]
    counts = Counter(_draw(probs, uniforms(("x",), i)) for i in range(4000))
    for token, p in enumerate(probs):
        assert abs(counts[token] / 4000 - p) < 4 * math.sqrt(p * (1 - p) / 4000)


def test_rows_do_not_touch_each_other():
    torch.manual_seed(0)
    logprobs = torch.log_softmax(torch.randn(5, 700), dim=-1)
    u = torch.rand(5, dtype=torch.float64)
    together = draw(logprobs, u).tolist()
    assert together == [int(draw(logprobs[i : i + 1], u[i : i + 1])[0]) for i in range(5)]


def test_greedy_takes_the_lowest_id_of_a_tie():
    logits = torch.tensor([[1.0, 5.0, 5.0, 0.0], [7.0, 1.0, 7.0, 7.0]])
    allowed = torch.tensor([[True] * 4, [False, True, True, True]])
    assert greedy(masked_logprobs(logits, allowed, torch.ones(2))).tolist() == [1, 2]
