"""`jade export`: a base with its adapter merged in, as a Hugging Face folder that any program can load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.terminal import note, show, show_json


def export(
    folder: Annotated[Path, typer.Argument(help="Folder to write; must not exist.", show_default=False)],
    adapter: Annotated[str, typer.Option(help="Adapter folder or MLflow run id; auto = the shipped one.")] = "auto",
    model: Annotated[
        str | None, typer.Option(help="The adapter's base: folder or Hugging Face id; default: embedded.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="fp32 (exact), bf16 or fp16 (smaller, rounded).")] = "fp32",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Merge an adapter into its base: config, safetensors, tokenizer, chat template and a jade.json note."""
    from dataclasses import asdict

    from agents.adapters import adapter_folder
    from agents.errors import ConfigError
    from agents.model_export import export_merged
    from graphs.app import shipped_adapter

    if folder.exists():
        raise ConfigError(f"{folder} exists; give a folder that is not there yet, or remove it first")
    shipped = shipped_adapter(model) if adapter == "auto" else None
    if adapter == "none" or (adapter == "auto" and shipped is None):
        why = "--adapter none" if adapter == "none" else "none ships for this model"
        raise ConfigError(f"no adapter to merge ({why}); give --adapter FOLDER, such as runs/ppo/adapter")
    source = shipped or adapter_folder(adapter)
    info = export_merged(folder, source, model, dtype=dtype, progress=note)
    if as_json:
        show_json({"folder": str(folder), **asdict(info)})
        return
    show(f"{folder}: {info.base} with adapter {info.adapter[:12]} (version {info.version}) merged in, {info.dtype}")
    show(f'use it: load_graph("{folder}"), or jade ask --model {folder}')
