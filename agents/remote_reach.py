"""Reach an inference server as every command does: its API key comes from the environment."""

from __future__ import annotations

import os
from pathlib import Path

from agents.model_text import TextSide
from agents.remote import RemotePolicy

KEY = "JADE_SERVER_KEY"
"""Environment variable with the server's API key, if it wants one."""


def reach(server: str, model: str | Path | TextSide | None, text_digest: str) -> RemotePolicy:
    """Return the policy on a server; nothing is asked yet.

    Args:
        server: "http://host:port".
        model: What it runs, as `RemotePolicy` takes it: a folder, a hub id, None = the embedded model, or a text side.
        text_digest: Hash of prompts, grammar and record schema.

    Raises:
        ConfigError: No such address is possible.
    """
    return RemotePolicy(server, model, key=os.environ.get(KEY), text_digest=text_digest)
