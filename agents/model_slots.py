"""The slots of one micro-batch: `[head | tail | response]`, one forward for rows of different roles.

A row's static head comes from the prefix cache and is right-aligned in the head slots, its own tail is left-padded,
so that the last prompt token stands in the same slot for all rows. Nothing is concatenated while decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache

from agents.model_cache import Arena, HeadStates, SlotLayer, head_states
from agents.model_engine import Batch, Row
from agents.model_facts import attends_to_everything
from agents.model_prefix import PrefixCache

PREFILL_TOKENS = 2048
"""Most tokens of one forward of a prefill on a CPU, padding included."""
FORWARD_TOKENS = 32
"""Tokens whose prefill takes a CPU as long as reading the weights does: more padding is dearer than another forward."""


class Layout:
    """Gives rows their slots: static heads from the prefix cache, equal prompts only once."""

    def __init__(self, module: nn.Module, config: Any, prefix: PrefixCache) -> None:
        """Bind to a model and its (text) configuration."""
        self.prefix = prefix
        self.shares = attends_to_everything(config)
        self._module, self._layers = module, int(config.num_hidden_layers)
        self._arena = Arena()

    def clear(self) -> None:
        """Drop heads and buffers: the weights have changed."""
        self.prefix.clear()
        self._arena.release()

    def release(self) -> None:
        """Give the decoding buffers back."""
        self._arena.release()

    def lay_out(self, rows: Sequence[Row], policy: str) -> Batch:
        """Return the batch in which unfinished rows are decoded.

        Args:
            rows: Rows of one adapter, which is active; response tokens forced so far join their prompts.
            policy: Content hash of that adapter, part of the heads' keys.
        """
        prompts = [(row.request.prompt, tuple(row.ids)) for row in rows]
        if not self.shares:
            return GrowingBatch(self._module, [prompt.ids + forced for prompt, forced in prompts])
        distinct = {(prompt.ids, forced): prompt for prompt, forced in prompts}
        place = {key: index for index, key in enumerate(distinct)}
        laid = []
        for (ids, forced), prompt in distinct.items():
            head = prompt.head if self.prefix.tokens > 0 else 0
            states = self._head((rows[0].request.adapter, policy), ids[:head]) if head else None
            laid.append((states, ids[head:] + forced))
        copies = [place[prompt.ids, forced] for prompt, forced in prompts]
        room = max(row.request.max_new_tokens - row.fed for row in rows)
        return SlotBatch(self._module, self._layers, laid, copies, room, self._arena)

    def _head(self, speaker: tuple[str | None, str], ids: tuple[int, ...]) -> HeadStates:
        return self.prefix.get((speaker, ids), len(ids), lambda: head_states(self._module, ids, self._layers))


class SlotBatch:
    """The rows of one micro-batch while they are decoded."""

    def __init__(
        self,
        module: nn.Module,
        layers: int,
        prompts: Sequence[tuple[HeadStates | None, Sequence[int]]],
        copies: Sequence[int],
        room: int,
        arena: Arena,
    ) -> None:
        """Lay out the slots.

        Args:
            module: The language model.
            layers: Layers of the model.
            prompts: Distinct prompts: (states of the head or None, tail tokens, at least one).
            copies: For each row, which prompt it continues.
            room: Response slots.
            arena: Where the buffers come from.
        """
        arena.restart()
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
        self._slots = [SlotLayer(arena, capacity, self._head_slots, heads) for heads in per_layer]
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
        logits = self._by_parts(ids, positions, valid)
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

    def _by_parts(self, ids: Tensor, positions: Tensor, valid: Tensor) -> Tensor:
        """Run the prompts, on a CPU a few at a time: less padding, and what they touch fits its caches."""
        lengths = list(map(len, self._tails))
        parts = cut_parts(lengths) if self._device.type == "cpu" else [slice(0, len(lengths))]
        logits = []
        for part in parts:
            width = max(lengths[part])
            for layer in self._slots:
                layer.part, layer.length = part, self._prompt_slots - width
            mask = self._additive(self._causal(valid[part])[:, :, -width:])
            logits.append(self._forward(ids[part, -width:], positions[part, -width:], mask))
        for layer in self._slots:
            layer.part = None
        return torch.cat(logits)

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


def cut_parts(lengths: Sequence[int]) -> list[slice]:
    """Cut neighbouring prompts into forwards of little padding and at most `PREFILL_TOKENS`, at least one prompt each.

    >>> cut_parts([10, 12, 14, 300, 310, 900])
    [slice(0, 3, None), slice(3, 5, None), slice(5, 6, None)]
    """
    parts: list[slice] = []
    first, width, total = 0, 0, 0
    for place, length in enumerate(lengths):
        wider, count = max(width, length), place + 1 - first
        padding = wider * count - total - length
        if place > first and (padding > FORWARD_TOKENS or wider * count > PREFILL_TOKENS):
            parts.append(slice(first, place))
            first, wider, total = place, length, 0
        width, total = wider, total + length
    return [*parts, slice(first, len(lengths))]


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
