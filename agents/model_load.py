"""Find and load a backbone: the embedded default, a local folder, or a hub id; any causal language model."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import nn

from agents.embedded import MODEL, Progress, embedded_model
from agents.errors import ConfigError
from agents.home import jade_home

_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.txt", "*.model"]
DTYPES = {"bf16": torch.bfloat16, "bfloat16": torch.bfloat16, "fp32": torch.float32, "float32": torch.float32,
          "fp16": torch.float16, "float16": torch.float16}  # fmt: skip


@dataclass(frozen=True)
class Backbone:
    """A loaded language model with its tokenizer."""

    module: nn.Module
    tokenizer: Any
    name: str
    weights: str
    """Hash of its weight files."""


def load_backbone(
    model: str | Path | None, dtype: str, device: str, progress: Progress
) -> Backbone:
    """Load a backbone with sdpa attention, in evaluation mode.

    Args:
        model: None = the embedded default; an existing folder; or a hub id "owner/name".
        dtype: "auto", "bf16", "fp16" or "fp32"; auto = bf16 where the hardware multiplies bf16, else fp32.
        device: "auto" or a torch device; auto = CUDA where there is one.
        progress: Called with one line per stage.

    Raises:
        ConfigError: The folder does not exist or holds no causal language model in safetensors, the hub cannot be
            reached, or dtype or device cannot be used here.
        SetupError: The embedded default cannot be prepared.
    """
    where = choose_device(device)
    kind = choose_dtype(dtype, where)
    folder, name = _find(model, progress)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    progress(f"loading {name} ({str(kind).removeprefix('torch.')}, {where})")
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(str(folder))
            module = AutoModelForCausalLM.from_pretrained(
                str(folder), dtype=kind, attn_implementation="sdpa", use_safetensors=True
            )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ConfigError(
            f"{folder} cannot be loaded as a causal language model ({error}); give a folder with config.json, "
            "*.safetensors and a fast tokenizer (tokenizer.json)"
        ) from error
    return Backbone(module.to(where).eval(), tokenizer, name, weights_hash(folder))


def choose_device(device: str) -> torch.device:
    """Return the device named, or CUDA where there is one for "auto".

    Raises:
        ConfigError: Torch does not know the device, or it is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {device!r} cannot be used here ({error}); allowed: auto, cpu, cuda, cuda:N") from error
    return chosen


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return the number format named; for "auto" bf16 on CUDA and on CPUs with bf16 instructions, else fp32.

    Raises:
        ConfigError: An unknown name.
    """
    if dtype == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if fast or (device.type == "cpu" and _cpu_has_bf16()) else torch.float32
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r} is unknown; allowed: auto, bf16, fp16, fp32")
    return DTYPES[dtype]


def _cpu_has_bf16() -> bool:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    flags = {word for line in text.splitlines() if line.startswith(("flags", "Features")) for word in line.split()}
    return bool(flags & {"avx512_bf16", "amx_bf16"}) or (platform.machine() == "aarch64" and "bf16" in flags)


def _find(model: str | Path | None, progress: Progress) -> tuple[Path, str]:
    """Return the local folder of a model and its name."""
    if model is None:
        return embedded_model(progress), MODEL.folder
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"model folder {folder} has no config.json; give a transformers model folder")
        return folder, folder.resolve().name
    name = str(model)
    if isinstance(model, Path) or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ConfigError(f"model folder {folder} does not exist; give a folder, a hub id, or leave it out")
    return _hub(name, progress), name


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


@contextmanager
def _quiet() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


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
    """Write the memo by rename; a lost race costs one more reading of the weights."""
    path = _memo()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".hashes.{os.getpid()}.json")
    temporary.write_text(json.dumps(known, indent=1), encoding="utf-8")
    os.replace(temporary, path)
