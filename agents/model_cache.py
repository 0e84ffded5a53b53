"""Keys and values of one micro-batch, in buffers that are allocated once.

A row's slots are `[head | tail | response]`: its role's static head comes from the prefix cache and is right-aligned
in the head slots, its own tail is left-padded, so that the last prompt token stands in the same slot for all rows
and one forward serves rows of different roles. Nothing is concatenated while decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

HeadStates = tuple[tuple[Tensor, Tensor], ...]
"""Keys and values of one static head: per layer, (kv heads, head tokens, head dimension) each."""


class SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer's keys and values, (rows, kv heads, slots, head dimension)."""

    is_sliding = False
    keys: Tensor  # type: ignore[assignment]
    values: Tensor  # type: ignore[assignment]

    def __init__(self, capacity: int, head_slots: int = 0, heads: Sequence[tuple[Tensor, Tensor] | None] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.capacity = capacity
        self.length = head_slots
        self.rows = 0
        self._heads = heads

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate the buffers and place the heads, right-aligned; unused head slots are zero (0 · NaN is NaN)."""
        self.rows = key_states.shape[0]
        self.keys, self.values = (self._place(states, side) for side, states in enumerate((key_states, value_states)))
        self._heads = ()
        self.is_initialized = True

    def _place(self, states: Tensor, side: int) -> Tensor:
        rows, kv_heads, _, width = states.shape
        buffer = states.new_empty((rows, kv_heads, self.capacity, width))
        buffer[:, :, : self.length] = 0
        groups: dict[int, list[int]] = {}
        for row, head in enumerate(self._heads):
            if head is not None:
                groups.setdefault(id(head), []).append(row)
        for members in groups.values():
            head = self._heads[members[0]]
            assert head is not None
            start = self.length - head[side].shape[1]
            if len(members) == rows:
                buffer[:, :, start : self.length] = head[side]
            else:
                for row in members:
                    buffer[row, :, start : self.length] = head[side]
        return buffer

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the new tokens into the next slots and return all filled slots."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, self.length = self.length, self.length + key_states.shape[2]
        self.keys[: self.rows, :, start : self.length] = key_states
        self.values[: self.rows, :, start : self.length] = value_states
        return self.keys[: self.rows, :, : self.length], self.values[: self.rows, :, : self.length]

    def expand(self, index: Tensor, capacity: int) -> None:
        """Repeat rows (row i becomes a copy of row `index[i]`) in buffers of a new capacity."""
        self.keys, self.values = (self._expanded(old, index, capacity) for old in (self.keys, self.values))
        self.rows, self.capacity = len(index), capacity

    def _expanded(self, old: Tensor, index: Tensor, capacity: int) -> Tensor:
        new = old.new_empty((len(index), old.shape[1], capacity, old.shape[3]))
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
    slots = [SlotLayer(len(ids)) for _ in range(layers)]
    module(
        input_ids=torch.tensor([list(ids)], device=device),
        position_ids=torch.arange(len(ids), device=device)[None],
        past_key_values=Cache(layers=list(slots)),
        use_cache=True,
        logits_to_keep=1,
    )
    return tuple((layer.keys[0], layer.values[0]) for layer in slots)


class SlotBatch:
    """The rows of one micro-batch while they are decoded."""

    def __init__(
        self,
        module: nn.Module,
        layers: int,
        prompts: Sequence[tuple[HeadStates | None, Sequence[int]]],
        copies: Sequence[int],
        room: int,
    ) -> None:
        """Lay out the slots.

        Args:
            module: The language model.
            layers: Layers of the model.
            prompts: Distinct prompts: (states of the head or None, tail tokens, at least one).
            copies: For each row, which prompt it continues.
            room: Response slots.
        """
        self._module, self._copies, self._room = module, list(copies), room
        self._device = next(module.parameters()).device
        self._dtype = next(module.parameters()).dtype
        self._tails = [list(tail) for _, tail in prompts]
        lengths = [0 if head is None else head[0][0].shape[1] for head, _ in prompts]
        self._head_lengths, self._head_slots = lengths, max(lengths)
        self._prompt_slots = self._head_slots + max(map(len, self._tails))
        self._alone = self._copies == list(range(len(prompts)))
        capacity = self._prompt_slots + (room if self._alone else 0)
        per_layer = [[None if head is None else head[layer] for head, _ in prompts] for layer in range(layers)]
        self._slots = [SlotLayer(capacity, self._head_slots, heads) for heads in per_layer]
        self._cache = Cache(layers=list(self._slots))
        self._mask = torch.empty(0)
        self._positions: list[int] = []

    def prefill(self) -> Tensor:
        """Run all distinct prompts and return the logits after each row's last prompt token, (rows, vocabulary)."""
        width = self._prompt_slots - self._head_slots
        ids = torch.zeros((len(self._tails), width), dtype=torch.long)
        positions = torch.zeros_like(ids)
        valid = torch.zeros((len(self._tails), self._prompt_slots), dtype=torch.bool)
        for row, (tail, head) in enumerate(zip(self._tails, self._head_lengths, strict=True)):
            ids[row, width - len(tail) :] = torch.tensor(tail)
            positions[row, width - len(tail) :] = torch.arange(head, head + len(tail))
            valid[row, self._head_slots - head : self._head_slots] = True
            valid[row, self._prompt_slots - len(tail) :] = True
        logits = self._forward(ids, positions, self._additive(self._causal(valid)))
        after = [head + len(tail) for head, tail in zip(self._head_lengths, self._tails, strict=True)]
        index = torch.tensor(self._copies)
        if not self._alone:
            logits = logits[index.to(self._device)]
            for layer in self._slots:
                layer.expand(index.to(self._device), self._prompt_slots + self._room)
        self._positions = [after[i] for i in self._copies]
        valid = torch.nn.functional.pad(valid[index], (0, self._room), value=True)
        self._mask = self._additive(valid[:, None, None, :])
        return logits

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Append one token to each row and return the next logits, (rows, vocabulary)."""
        ids, positions = torch.tensor(tokens)[:, None], torch.tensor(self._positions)[:, None]
        self._positions = [position + 1 for position in self._positions]
        seen = self._cache.get_seq_length() + 1
        return self._forward(ids, positions, self._mask[: len(tokens), :, :, :seen])

    def drop(self, row: int) -> None:
        """Forget a finished row; the last row takes its place."""
        for layer in self._slots:
            layer.drop(row)
        self._positions[row] = self._positions[-1]
        self._mask[row] = self._mask[len(self._positions) - 1]
        self._positions.pop()

    def _causal(self, valid: Tensor) -> Tensor:
        """Return (prompts, 1, tail slots, prompt slots): what each tail slot sees; padding sees itself."""
        slots = torch.arange(self._prompt_slots)
        queries = slots[self._head_slots :, None]
        sees = valid[:, None, :] & (slots <= queries)
        return (sees | (slots == queries))[:, None]

    def _additive(self, allowed: Tensor) -> Tensor:
        """Return 0 where allowed and −inf elsewhere, in the model's dtype: converted once, not once a layer."""
        mask = torch.zeros(allowed.shape, dtype=self._dtype)
        return mask.masked_fill_(~allowed, float("-inf")).to(self._device)

    def _forward(self, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        output = self._module(
            input_ids=ids.to(self._device),
            position_ids=positions.to(self._device),
            attention_mask=mask,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1]
        return logits


class GrowingBatch:
    """The same for architectures whose layers do not all attend to everything: transformers' own cache, no sharing."""

    def __init__(self, module: nn.Module, prompts: Sequence[Sequence[int]]) -> None:
        """Left-pad whole prompts, (rows, longest prompt)."""
        self._module = module
        self._device = next(module.parameters()).device
        self._prompts = [list(prompt) for prompt in prompts]
        self._cache = DynamicCache(config=getattr(module, "config", None))
        self._mask = torch.empty(0)

    def prefill(self) -> Tensor:
        """Run all prompts and return the logits after each, (rows, vocabulary)."""
        width = max(map(len, self._prompts))
        ids = torch.tensor([[0] * (width - len(p)) + p for p in self._prompts], device=self._device)
        mask = [[0] * (width - len(p)) + [1] * len(p) for p in self._prompts]
        self._mask = torch.tensor(mask, device=self._device)
        return self._forward(ids, (self._mask.cumsum(dim=1) - 1).clamp_(min=0))

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Append one token to each row and return the next logits, (rows, vocabulary)."""
        self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=1)
        ids = torch.tensor(tokens, device=self._device)[:, None]
        return self._forward(ids, self._mask.sum(dim=1, keepdim=True) - 1)

    def drop(self, row: int) -> None:
        """Forget a finished row; the last row takes its place."""
        order = list(range(len(self._mask)))
        order[row] = order[-1]
        index = torch.tensor(order[:-1], device=self._device)
        self._mask = self._mask[index]
        self._cache.batch_select_indices(index)

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        output = self._module(
            input_ids=ids,
            position_ids=positions,
            attention_mask=self._mask,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1]
        return logits
