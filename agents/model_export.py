"""Merge an adapter into its base and write the result as a Hugging Face folder that any program can load.

Merging is exact up to rounding in fp32, the default. In half precision a part of what the adapter adds falls below
the last digit of the base's weights and is lost (DESIGN §8), and the greedy answers may differ.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from agents.adapters import CARD, MergedInfo, content_hash, read_adapter
from agents.embedded import Progress, quiet
from agents.errors import ConfigError, SetupError
from agents.role import Prompts, PromptStyle
from agents.roster import prompts_digest


def export_merged(
    folder: Path,
    adapter: Path,
    model: str | Path | None = None,
    *,
    dtype: str = "fp32",
    progress: Progress | None = None,
) -> MergedInfo:
    """Write base and adapter as one model: config, safetensors, tokenizer, chat template, and a `jade.json` note.

    The folder appears by one rename, whole or not at all.

    Args:
        folder: What to write; must not exist.
        adapter: An adapter folder.
        model: Its base: None = the embedded default; a folder; or a hub id.
        dtype: Of the written weights: "fp32", "bf16" or "fp16".
        progress: Told one line per stage.

    Raises:
        ConfigError: The folder exists, or the adapter is incomplete or belongs to another base, prompts or version.
        SetupError: The folder cannot be written, or the embedded default cannot be prepared.
    """
    from agents.model import SharedModel

    tell = progress or (lambda line: None)
    if dtype not in ("fp32", "bf16", "fp16"):
        raise ConfigError(f"dtype={dtype!r}; allowed: fp32, bf16, fp16")
    if folder.exists():
        raise ConfigError(f"{folder} exists; give a folder that is not there yet, or remove it first")
    style = read_adapter(adapter).prompts
    shared = SharedModel.load(model, dtype=dtype, device="cpu", progress=tell)
    text = None
    if style in ("bare", "examples"):
        shared.text_digest = prompts_digest(Prompts(cast(PromptStyle, style)))
        text = shared.identity["text"]
    card = read_adapter(adapter, base_weights=shared.weights, text=text)
    shared.add_adapter("merged", adapter)
    note = MergedInfo(
        base=shared.name,
        base_weights=shared.weights,
        adapter=content_hash(adapter),
        prompts=card.prompts,
        temperature=card.temperature,
        roles=card.roles,
        version=card.version,
        dtype=dtype,
    )
    tell(f"merging {adapter} into {shared.name}")
    merged = shared.adapter_set.peft.merge_and_unload(safe_merge=True, adapter_names=["merged"])
    tell(f"writing {folder}")
    _write(folder, merged, shared.tokenizer, note)
    return note


def _write(folder: Path, module: Any, tokenizer: Any, note: MergedInfo) -> None:
    """Write everything beside the folder's place, then rename.

    Raises:
        SetupError: The disk is full or read-only; nothing is left behind.
    """
    from safetensors import SafetensorError

    fresh = folder.with_name(f".{folder.name}.new")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        with quiet():
            module.save_pretrained(str(fresh))
            tokenizer.save_pretrained(str(fresh))
        (fresh / CARD).write_text(json.dumps(asdict(note), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(fresh, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise SetupError(f"{folder} cannot be written ({error}); nothing is left of it: free the disk") from error
