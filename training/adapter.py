"""Making, choosing and saving the adapter that training changes.

Low-rank adapters (peft LoRA) on the upper layers of the decoder: everything below stays frozen, so that its
hidden states are constants of a row (see `trunk`).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from agents.adapters import AdapterInfo, write_adapter_info
from agents.errors import ConfigError
from agents.model import SharedModel

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TRAINED = "trained"
"""Name of the adapter under training in the shared model."""
START = "start"
"""Name of the frozen copy that training started from: the reference, and the player of frozen roles."""


@dataclass(frozen=True)
class LoraShape:
    """What an adapter looks like."""

    rank: int = 16
    alpha: int = 32
    first_layer: int | None = None
    """L0: layers below carry no adapter; None = the upper third only."""
    targets: tuple[str, ...] = TARGETS
    dropout: float = 0.0


def depth(shared: SharedModel) -> int:
    """Return the number of decoder layers."""
    config = shared.module.config
    return int(config.get_text_config().num_hidden_layers)  # type: ignore[union-attr,operator]


def first_layer(shared: SharedModel, shape: LoraShape) -> int:
    """Return L0 of a shape on a model.

    Raises:
        ConfigError: It is out of range.
    """
    layers = depth(shared)
    first = layers - max(1, layers // 3) if shape.first_layer is None else shape.first_layer
    if not 0 <= first < layers:
        raise ConfigError(f"first_layer={first}; the model has layers 0 to {layers - 1}")
    return first


def create_adapter(shared: SharedModel, shape: LoraShape, seed: int, name: str = TRAINED) -> None:
    """Add a fresh adapter that changes nothing yet (B = 0), drawn from `seed`.

    Raises:
        ConfigError: peft finds none of the target modules, or the shape is impossible.
    """
    from peft import LoraConfig

    if shape.rank < 1 or shape.alpha < 1:
        raise ConfigError(f"rank={shape.rank}, alpha={shape.alpha}: both must be at least 1")
    config = LoraConfig(
        r=shape.rank,
        lora_alpha=shape.alpha,
        lora_dropout=shape.dropout,
        target_modules=list(shape.targets),
        layers_to_transform=list(range(first_layer(shared, shape), depth(shared))),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            shared.adapter_set.create(name, config)
        except ValueError as error:
            raise ConfigError(f"no adapter can be put on this model: {error}") from error
    shared.refresh(name)


def first_adapted_layer(shared: SharedModel, names: Sequence[str]) -> int:
    """Return the lowest layer that any of the adapters touches; the number of layers when none does.

    Raises:
        ConfigError: An adapter is not loaded.
    """
    lowest = depth(shared)
    for name in names:
        for key in shared.adapter_set.parameters(name):
            parts = key.split(".")
            if "layers" not in parts:
                return 0
            lowest = min(lowest, int(parts[parts.index("layers") + 1]))
    return lowest


def save_adapter(shared: SharedModel, name: str, folder: Path, info: AdapterInfo, *, half: bool = False) -> None:
    """Write an adapter folder all at once: a new folder beside the old one, then a rename.

    Args:
        shared: Who holds the adapter.
        name: The adapter.
        folder: Where it shall stand; an older one there is replaced last.
        info: Its card.
        half: Store the weights in bfloat16, for shipping.

    Raises:
        ConfigError: The adapter is not loaded.
        OSError: The disk is full; the older folder still stands.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    shared.adapter_set.save(name, fresh)
    if half:
        _halve(fresh / "adapter_model.safetensors")
    _name_base(fresh / "adapter_config.json", info.base)
    write_adapter_info(fresh, info)
    for file in fresh.iterdir():
        _sync(file)
    if folder.exists():
        os.replace(folder, old)
    os.replace(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)


def _name_base(path: Path, base: str) -> None:
    """Let peft's configuration name the base as the card does, and not by where it lies on this disk."""
    config = {**json.loads(path.read_text(encoding="utf-8")), "base_model_name_or_path": base}
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _halve(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = {key: value.to(torch.bfloat16) for key, value in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
