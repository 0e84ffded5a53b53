"""Equal prompts once: the calls of a micro-batch that share a prompt become one sequence `[prompt | r1 | r2 | ...]`.

Several runs of a question ask the planner the very same thing, and most of them show the generator the same
documents. A prompt is some hundred tokens and a response about ten, so that training on n runs costs little more than
training on one. Each response sees the prompt and itself, at the positions it would have alone: the numbers are those
of separate rows up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agents.call import Call
from training.minibatch import Microbatch, minibatches

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Packed:
    """A micro-batch of B calls as G ≤ B right-padded sequences of width W."""

    input_ids: Tensor
    """(G, W)."""
    position_ids: Tensor | None
    """(G, W); None = counted from 0, since no prompt is shared."""
    mask: Tensor | None
    """(G, 1, W, W) bool, True = sees; None = causal."""
    sequence: Tensor
    """(B,) the sequence that holds each call."""
    logit_index: Tensor
    """(B, T) position in that sequence whose state predicts response token t; t = 0 is the last prompt token."""
    prompts: tuple[Tokens, ...]
    """The prompt of each sequence."""
    members: tuple[tuple[int, ...], ...]
    """The calls of each sequence, as places in the micro-batch."""


def pack(batch: Microbatch, share: bool = True) -> Packed:
    """Pack the calls of a micro-batch.

    Args:
        batch: B calls.
        share: Whether the model's layers all attend to everything, so that a mask of our own means the same to each;
            else every call is a sequence of its own.
    """
    starts = (batch.last_prompt + 1).tolist()
    sizes = batch.response.sum(1).tolist()
    ids = [row[: start + size] for row, start, size in zip(batch.input_ids.tolist(), starts, sizes, strict=True)]
    prompts = [tuple(row[:start]) for row, start in zip(ids, starts, strict=True)]
    groups: dict[object, list[int]] = {}
    for place, prompt in enumerate(prompts):
        groups.setdefault(prompt if share else place, []).append(place)
    members = tuple(tuple(group) for group in groups.values())
    sequences = [[*prompts[g[0]], *(token for place in g for token in ids[place][starts[place] :])] for g in members]
    width = max(map(len, sequences))
    input_ids = np.zeros((len(members), width), dtype=np.int64)
    positions = np.tile(np.arange(width), (len(members), 1))
    owner = np.zeros_like(input_ids)  # 0 = prompt or padding, n = the n-th response
    sequence = np.zeros(len(ids), dtype=np.int64)
    index = np.zeros(tuple(batch.response.shape), dtype=np.int64)
    for number, (group, tokens) in enumerate(zip(members, sequences, strict=True)):
        input_ids[number, : len(tokens)] = tokens
        start = end = starts[group[0]]
        for nth, place in enumerate(group, start=1):
            begin, end = end, end + sizes[place]
            sequence[place] = number
            index[place, : sizes[place]] = [start - 1, *range(begin, end - 1)][: sizes[place]]
            owner[number, begin:end] = nth
            positions[number, begin:end] = np.arange(start, start + end - begin)
    device, shared = batch.input_ids.device, any(len(group) > 1 for group in members)
    return Packed(
        input_ids=torch.from_numpy(input_ids).to(device),
        position_ids=torch.from_numpy(positions).to(device) if shared else None,
        mask=_sees(torch.from_numpy(owner).to(device)) if shared else None,
        sequence=torch.from_numpy(sequence).to(device),
        logit_index=torch.from_numpy(index).to(device),
        prompts=tuple(prompts[group[0]] for group in members),
        members=members,
    )


def _sees(owner: Tensor) -> Tensor:
    """Return (G, 1, W, W): each token sees earlier prompt tokens and the earlier tokens of its own response."""
    width = owner.shape[1]
    causal = torch.ones(width, width, dtype=torch.bool, device=owner.device).tril()
    mine = (owner[:, None, :] == 0) | (owner[:, None, :] == owner[:, :, None])
    return (causal & mine)[:, None]


def units(calls: Sequence[Call]) -> tuple[list[list[int]], npt.NDArray[np.int64]]:
    """Group calls by prompt.

    Returns:
        The places of each group's calls, in order of first appearance, and (groups,) packed lengths in tokens.
    """
    groups: dict[Tokens, list[int]] = {}
    for place, call in enumerate(calls):
        groups.setdefault(tuple(call.prompt_ids), []).append(place)
    lengths = [len(prompt) + sum(len(calls[p].response_ids) for p in places) for prompt, places in groups.items()]
    return list(groups.values()), np.array(lengths, dtype=np.int64)


def shared_minibatches(
    calls: Sequence[Call], count: int, token_budget: int, seed: Sequence[int], share: bool = True
) -> list[list[list[int]]]:
    """Plan one epoch as `training.minibatch.minibatches` does, with the calls of one prompt kept together.

    Args:
        calls: N calls.
        count: K minibatches.
        token_budget: Most tokens of a forward pass, a shared prompt counted once.
        seed: Integers that decide the order.
        share: As in `pack`; without it calls are planned one by one.
    """
    if share:
        groups, lengths = units(calls)
    else:
        groups = [[place] for place in range(len(calls))]
        lengths = np.array([len(call.prompt_ids) + len(call.response_ids) for call in calls], dtype=np.int64)
    plan = minibatches(lengths, count, token_budget, seed)
    return [[[place for unit in batch for place in groups[unit]] for batch in part] for part in plan]
