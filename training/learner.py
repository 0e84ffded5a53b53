"""The trainer's view of the shared model: log-probabilities, entropy and hidden states with gradient.

The same weights, the same M and τ as sampling (DESIGN §5); only logits at response positions are computed, and the
frozen layers below the adapter once per row and update.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from agents.call import Call
from agents.constraint import response_allowed
from agents.model import SharedModel
from agents.model_engine import allowed_mask
from agents.model_facts import attends_to_everything
from agents.sampling import masked_logprobs
from training.minibatch import Microbatch
from training.packing import Packed, pack
from training.recompute import Around
from training.trunk import Trunk


@dataclass(frozen=True)
class Scores:
    """What a forward pass over a microbatch gives."""

    logprobs: Tensor
    """(B, T) fp32, 0 on padding and on forced tokens."""
    entropy: Tensor
    """(B, T) fp32 nats over M, 0 on padding and on forced tokens; no gradient unless asked for."""
    hidden: Tensor
    """(B, T, H) last hidden states, normalised, that predict response token t; t = 0 is the last prompt token's."""


class Learner:
    """Forward passes for training, under named adapters of one shared model."""

    def __init__(self, shared: SharedModel, first_layer: int) -> None:
        """Cut the model before `first_layer`, below which no adapter may reach.

        Raises:
            ConfigError: The model cannot be cut there.
        """
        self.shared = shared
        self.trunk = Trunk(shared.module, first_layer)
        self.shares = attends_to_everything(shared.module.config.get_text_config())  # type: ignore[union-attr,operator]
        """Whether calls with equal prompts are packed into one sequence."""
        self.checkpointing = False
        """Whether trained layers are computed again going backward instead of kept."""
        self._kept: dict[int, Tensor] = {}
        self._kept_prompts: dict[tuple[int, ...], Tensor] = {}

    @property
    def device(self) -> torch.device:
        """Return where the model is."""
        return next(self.shared.module.parameters()).device

    @property
    def width(self) -> int:
        """Return H, the size of a hidden state."""
        return int(self.shared.module.get_input_embeddings().embedding_dim)  # type: ignore[operator]

    def forget(self) -> None:
        """Drop the kept trunk states: the rows of the next update are others."""
        self._kept.clear()
        self._kept_prompts.clear()

    def kept_bytes(self) -> int:
        """Return the size of the states that are kept, in bytes; it grows with the batch."""
        return sum(states.nbytes for states in (*self._kept.values(), *self._kept_prompts.values()))

    def parameters(self, adapter: str) -> list[nn.Parameter]:
        """Return the adapter's parameters, made trainable and held in fp32 (bf16 swallows steps near 1e-5)."""
        named = self.shared.adapter_set.parameters(adapter)
        for parameter in named.values():
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
        return [named[name] for name in sorted(named)]

    def score(
        self,
        batch: Microbatch,
        calls: Sequence[Call],
        adapter: str | None,
        *,
        keep: bool = False,
        entropy_gradient: bool = False,
    ) -> Scores:
        """Return log-probabilities of the recorded responses under an adapter.

        Args:
            batch: B rows.
            calls: Their calls, in order: constraint and τ.
            adapter: Who speaks; None = the base. Gradients flow if they are enabled outside.
            keep: Keep the trunk's states by buffer row until `forget`.
            entropy_gradient: Let gradients flow through the entropy too (costs memory at large vocabularies).

        Raises:
            ConfigError: The adapter is not loaded.
        """
        hidden = self.hidden(batch, adapter, keep=keep)
        rows = torch.arange(len(calls), device=hidden.device)[:, None].expand_as(batch.response)[batch.response]
        logits = self.trunk.logits(hidden[batch.response])
        allowed = self._allowed(calls, logits)
        tau = batch.temperature[rows]
        everything = masked_logprobs(logits, allowed, tau)
        chosen = everything.gather(1, batch.response_ids[batch.response][:, None])[:, 0]
        with torch.set_grad_enabled(torch.is_grad_enabled() and entropy_gradient):
            finite = everything.masked_fill(everything == float("-inf"), 0.0)
            spread = -(everything.exp() * finite).sum(-1)
        sampled = batch.response_mask[batch.response] > 0
        blank = torch.zeros_like(batch.response, dtype=torch.float32)
        return Scores(
            logprobs=blank.masked_scatter(batch.response, torch.where(sampled, chosen, 0.0)),
            entropy=blank.masked_scatter(batch.response, torch.where(sampled, spread, 0.0)),
            hidden=hidden,
        )

    def hidden(self, batch: Microbatch, adapter: str | None, *, keep: bool = False) -> Tensor:
        """Return (B, T, H) last hidden states that predict each response token under an adapter."""
        packed = pack(batch, self.shares)
        with self.shared.using(adapter):
            below = self._below(batch, packed, keep)
            states = self.trunk.above(below, packed.position_ids, packed.mask, self._recompute(adapter))
        return states[packed.sequence[:, None], packed.logit_index]

    def _below(self, batch: Microbatch, packed: Packed, keep: bool) -> Tensor:
        """Return the trunk's states of the packed sequences, from memory where all of them are kept."""
        if not all(row in self._kept for row in batch.rows):
            states = self.trunk.below(packed.input_ids, packed.position_ids, packed.mask)
            if keep:
                self._keep(states, batch, packed)
            return states
        kept = [
            torch.cat([self._kept_prompts[prompt], *(self._kept[batch.rows[place]] for place in group)])
            for prompt, group in zip(packed.prompts, packed.members, strict=True)
        ]
        return torch.nn.utils.rnn.pad_sequence(kept, batch_first=True)

    def _recompute(self, adapter: str | None) -> Around | None:
        """Return how trained layers are computed again: under the adapter that spoke, whatever is active then."""
        return partial(self.shared.using, adapter) if self.checkpointing else None

    def _keep(self, states: Tensor, batch: Microbatch, packed: Packed) -> None:
        """Keep each prompt's states once, and each response's by its row in the buffer."""
        sizes = batch.response.sum(1).tolist()
        for number, (prompt, group) in enumerate(zip(packed.prompts, packed.members, strict=True)):
            self._kept_prompts.setdefault(prompt, states[number, : len(prompt)].clone())
            end = len(prompt)
            for place in group:
                begin, end = end, end + sizes[place]
                self._kept[batch.rows[place]] = states[number, begin:end].clone()

    def _allowed(self, calls: Sequence[Call], logits: Tensor) -> Tensor | None:
        """Return M of every response token of every call, (N, V) in row order; None when all are free."""
        sets = []
        for call in calls:
            grammars = self.shared.grammars
            state = None if call.constraint is None else grammars.start(call.constraint)
            sets.extend(response_allowed(state, call.response_ids))
        mask = allowed_mask(sets, logits.shape[1], logits.device)
        if mask is not None:
            mask[~mask.any(dim=1)] = True  # a token outside M: parity refuses such a row before any update
        return mask
