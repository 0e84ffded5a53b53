"""A decoder cut in two at layer L0: a frozen trunk below, what is trained above (DESIGN §5 "Critic").

With LoRA only on layers ≥ L0, the hidden states that enter L0 are constants of a row, so they are computed once
and reused for old, reference and new log-probabilities, values, and every epoch. The cut is made by showing the
transformers decoder a part of its own layer list; nothing of its forward pass is copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from agents.errors import ConfigError
from training.recompute import Around, Recomputed


class Trunk:
    """The two halves of one transformers decoder."""

    def __init__(self, module: nn.Module, first: int) -> None:
        """Cut before layer `first`.

        Args:
            module: A transformers causal language model whose decoder keeps its layers in `layers`.
            first: L0, the first layer that may carry trained parameters; 0 ≤ L0 ≤ number of layers.

        Raises:
            ConfigError: The decoder has no such layer list, or `first` is out of range.
        """
        whole: Any = module
        decoder: Any = whole.get_decoder() if hasattr(module, "get_decoder") else None
        layers = getattr(decoder, "layers", None)
        if not isinstance(layers, nn.ModuleList) or not hasattr(decoder, "norm"):
            raise ConfigError(
                f"{type(module).__name__} keeps its layers in no list that JADE can cut; train a decoder of the "
                "Llama, Qwen, Mistral or SmolLM kind"
            )
        if not 0 <= first <= len(layers):
            raise ConfigError(f"first trained layer {first}; the model has layers 0 to {len(layers) - 1}")
        self.first = first
        self.depth = len(layers)
        self._decoder: Any = decoder
        self._layers = layers
        self._head: Any = whole.get_output_embeddings()

    def below(self, input_ids: Tensor, positions: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return (B, L, H) hidden states that enter layer L0, without gradient, of (B, L) right-padded tokens.

        Args:
            input_ids: (B, L).
            positions: (B, L); None = from 0 on.
            mask: (B, 1, L, L) bool, True = sees; None = causal, which right padding leaves right.
        """
        with torch.no_grad(), self._only(self._layers[: self.first], norm=False):
            return self._run(input_ids=input_ids, position_ids=positions, attention_mask=mask)

    def above(
        self,
        hidden: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        recompute: Around | None = None,
    ) -> Tensor:
        """Return (B, L, H) normalised last hidden states of what `below` returned, with gradient where enabled.

        Args:
            hidden: (B, L, H).
            positions: As in `below`.
            mask: As in `below`.
            recompute: Gradient checkpointing; makes the context that layers are computed again in. None = off.
        """
        layers = self._layers[self.first :]
        if recompute is not None and torch.is_grad_enabled():
            layers = nn.ModuleList(Recomputed(layer, recompute) for layer in layers)
        with self._only(layers, norm=True):
            return self._run(inputs_embeds=hidden, position_ids=positions, attention_mask=mask)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return (..., V) scores of (..., H) last hidden states."""
        scores: Tensor = self._head(hidden)
        return scores

    def _run(self, **inputs: Tensor | None) -> Tensor:
        """Run the decoder as it stands."""
        given = {name: tensor for name, tensor in inputs.items() if tensor is not None}
        states: Tensor = self._decoder(use_cache=False, **given).last_hidden_state
        return states

    @contextmanager
    def _only(self, layers: nn.ModuleList, norm: bool) -> Iterator[None]:
        """Let the decoder see some of its layers; the caller holds the model's lock."""
        decoder, whole_norm = self._decoder, self._decoder.norm
        decoder.layers = layers
        if not norm:
            decoder.norm = nn.Identity()
        try:
            yield
        finally:
            decoder.layers, decoder.norm = self._layers, whole_norm
