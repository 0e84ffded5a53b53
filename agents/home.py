"""Where JADE keeps what it can make again: models/, index/ and ledger/ below one folder. Leaf module."""

from __future__ import annotations

import os
from pathlib import Path

from agents.errors import ConfigError


def jade_home() -> Path:
    """Return the cache folder, made if need be: environment variable JADE_HOME, else ~/.jade.

    Raises:
        ConfigError: The folder cannot be created, or something that is no folder stands in its place.
    """
    home = Path(os.environ.get("JADE_HOME") or "~/.jade").expanduser()
    try:
        home.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"the cache folder {home} cannot be created ({error}); set JADE_HOME to a folder that you may write to"
        ) from error
    return home
