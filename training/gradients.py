"""Gradients of many ranks, added up: every rank then takes the same optimiser step, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from evaluation.ranks import Ranks


def shared_gradients(ranks: Ranks, parameters: Sequence[nn.Parameter], sums: Sequence[float]) -> list[float]:
    """Add up the gradients of a step over all ranks, in place: each rank went over a part of its rows.

    One message for all gradients, which a low-rank adapter keeps small. A parameter without a gradient on every rank
    keeps none, so that the optimiser passes it by as it does on one process.

    Args:
        ranks: The ranks.
        parameters: The same on every rank, with the gradients of this rank's part of Σ w·ℓ.
        sums: Numbers of this rank's part.

    Returns:
        The numbers, added up over all ranks.
    """
    if ranks.size == 1:
        return list(sums)
    having = [float(parameter.grad is not None) for parameter in parameters]
    table = ranks.sum(torch.tensor([*sums, *having], dtype=torch.float64)).tolist()
    learning = [item for item, count in zip(parameters, table[len(sums) :], strict=True) if count > 0]
    if learning:
        parts = [torch.zeros_like(item) if item.grad is None else item.grad for item in learning]
        whole = ranks.sum(torch.cat([part.reshape(-1) for part in parts]))
        for item, part in zip(learning, torch.split(whole, [item.numel() for item in learning]), strict=True):
            item.grad = part.view_as(item).clone()
    return [float(number) for number in table[: len(sums)]]
