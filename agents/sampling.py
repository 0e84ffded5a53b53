"""The maths of one sampled token: which number is drawn, and what its log-probability is (DESIGN §5 "Sampling").

Pure functions over rows. Randomness is counter-based: a token's numbers depend on its call's key and its index and
on nothing else, so neither batch size nor arrival order can change what is sampled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_BELOW_ONE = np.float32(1 - 2.0**-24)


def uniforms(key: Sequence[str | int], token_index: int, size: int) -> NDArray[np.float32]:
    """Return the random numbers of one token, one for each token of the vocabulary.

    They are the raw stream of Philox-4x64 under a key that is blake2b of the call's key and the index.

    Args:
        key: (run seed, question, node path, call index), as in `Request.key`.
        token_index: Position of the token in the response, from 0.
        size: How many numbers.

    Returns:
        Uniform numbers in (0, 1), multiples of 2⁻³² offset by half, fp32 (size,).
    """
    text = json.dumps([list(key), token_index], ensure_ascii=True, separators=(",", ":"))
    words = np.frombuffer(blake2b(text.encode("ascii"), digest_size=16).digest(), dtype="<u8")
    raw = np.random.Philox(key=words).random_raw((size + 1) // 2).astype("<u8").view("<u4")[:size]
    numbers: NDArray[np.float32] = (raw.astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32)
    return np.minimum(numbers, _BELOW_ONE, out=numbers)


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
    """Draw one token a row by the Gumbel-max trick: `argmax_v log π(v) − log E_v` with `E_v = −log(1 − u_v)`.

    Rounding of the logits moves a draw only where two scores nearly tie. The inverse CDF would not do: its sums run
    over the whole vocabulary, and at τ = 2 a tail token's interval is as narrow as their rounding.

    Args:
        logprobs: From `masked_logprobs`, fp32 (rows, vocabulary). Tokens of −inf are never drawn.
        u: From `uniforms`, fp32 (rows, vocabulary).

    Returns:
        Token ids, int64 (rows,).
    """
    return greedy(logprobs - torch.log(-torch.log1p(-u)))


def draw_among(
    scores: Mapping[int, float], ids: NDArray[np.int64], key: Sequence[str | int], token_index: int, temperature: float
) -> tuple[int, float]:
    """Draw one token of a small set M whose scores come from elsewhere; with equal scores the token of `draw`.

    Args:
        scores: Token → log-probability at τ = 1, up to a constant; a token without one is as good as impossible.
        ids: M, ascending; at least one has a score.
        key: As in `uniforms`.
        token_index: As in `uniforms`.
        temperature: τ; 0 = greedy, with the log-probability at τ = 1.

    Returns:
        The token and its log-probability over M at τ.
    """
    logits = torch.tensor([[scores.get(int(token), float("-inf")) for token in ids]])
    logprobs = masked_logprobs(logits, None, torch.tensor([temperature or 1.0]))
    if temperature > 0:
        u = uniforms(key, token_index, int(ids[-1]) + 1)[ids]
        place = int(draw(logprobs, torch.from_numpy(u)[None]))
    else:
        place = int(greedy(logprobs))
    return int(ids[place]), float(logprobs[0, place])


def greedy(logprobs: Tensor) -> Tensor:
    """Return the most probable token of each row, the lowest id where several tie.

    Args:
        logprobs: (rows, vocabulary).

    Returns:
        Token ids, int64 (rows,).
    """
    best = logprobs.max(dim=-1, keepdim=True).values
    return (logprobs == best).to(torch.uint8).argmax(dim=-1)
