"""Gradient checkpointing: a layer keeps only its input and is computed again going backward, under the same adapter."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

Around = Callable[[], AbstractContextManager[Any]]
"""Makes the context that a layer must be computed again in: by then another adapter may be active."""


class Recomputed(nn.Module):
    """One decoder layer whose activations are not kept."""

    def __init__(self, layer: nn.Module, around: Around) -> None:
        """Wrap a layer; `around` makes the context of its second computation."""
        super().__init__()
        self.layer = layer
        self._around = around

    def __getattr__(self, name: str) -> Any:
        """Return the layer's own attributes, which some decoders read, such as its kind of attention."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Return what the layer returns; nothing random happens in it, since training runs without dropout."""
        return checkpoint(
            self.layer,
            *inputs,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=lambda: (nullcontext(), self._around()),
            **options,
        )
