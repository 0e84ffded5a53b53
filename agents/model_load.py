"""Find and load a backbone: the embedded default, a local folder, or a hub id; any causal language model."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from torch import nn

from agents.embedded import MODEL, Progress, embedded_model, quiet
from agents.errors import ConfigError
from agents.home import jade_home
from agents.model_device import choose_device, choose_dtype
from agents.named import model_folder

_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.txt", "*.model"]


@dataclass(frozen=True)
class Backbone:
    """A loaded language model with its tokenizer."""

    module: nn.Module
    tokenizer: Any
    name: str
    weights: str
    """Hash of its weight files."""


def load_backbone(model: str | Path | None, dtype: str, device: str, progress: Progress) -> Backbone:
    """Load a backbone with sdpa attention, in evaluation mode.

    Args:
        model: None = the embedded default; an existing folder; or a hub id "owner/name".
        dtype: "auto", "bf16", "fp16" or "fp32"; auto = bf16 where the hardware multiplies bf16, else fp32.
        device: "auto" or a torch device; auto = CUDA where there is one.
        progress: Called with one line per stage.

    Raises:
        ConfigError: The folder does not exist or holds no causal language model in safetensors with a chat template,
            the hub cannot be reached, or dtype or device cannot be used here.
        SetupError: The embedded default cannot be prepared.
    """
    where = choose_device(device)
    kind = choose_dtype(dtype, where)
    folder, name = find_folder(model, progress)
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    progress(f"loading {name} ({str(kind).removeprefix('torch.')}, {where})")
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(str(folder))
            read: Any = AutoModelForCausalLM.from_pretrained  # typed as if it returned the model alone
            module, report = read(
                str(folder), dtype=kind, attn_implementation="sdpa", use_safetensors=True, output_loading_info=True
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise ConfigError(
            f"{folder} cannot be loaded as a causal language model ({error}); give a folder with config.json, "
            "whole *.safetensors that fit it, and a fast tokenizer (tokenizer.json)"
        ) from error
    missing = sorted(report["missing_keys"])
    check_template(tokenizer, folder)
    if missing:
        raise ConfigError(
            f"{folder} lacks {len(missing)} weights that its config.json asks for, such as {missing[0]}; they would be "
            "random: give a complete causal language model"
        )
    return Backbone(module.to(where).eval(), tokenizer, name, weights_hash(folder))


def check_template(tokenizer: Any, folder: Path) -> None:
    """Refuse a model that roles cannot speak through.

    Raises:
        ConfigError: Its tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        raise ConfigError(
            f"model {folder} has no chat template, so no role can speak through it; choose an instruction-tuned "
            "model, or put a chat_template.jinja into its folder"
        )


def find_folder(model: str | Path | None, progress: Progress) -> tuple[Path, str]:
    """Return the local folder of a model and its name.

    Raises:
        ConfigError: The folder does not exist, or the hub cannot be reached.
        SetupError: The embedded default cannot be prepared.
    """
    if model is None:
        return embedded_model(progress), MODEL.folder
    folder = model_folder(model)
    return (_hub(str(model), progress), str(model)) if folder is None else (folder, folder.resolve().name)


def _hub(name: str, progress: Progress) -> Path:
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    progress(f"looking for {name} in the local cache and on the Hugging Face hub")
    try:
        return Path(snapshot_download(name, allow_patterns=_FILES))
    except HFValidationError as error:
        raise ConfigError(f"model {name!r} is neither a folder nor a hub id ({error})") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, httpx.HTTPError, OSError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"model {name!r} is no local folder, and the hub did not deliver it ({first}); check the name and the "
            "network, download it elsewhere and give its folder, or leave the model out to use the embedded default"
        ) from error


def weights_hash(folder: Path) -> str:
    """Return blake2b over a model's safetensors files in name order, remembered by path, size and time.

    Raises:
        ConfigError: The folder holds no safetensors file.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ConfigError(f"{folder} holds no *.safetensors file; convert the model (JADE reads no pickled weights)")
    digest = blake2b(digest_size=16)
    known = _remembered()
    before = len(known)
    for file in files:
        resolved = file.resolve()
        status = resolved.stat()
        key = f"{resolved}|{status.st_size}|{status.st_mtime_ns}"
        if key not in known:
            known[key] = _file_hash(resolved)
        digest.update(f"{file.name}:{known[key]}\n".encode())
    if len(known) > before:
        _remember(known)
    return digest.hexdigest()


def _file_hash(path: Path) -> str:
    digest = blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _memo() -> Path:
    return jade_home() / "models" / "hashes.json"


def _remembered() -> dict[str, str]:
    try:
        data = json.loads(_memo().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(key): str(value) for key, value in data.items()} if isinstance(data, dict) else {}


def _remember(known: dict[str, str]) -> None:
    """Write the memo by rename; a lost race, or a full disk, costs one more reading of the weights."""
    with suppress(OSError, ConfigError):
        path = _memo()
        temporary = path.with_name(f".hashes.{os.getpid()}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(known, indent=1), encoding="utf-8")
        os.replace(temporary, path)
