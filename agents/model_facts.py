"""What a loaded model says about itself: how it ends, what its layers see, and the hashes that name it."""

from __future__ import annotations

import json
import math
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn

from agents.errors import ConfigError

STOP_RULE = 1
"""Version of the rule that ends a response; part of the `text` hash."""


def end_tokens(module: nn.Module, tokenizer: Any) -> tuple[int, ...]:
    """Return the tokens that end a response, the generation config's first.

    Raises:
        ConfigError: Neither generation config nor tokenizer names one.
    """
    named: Any = getattr(getattr(module, "generation_config", None), "eos_token_id", None)
    listed = [named] if isinstance(named, int) else list(named or [])
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in listed:
        listed.append(int(tokenizer.eos_token_id))
    if not listed:
        raise ConfigError("the model names no end-of-sequence token; choose an instruction-tuned model")
    return tuple(listed)


def attends_to_everything(config: Any) -> bool:
    """Return whether all layers attend to all earlier tokens by rotary positions, so that slots may be shared."""
    types = getattr(config, "layer_types", None)
    rotary = getattr(config, "rope_parameters", None) or getattr(config, "rope_theta", None)
    if types is not None:
        return bool(rotary) and set(types) == {"full_attention"}
    window = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return bool(rotary) and not window and not hasattr(config, "attention_chunk_size")


def forward_slots(module: nn.Module, config: Any) -> float:
    """Return how many slots' keys and values are as many numbers as the weights: a decoding step reads both.

    Infinite where the configuration does not say what a slot holds (heterogeneous ones raise when they are asked), and
    on an accelerator: launching a small model's kernels takes longer there than reading either.
    """
    if next(module.parameters()).device.type != "cpu":
        return math.inf
    try:
        heads = config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        numbers = 2 * (getattr(config, "num_key_value_heads", None) or heads) * width * config.num_hidden_layers
        return sum(parameter.numel() for parameter in module.parameters()) / int(numbers)
    except (AttributeError, ArithmeticError, RuntimeError, TypeError):  # no heads, or other ones in each layer
        return math.inf


def memory_hash(module: nn.Module) -> str:
    """Return a hash of a model's weights as they are in memory."""
    digest = blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def text_base(weights: str, tokenizer: Any) -> str:
    """Return the part of the `text` hash that the base decides: weights, tokenizer, chat template, stop rule."""
    digest = blake2b(digest_size=16)
    template = json.dumps(tokenizer.chat_template, sort_keys=True)
    for part in (weights, tokenizer.backend_tokenizer.to_str(), template, f"stop{STOP_RULE}"):
        digest.update(f"{len(part)}:".encode())
        digest.update(part.encode())
    return digest.hexdigest()


def tensor_bytes(tensor: Tensor) -> bytes:
    """Return a tensor's raw bytes, row-major."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy().tobytes())
