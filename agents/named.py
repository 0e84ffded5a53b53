"""An object by its name: what a user means by "package.module:name"."""

from __future__ import annotations

import importlib
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
