"""Keys and values of one layer, in buffers that are allocated once and reused from batch to batch.

transformers' own cache concatenates at every token; this one writes into slots. What a slot means is laid out in
`model_slots`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin

HeadStates = tuple[tuple[Tensor, Tensor], ...]
"""Keys and values of one static head: per layer, (kv heads, head tokens, head dimension) each."""


class Arena:
    """Buffers kept from one micro-batch to the next: fresh ones cost more in page faults than in filling them.

    What is left in them is finite, so that a masked slot still weighs exactly nothing.
    """

    def __init__(self) -> None:
        self._flat: list[Tensor] = []
        self._next = 0

    def restart(self) -> None:
        """Hand all buffers out again."""
        self._next = 0

    def release(self) -> None:
        """Give the memory back."""
        self._flat, self._next = [], 0

    def take(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return a buffer of a shape, with dtype and device of `like`; its content is arbitrary but finite."""
        place, self._next = self._next, self._next + 1
        size = math.prod(shape)
        if place == len(self._flat):
            self._flat.append(like.new_zeros(size))
        elif self._flat[place].numel() < size or self._flat[place].dtype != like.dtype:
            self._flat[place] = like.new_zeros(size)
        return self._flat[place][:size].view(shape)


class SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer's keys and values, (rows, kv heads, slots, head dimension)."""

    is_sliding = False
    keys: Tensor
    values: Tensor

    def __init__(
        self,
        arena: Arena,
        capacity: int,
        head_slots: int = 0,
        heads: Sequence[tuple[Tensor, Tensor] | None] = (),
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.arena = arena
        self.capacity = capacity
        self.length = self.head_slots = head_slots
        self.rows = 0
        self.part: slice | None = None
        """Rows that the next forward brings, where a prefill comes in parts; None = all of them."""
        self._heads = heads

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate the buffers and place the heads, right-aligned."""
        self.rows = key_states.shape[0] if self.part is None else len(self._heads)
        self.keys, self.values = (self._place(states, side) for side, states in enumerate((key_states, value_states)))
        self._heads = ()
        self.is_initialized = True

    def _place(self, states: Tensor, side: int) -> Tensor:
        rows, (_, kv_heads, _, width) = self.rows, states.shape
        buffer = self.arena.take((rows, kv_heads, self.capacity, width), states)
        groups: dict[int, list[int]] = {}
        for row, head in enumerate(self._heads):
            if head is not None:
                groups.setdefault(id(head), []).append(row)
        for members in groups.values():
            head = self._heads[members[0]]
            assert head is not None
            start = self.head_slots - head[side].shape[1]
            if len(members) == rows:
                buffer[:, :, start : self.head_slots] = head[side]
            else:
                for row in members:
                    buffer[row, :, start : self.head_slots] = head[side]
        return buffer

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the new tokens into the next slots and return all filled slots."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        part = slice(0, self.rows) if self.part is None else self.part
        start, end = self.length, self.length + key_states.shape[2]
        self.keys[part, :, start:end] = key_states
        self.values[part, :, start:end] = value_states
        self.length = end
        return self.keys[part, :, :end], self.values[part, :, :end]

    def expand(self, index: Tensor, capacity: int) -> None:
        """Repeat rows (row i becomes a copy of row `index[i]`) in buffers of a new capacity."""
        self.keys, self.values = (self._expanded(old, index, capacity) for old in (self.keys, self.values))
        self.rows, self.capacity = len(index), capacity

    def _expanded(self, old: Tensor, index: Tensor, capacity: int) -> Tensor:
        new = self.arena.take((len(index), old.shape[1], capacity, old.shape[3]), old)
        new[:, :, : self.length] = old[index, :, : self.length]
        return new

    def drop(self, row: int) -> None:
        """Forget a row; the last row takes its place."""
        last = self.rows - 1
        if row != last:
            self.keys[row, :, : self.length] = self.keys[last, :, : self.length]
            self.values[row, :, : self.length] = self.values[last, :, : self.length]
        self.rows = last

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return (length, offset) of the keys that a forward over `query_length` new tokens sees."""
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        """Return the filled slots."""
        return self.length

    def get_max_length(self) -> int:
        """Return the slots allocated."""
        return self.capacity


def head_states(module: nn.Module, ids: Sequence[int], layers: int) -> HeadStates:
    """Run a static head once, alone.

    Args:
        module: The language model.
        ids: Head tokens, at least one.
        layers: Layers of the model.

    Returns:
        Its keys and values.
    """
    device = next(module.parameters()).device
    arena = Arena()
    slots = [SlotLayer(arena, len(ids)) for _ in range(layers)]
    module(
        input_ids=torch.tensor([list(ids)], device=device),
        position_ids=torch.arange(len(ids), device=device)[None],
        past_key_values=Cache(layers=list(slots)),
        use_cache=True,
        logits_to_keep=1,
    )
    return tuple((layer.keys[0], layer.values[0]) for layer in slots)
