"""The maths of one sampled token: which number is drawn, and what its log-probability is (DESIGN §5 "Sampling").

Pure functions over rows. Randomness is counter-based: a token's uniform depends on its call's key and its index
and on nothing else, so neither batch size nor arrival order can change what is sampled.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor

_BITS = 53
_BLOCK = 256


def uniforms(key: Sequence[str | int], token_index: int) -> float:
    """Return the uniform number in [0, 1) of one token: 53 bits of blake2b over the call's key and the index.

    Args:
        key: (run seed, question, node path, call index), as in `Request.key`.
        token_index: Position of the token in the response, from 0.
    """
    text = json.dumps([list(key), token_index], ensure_ascii=True, separators=(",", ":"))
    digest = blake2b(text.encode("ascii"), digest_size=8).digest()
    return float((int.from_bytes(digest, "big") >> (64 - _BITS)) / (1 << _BITS))


def masked_logprobs(logits: Tensor, allowed: Tensor | None, tau: Tensor) -> Tensor:
    """Return `log π(a|s) = z_a/τ − logsumexp_{v∈M} z_v/τ` in fp32, and −inf outside M (DESIGN §5).

    Args:
        logits: Scores z, (rows, vocabulary), any float type.
        allowed: M, bool (rows, vocabulary), at least one True a row; None = the whole vocabulary.
        tau: Temperatures > 0, (rows,).

    Returns:
        Log-probabilities, fp32 (rows, vocabulary).
    """
    scores = logits.float()
    if not bool((tau == 1.0).all()):
        scores = scores / tau.to(scores)[:, None]
    if allowed is not None:
        scores = scores.masked_fill(~allowed, float("-inf"))
    return torch.log_softmax(scores, dim=-1)


def draw(logprobs: Tensor, u: Tensor) -> Tensor:
    """Draw one token a row by the inverse CDF over M in vocabulary order.

    Token i is drawn when `CDF(i−1) ≤ u·total < CDF(i)`. The CDF is summed in fp64 in two levels (blocks of
    `_BLOCK` tokens, then within the block), in an order that depends on the row alone. A token outside M, or of
    zero probability, has an empty interval and is never drawn.

    Args:
        logprobs: From `masked_logprobs`, fp32 (rows, vocabulary).
        u: Uniform numbers in [0, 1), fp64 (rows,).

    Returns:
        Token ids, int64 (rows,).
    """
    rows, size = logprobs.shape
    probs = torch.nn.functional.pad(logprobs.exp(), (0, -size % _BLOCK)).view(rows, -1, _BLOCK)
    blocks = probs.sum(dim=-1, dtype=torch.float64)
    ends = blocks.cumsum(dim=-1)
    target = u.to(ends)[:, None] * ends[:, -1:]
    block = torch.searchsorted(ends, target, right=True).clamp_(max=blocks.shape[1] - 1)
    rest = target - (ends - blocks).gather(1, block)
    inner = probs[torch.arange(rows, device=probs.device), block[:, 0]]
    offset = torch.searchsorted(inner.double().cumsum(dim=-1), rest, right=True).clamp_(max=_BLOCK - 1)
    empty = (inner.gather(1, offset) == 0)[:, 0]
    if bool(empty.any()):  # a residue of rounding at a block's end: go to the nearest token that can be drawn
        for row in empty.nonzero()[:, 0].tolist():
            offset[row, 0] = _nearest(inner[row], int(offset[row, 0]))
    return (block * _BLOCK + offset)[:, 0]


def _nearest(probs: Tensor, index: int) -> int:
    """Return the last index ≤ `index` of positive probability, else the first one after it."""
    positive: list[int] = probs.nonzero()[:, 0].tolist()
    before = [i for i in positive if i <= index]
    return before[-1] if before else positive[0]


def greedy(logprobs: Tensor) -> Tensor:
    """Return the most probable token of each row, the lowest id where several tie.

    Args:
        logprobs: (rows, vocabulary).

    Returns:
        Token ids, int64 (rows,).
    """
    best = logprobs.max(dim=-1, keepdim=True).values
    return (logprobs == best).to(torch.uint8).argmax(dim=-1)
