"""What a user means by a name: an object by "package.module:name", a model by a folder or a hub id."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from agents.errors import ConfigError


def load_object(spec: str, option: str) -> Any:
    """Return what "package.module:name" names.

    Args:
        spec: Such as "examples.own_graph:graph".
        option: What it was given as, for messages.

    Raises:
        ConfigError: It is not of that form, or cannot be imported.
    """
    module, colon, name = spec.partition(":")
    if not colon or not module or not name:
        raise ConfigError(f"{option}={spec!r}; give it as package.module:name")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        hint = "run from its folder, or install it"
        raise ConfigError(f"{option}={spec!r} cannot be imported ({error}); {hint}") from error


def model_folder(model: str | Path) -> Path | None:
    """Return the folder that names a model; None for a hub id, which is looked for when it is loaded.

    Args:
        model: A folder, or a hub id such as "owner/name".

    Raises:
        ConfigError: It can only be a folder, and there is none, or none of a model.
    """
    folder, name = Path(model).expanduser(), str(model)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"model folder {folder} has no config.json; give a transformers model folder")
        return folder
    if isinstance(model, Path) or name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1:
        raise ConfigError(f"model folder {folder} does not exist; give a folder, a hub id, or leave it out")
    return None
