"""One pass without gradient over the buffer: old and reference log-probabilities, and the critic's values.

Each row is scored under the adapter that plays its role today: the trained one (old), or for frozen roles the start
adapter (whose log-probabilities only serve the parity check).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from evaluation.ranks import Ranks
from training.adapter import TRAINED
from training.buffer import Floats, RolloutBuffer
from training.minibatch import collate
from training.packing import shared_minibatches
from training.players import Players


@dataclass(frozen=True)
class Scored:
    """Numbers of every row of a buffer, in its order."""

    current: list[Floats]
    """(T,) log-probabilities under the adapter that plays the row's role today."""
    ref: list[Floats]
    """(T,) under the start adapter; equals `current` on frozen rows."""
    values: Floats
    """(N, 2) the critic's V and V^f at the last prompt token."""
    token_values: list[Floats] | None
    """(T,) V at each response token, for `broadcast`."""


def parts(
    buffer: RolloutBuffer, count: int, token_budget: int, seed: tuple[int, ...], *, share: bool = True
) -> list[list[list[int]]]:
    """Plan `count` minibatches of micro-batches in which trained and frozen rows stand apart.

    The trained rows of each minibatch come first; rows of one prompt stay together, and the prompt counts once
    (unless `share` is off). See `training.packing.shared_minibatches`.
    """
    plans = []
    for place, wanted in enumerate((True, False)):
        rows = np.flatnonzero(buffer.trained == wanted)
        calls = [buffer.rows[row].call for row in rows]
        plan = shared_minibatches(calls, count, token_budget, (*seed, place), share)
        plans.append([[[int(rows[i]) for i in batch] for batch in minibatch] for minibatch in plan])
    return [[*trained, *frozen] for trained, frozen in zip(*plans, strict=True)]


def score_buffer(players: Players, buffer: RolloutBuffer, token_budget: int, *, tokens: bool = False) -> Scored:
    """Score every row once, keeping the trunk's states for the update.

    Args:
        players: Trained adapter, start adapter, critic.
        buffer: N rows.
        token_budget: Most tokens of a forward pass.
        tokens: Also return a value per response token.

    Several ranks each score a part of the rows, and each returns the numbers of all.
    """
    blank: Floats = np.zeros(0, dtype=np.float32)
    current, ref, each = ([blank] * len(buffer) for _ in range(3))
    values = np.zeros((len(buffer), 2), dtype=np.float32)
    players.learner.forget()
    with torch.no_grad():
        for rows in players.ranks.mine(_once(buffer, token_budget, players.learner.shares)):
            batch = collate(buffer, rows, pad_id=0, device=players.learner.device)
            calls = [buffer.rows[row].call for row in rows]
            trained = buffer.rows[rows[0]].trained
            now = players.score(batch, calls, TRAINED if trained else players.start)
            start = players.score(batch, calls, players.start) if trained else now
            hidden = now.hidden if trained else None
            values[rows] = players.value(batch, hidden, tokens=False, keep=True).cpu().numpy()
            by_token = players.value(batch, hidden, tokens=True, keep=True).cpu().numpy() if tokens else None
            for place, row in enumerate(rows):
                size = len(calls[place].response_ids)
                current[row] = now.logprobs[place, :size].cpu().numpy()
                ref[row] = start.logprobs[place, :size].cpu().numpy()
                if by_token is not None:
                    each[row] = by_token[place, :size]
    scored = Scored(current, ref, values, each if tokens else None)
    return scored if players.ranks.size == 1 else _everyones(scored, buffer, players.ranks)


def _everyones(scored: Scored, buffer: RolloutBuffer, ranks: Ranks) -> Scored:
    """Put together what each rank scored: what another one scored is 0 here, so that the sum is exact."""
    sizes = [len(row.call.response_ids) for row in buffer.rows]
    tables = [scored.current, scored.ref, *([] if scored.token_values is None else [scored.token_values])]
    filled = [
        part if len(part) else np.zeros(size, dtype=np.float32)
        for table in tables
        for part, size in zip(table, sizes, strict=True)
    ]
    flat = torch.from_numpy(np.concatenate([scored.values.reshape(-1), *filled]))
    whole = ranks.sum(flat).numpy()
    cuts = np.cumsum([scored.values.size, *sizes * len(tables)])
    values, *parts = np.split(whole, cuts[:-1])
    each = [parts[start : start + len(sizes)] for start in range(0, len(parts), max(1, len(sizes)))]
    if not sizes:
        return scored
    return Scored(each[0], each[1], values.reshape(scored.values.shape), each[2] if len(each) > 2 else None)


def _once(buffer: RolloutBuffer, token_budget: int, share: bool) -> Iterator[list[int]]:
    for minibatch in parts(buffer, 1, token_budget, (0,), share=share):
        yield from minibatch
