"""Reach an inference server as every command does: its key comes from the environment, adapters are seated by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

from agents.adapters import read_adapter
from agents.model_text import TextSide
from agents.remote import RemotePolicy

P = TypeVar("P", bound=RemotePolicy)
KEY = "JADE_SERVER_KEY"
"""Environment variable with the server's API key, if it wants one."""


def reach(kind: type[P], server: str, model: str | Path | TextSide | None, text_digest: str = "") -> P:
    """Return the policy on a server; nothing is asked yet.

    Args:
        kind: `RemotePolicy`, or one of its kinds.
        server: "http://host:port".
        model: What it runs, as `RemotePolicy` takes it: a folder, a hub id, None = the embedded model, or a text side.
        text_digest: Hash of prompts, grammar and record schema.

    Raises:
        ConfigError: No such address is possible.
    """
    return kind(server, model, key=os.environ.get(KEY), text_digest=text_digest)


def seat(remote: RemotePolicy, name: str, folder: str | Path) -> None:
    """Have the server load an adapter, and let the policy's identity speak of it.

    Raises:
        ConfigError: The folder cannot be used, or the server loads no adapters while it runs.
        ServerError: The server cannot be reached or refuses.
    """
    remote.load_adapter(name, folder)
    remote.adapter, remote.version = name, str(read_adapter(Path(folder)).version)
