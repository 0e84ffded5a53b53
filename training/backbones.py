"""Backbones of any size for experiments: a base as it is, a folder or hub id, or a random one of the base's kind."""

from __future__ import annotations

import os
import re
import shutil
from hashlib import blake2b
from pathlib import Path
from typing import Any

from agents.errors import ConfigError
from agents.home import jade_home

BASE = "base"
"""The base model itself, without an adapter."""
_RANDOM = re.compile(r"random:(\d+)x(\d+)")
HEAD = 32
"""Width of an attention head of a random backbone; its own width is a multiple of it."""


def random_shape(name: str) -> tuple[int, int] | None:
    """Return (layers, width) of "random:LAYERSxWIDTH"; None for any other name.

    Raises:
        ConfigError: An impossible shape.
    """
    if not name.startswith("random"):
        return None
    found = _RANDOM.fullmatch(name)
    layers, width = (int(found[1]), int(found[2])) if found else (0, 0)
    if layers < 1 or width < HEAD or width % HEAD:
        raise ConfigError(
            f"backbone {name!r}; give random:LAYERSxWIDTH with a width that {HEAD} divides, such as random:2x64"
        )
    return layers, width


def backbone_path(name: str, base: str | None) -> str:
    """Return what to load for a backbone: its name, or the folder where a random one lies once it is made.

    Raises:
        ConfigError: As `random_shape`.
    """
    if random_shape(name) is None:
        return name
    kind = "embedded" if base is None else blake2b(base.encode(), digest_size=6).hexdigest()
    return str(jade_home() / "models" / f"{name.replace(':', '-')}-{kind}")


def make_random(name: str, base: str | None) -> None:
    """Write a randomly initialised model of the base's kind and tokenizer, unless it is there; nothing for other names.

    It is written beside its place and then renamed, so that an interrupted one is never found; a folder that is not
    whole, whatever made it so, gives way.

    Args:
        name: Such as "random:2x64".
        base: Folder or hub id of the base; None = the embedded one.

    Raises:
        ConfigError: An impossible shape, or a base that cannot be found.
        SetupError: The embedded base cannot be prepared.
    """
    shape, folder = random_shape(name), Path(backbone_path(name, base))
    if shape is None or _is_whole(folder):
        return
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from agents.model_load import find_folder

    source, _ = find_folder(base, lambda line: None)
    config, (layers, width) = AutoConfig.from_pretrained(str(source)), shape
    sizes: dict[str, Any] = {
        "num_hidden_layers": layers, "hidden_size": width, "intermediate_size": 2 * width, "head_dim": HEAD,
        "num_attention_heads": width // HEAD, "num_key_value_heads": width // HEAD,
    }  # fmt: skip
    if getattr(config, "layer_types", None):
        sizes["layer_types"] = config.layer_types[:layers]
    for key, value in sizes.items():
        setattr(config, key, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        make: Any = AutoModelForCausalLM.from_config  # untyped
        model = make(config, dtype=torch.float32)
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        model.save_pretrained(fresh)
        AutoTokenizer.from_pretrained(str(source)).save_pretrained(fresh)
        if _is_whole(folder):  # another process was quicker
            return
        shutil.rmtree(folder, ignore_errors=True)
        fresh.replace(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _is_whole(folder: Path) -> bool:
    """Return whether a folder has all parts of a model: what it is, its weights, its tokenizer."""
    return all(any(folder.glob(part)) for part in ("config.json", "*.safetensors", "tokenizer_config.json"))
