"""From ragged rows to padded tensors: K minibatches an epoch, cut into micro-batches under a budget.

Rows are sorted by length and dealt to the minibatches, so that every minibatch sees the same mix of short
and long calls (and so of roles); inside one, neighbours in length share a micro-batch, so that padding
stays below 10 %. A minibatch is one optimiser step; its micro-batches only accumulate gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.buffer import Ragged, RolloutBuffer

PADDING = 0.10
"""Padding stays below this share of a micro-batch's tokens."""


def minibatches(
    lengths: npt.NDArray[np.int64], count: int, token_budget: int, seed: Sequence[int]
) -> list[list[list[int]]]:
    """Plan one epoch: every row exactly once, in an order that depends on nothing but the arguments.

    Args:
        lengths: (N,) tokens of prompt and response of each row.
        count: K minibatches (optimiser steps). With fewer rows than K some are empty, so that ranks with
            unequal shares take the same number of steps.
        token_budget: Most tokens of a micro-batch, padding included; a longer row stands alone.
        seed: Integers such as (run seed, iteration, epoch).

    Returns:
        K lists of micro-batches, each a list of row indices, the longest first.

    Raises:
        ValueError: `count` or `token_budget` is below 1.
    """
    if count < 1 or token_budget < 1:
        raise ValueError(f"count={count}, token_budget={token_budget}: both must be at least 1")
    generator = np.random.default_rng(list(seed))
    shuffled = generator.permutation(len(lengths))
    by_length = shuffled[np.argsort(lengths[shuffled], kind="stable")]
    dealt: list[list[int]] = [[] for _ in range(count)]
    for start in range(0, len(by_length), count):
        block = by_length[start : start + count]
        for place, row in zip(generator.permutation(count)[: len(block)], block, strict=True):
            dealt[int(place)].append(int(row))
    return [_cut(rows[::-1], lengths, token_budget) for rows in dealt]


def _cut(rows: Sequence[int], lengths: npt.NDArray[np.int64], token_budget: int) -> list[list[int]]:
    """Cut rows (longest first) into micro-batches within the budget and the allowed padding."""
    batches: list[list[int]] = []
    longest = used = 0
    for row in rows:
        length = int(lengths[row])
        area = (len(batches[-1]) + 1) * longest if batches else 0
        if batches and area <= token_budget and used + length > (1 - PADDING) * area:
            batches[-1].append(row)
            used += length
        else:
            batches.append([row])
            longest = used = length
    return batches


def padding_share(plan: Sequence[Sequence[Sequence[int]]], lengths: npt.NDArray[np.int64]) -> float:
    """Return the share of all padded tokens of an epoch's plan that are padding."""
    batches = [lengths[list(batch)] for minibatch in plan for batch in minibatch]
    area = sum(len(batch) * int(batch.max()) for batch in batches)
    return 1 - sum(int(batch.sum()) for batch in batches) / area if area else 0.0


@dataclass(frozen=True)
class Microbatch:
    """B rows, right-padded: L = longest prompt and response, T = longest response.

    Response-aligned fields are (B, T); what lies where `response` is 0 is padding and has weight 0.
    """

    rows: tuple[int, ...]
    """Indices into the buffer."""
    input_ids: Tensor
    """(B, L) prompt and response."""
    attention_mask: Tensor
    """(B, L) 1 on prompt and response, 0 on padding."""
    last_prompt: Tensor
    """(B,) position of the last prompt token: where V_c is read."""
    response_ids: Tensor
    """(B, T)."""
    response: Tensor
    """(B, T) bool: a response token, forced ones included (not padding)."""
    response_mask: Tensor
    """(B, T) m as float: 1 = sampled by the policy with |M| ≥ 2."""
    temperature: Tensor
    """(B,) τ."""
    role_ids: Tensor
    """(B,)."""
    trajectory_ids: Tensor
    """(B,)."""
    mu: Tensor
    """(B, T)."""
    old: Tensor | None
    """(B, T)."""
    ref: Tensor | None
    """(B, T)."""
    advantages: Tensor | None
    """(B, T)."""
    values: Tensor | None
    """(B, 2)."""
    token_values: Tensor | None
    """(B, T)."""
    returns: Tensor | None
    """(B, 2)."""
    weights: Tensor | None
    """(B, T) w: the row's token weight times m."""
    value_weights: Tensor | None
    """(B,)."""


def collate(buffer: RolloutBuffer, rows: Sequence[int], pad_id: int, device: torch.device | str = "cpu") -> Microbatch:
    """Pad some rows of the buffer into tensors; fields that are not filled in yet stay None.

    Args:
        buffer: The batch.
        rows: At least one row index.
        pad_id: Token id to pad with; hidden by the attention mask, so any id will do.
        device: Where the tensors go.
    """
    calls = [buffer.rows[row].call for row in rows]
    prompts = [len(call.prompt_ids) for call in calls]
    sizes = [len(call.response_ids) for call in calls]
    width, response_width = max(p + s for p, s in zip(prompts, sizes, strict=True)), max(sizes)
    input_ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    attention = np.zeros_like(input_ids)
    for i, (call, prompt, size) in enumerate(zip(calls, prompts, sizes, strict=True)):
        input_ids[i, : prompt + size] = call.prompt_ids + call.response_ids
        attention[i, : prompt + size] = 1
    response = np.arange(response_width)[None, :] < np.array(sizes)[:, None]

    def tokens(parts: Ragged | None) -> Tensor | None:
        if parts is None:
            return None
        return _pad([parts[row] for row in rows], response_width).to(device)

    def per_call(array: npt.NDArray[np.float32] | None) -> Tensor | None:
        return None if array is None else torch.from_numpy(array[list(rows)]).to(device)

    mask = _pad([np.array(call.mask, dtype=np.float32) for call in calls], response_width).to(device)
    weights = per_call(buffer.weights)
    return Microbatch(
        rows=tuple(rows),
        input_ids=torch.from_numpy(input_ids).to(device),
        attention_mask=torch.from_numpy(attention).to(device),
        last_prompt=torch.tensor(prompts, device=device) - 1,
        response_ids=_pad([np.array(call.response_ids) for call in calls], response_width).long().to(device),
        response=torch.from_numpy(response).to(device),
        response_mask=mask,
        temperature=torch.tensor([call.temperature for call in calls], device=device),
        role_ids=torch.tensor([buffer.rows[row].role for row in rows], device=device),
        trajectory_ids=torch.tensor([buffer.rows[row].trajectory for row in rows], device=device),
        mu=_pad([np.array(call.logprobs, dtype=np.float32) for call in calls], response_width).to(device),
        old=tokens(buffer.old),
        ref=tokens(buffer.ref),
        advantages=tokens(buffer.advantages),
        values=per_call(buffer.values),
        token_values=tokens(buffer.token_values),
        returns=per_call(buffer.returns),
        weights=None if weights is None else weights[:, None] * mask,
        value_weights=per_call(buffer.value_weights),
    )


def _pad(parts: Sequence[npt.NDArray[np.generic]], width: int) -> Tensor:
    """Stack arrays into (B, width), zeros to the right."""
    return torch.stack([torch.from_numpy(np.pad(part, (0, width - len(part)))) for part in parts])
