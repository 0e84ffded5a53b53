"""The adapter folder: a plain peft adapter plus `jade.json`, which says what the adapter was trained under.

An adapter answers only to the prompts, the grammar and the base that it was trained with; the folder names them,
and a reader compares (DESIGN §6). Nothing here loads peft or torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from pathlib import Path
from typing import Any

from agents.errors import ConfigError

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
CARD = "jade.json"


@dataclass(frozen=True)
class AdapterInfo:
    """What `jade.json` holds."""

    text: str
    """The `text` hash in force while training."""
    base: str
    """Name of the base model."""
    base_weights: str
    """Hash of the base model's weights."""
    prompts: str
    """Prompt set: "examples", "bare", or the name of a prompt folder."""
    temperature: float = 1.0
    """τ of the sampled calls that it was trained on."""
    roles: tuple[str, ...] = ()
    """Roles that were trained; the others ran frozen."""
    version: int = 0
    """Number of PPO updates behind it."""


def content_hash(folder: Path) -> str:
    """Return the adapter's identity: blake2b over its weights and its peft configuration.

    Raises:
        ConfigError: One of the two files is missing.
    """
    digest = blake2b(digest_size=16)
    for name in (WEIGHTS, CONFIG):
        with _existing(folder, name).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def write_adapter_info(folder: Path, info: AdapterInfo) -> None:
    """Write `jade.json` beside a saved peft adapter.

    Raises:
        ConfigError: The folder holds no peft adapter.
    """
    for name in (WEIGHTS, CONFIG):
        _existing(folder, name)
    text = json.dumps(asdict(info), indent=2, ensure_ascii=False)
    (folder / CARD).write_text(text + "\n", encoding="utf-8")


def read_adapter(
    folder: Path, *, base_weights: str | None = None, text: str | None = None, prompts: str | None = None
) -> AdapterInfo:
    """Read an adapter folder and check it against what is to run it.

    Args:
        folder: The adapter folder.
        base_weights: Weights hash of the loaded base; None = do not compare.
        text: The `text` hash in force; None = do not compare.
        prompts: The prompt set in force; None = do not compare.

    Raises:
        ConfigError: A file is missing or unreadable, or the adapter belongs to another base, prompt set or text.
    """
    for name in (WEIGHTS, CONFIG):
        _existing(folder, name)
    info = _parse(_existing(folder, CARD))
    if base_weights is not None and info.base_weights != base_weights:
        raise ConfigError(
            f"adapter {folder} was trained on base {info.base!r} (weights {info.base_weights}), but the loaded base "
            f"has weights {base_weights}; load that base, or choose an adapter of this one"
        )
    if prompts is not None and info.prompts != prompts:
        raise ConfigError(
            f"adapter {folder} was trained under prompt set {info.prompts!r}, not {prompts!r}; "
            f"leave the prompt set to the adapter, or train one under {prompts!r}"
        )
    if text is not None and info.text != text:
        raise ConfigError(
            f"adapter {folder} was trained under text hash {info.text}, now in force is {text}: tokenizer, chat "
            "template, prompts, grammar or record schema have changed since; use the JADE version that trained it, "
            "or train it again"
        )
    return info


def _parse(path: Path) -> AdapterInfo:
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
        known = {item.name for item in fields(AdapterInfo)}
        values = {name: value for name, value in data.items() if name in known}
        return AdapterInfo(**{**values, "roles": _names(values.get("roles", ()))})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is not an adapter card ({error}); write it again with write_adapter_info") from error


def _names(roles: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(role) for role in roles)


def _existing(folder: Path, name: str) -> Path:
    path = folder / name
    if not folder.is_dir():
        raise ConfigError(f"adapter folder {folder} does not exist; give a folder that holds {WEIGHTS} and {CARD}")
    if not path.is_file():
        hint = "a peft adapter not made by JADE" if name == CARD else "no peft adapter in safetensors format"
        raise ConfigError(f"adapter folder {folder} has no {name} ({hint}); give a folder written by JADE's training")
    return path
