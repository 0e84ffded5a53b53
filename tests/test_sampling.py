import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agents.sampling import draw, greedy, masked_logprobs, uniforms

PINNED = [0.03072982, 0.6945855, 0.74038172]


def _draw(probs: list[float], key: tuple) -> int:
    logprobs = torch.tensor([probs], dtype=torch.float64).log().float()
    return int(draw(logprobs, torch.from_numpy(uniforms(key, 0, len(probs)))[None])[0])


def test_uniforms_are_a_function_of_key_and_index_and_nothing_else():
    key = (7, "who?", "root/AG", 0)
    assert np.array_equal(uniforms(key, 3, 50), uniforms(list(key), 3, 50))
    others = [uniforms(key, 4, 50), uniforms((8, *key[1:]), 3, 50), uniforms((7, "who?", "root/AG", 1), 3, 50)]
    assert len({tuple(numbers) for numbers in (uniforms(key, 3, 50), *others)}) == 4
    assert not np.array_equal(uniforms(("1",), 0, 5), uniforms((1,), 0, 5))  # no two keys share a text
    assert np.array_equal(uniforms(key, 3, 51)[:50], uniforms(key, 3, 50))


def test_uniforms_are_pinned():
    """A ledger must be drawn again by later versions: these numbers may never change."""
    assert uniforms((0, "q", "root/AG", 0), 0, 3).tolist() == pytest.approx(PINNED, abs=1e-7)


def test_uniforms_fill_the_open_unit_interval_evenly():
    numbers = uniforms((0, "q"), 0, 100_000).astype(np.float64)
    assert numbers.min() > 0.0 and numbers.max() < 1.0
    assert abs(numbers.mean() - 0.5) < 0.005
    assert abs((numbers**2).mean() - 1 / 3) < 0.005


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


def test_draw_is_the_gumbel_max_by_hand():
    # E = -log(1 - u): scores log p - log E are log(0.5/1) and log(0.5/2): the smaller E wins
    u = torch.tensor([[1 - math.exp(-1), 1 - math.exp(-2)], [1 - math.exp(-2), 1 - math.exp(-1)]])
    assert draw(torch.tensor([[0.5, 0.5], [0.5, 0.5]]).log(), u).tolist() == [0, 1]
    assert draw(torch.tensor([[0.3, 0.7], [0.7, 0.3]]).log(), u).tolist() == [1, 0]  # 0.7/2 > 0.3/1


@given(
    st.lists(st.sampled_from([0.0, 1e-30, 1e-9, 0.1, 1.0, 3.0]), min_size=1, max_size=600).filter(any),
    st.integers(0, 10**6),
)
def test_draw_never_returns_a_token_without_probability(weights, key):
    assert weights[_draw((np.array(weights) / sum(weights)).tolist(), (key,))] > 0


def test_even_extreme_numbers_stay_inside_the_allowed_set():
    logprobs = torch.tensor([[-math.inf, 0.0, -math.inf]])
    for extreme in (2.0**-33, 1 - 2.0**-24):
        for other in (2.0**-33, 1 - 2.0**-24):
            assert int(draw(logprobs, torch.tensor([[other, extreme, other]]))[0]) == 1


def test_draw_follows_the_distribution():
    probs = [0.001, 0.099, 0.2, 0.3, 0.4]
    counts = Counter(_draw(probs, ("x", i)) for i in range(8000))
    for token, p in enumerate(probs):
        assert abs(counts[token] / 8000 - p) < 4 * math.sqrt(p * (1 - p) / 8000)


def test_rounding_of_the_logits_moves_almost_no_draw():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 5000, generator=generator) * 2
    noisy = logits + 1e-5 * torch.randn(64, 5000, generator=generator)
    u = torch.from_numpy(np.stack([uniforms((i,), 0, 5000) for i in range(64)]))
    tau = torch.full((64,), 2.0)
    moved = draw(masked_logprobs(logits, None, tau), u) != draw(masked_logprobs(noisy, None, tau), u)
    assert int(moved.sum()) == 0


def test_rows_do_not_touch_each_other():
    logprobs = torch.log_softmax(torch.randn(5, 700, generator=torch.Generator().manual_seed(0)), dim=-1)
    u = torch.from_numpy(np.stack([uniforms((i,), 0, 700) for i in range(5)]))
    together = draw(logprobs, u).tolist()
    assert together == [int(draw(logprobs[i : i + 1], u[i : i + 1])[0]) for i in range(5)]


def test_greedy_takes_the_lowest_id_of_a_tie():
    logits = torch.tensor([[1.0, 5.0, 5.0, 0.0], [7.0, 1.0, 7.0, 7.0]])
    allowed = torch.tensor([[True] * 4, [False, True, True, True]])
    assert greedy(masked_logprobs(logits, allowed, torch.ones(2))).tolist() == [1, 2]
