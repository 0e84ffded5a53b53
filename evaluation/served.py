"""The base model of an evaluation on an inference server: asked as the loaded one is, with adapters by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agents.remote import RemotePolicy


class ServedModel(RemotePolicy):
    """An inference server in the seat of `agents.model.SharedModel`, as far as an evaluation needs one."""

    @property
    def name(self) -> str:
        """Return the base's name."""
        return self.identity["base"]

    @property
    def weights(self) -> str:
        """Return the hash of the base's weights, as this machine knows them."""
        return self.identity["base_weights"]

    @property
    def identity(self) -> Mapping[str, str]:
        """Return the hashes; the server's number format is unknown."""
        return {"dtype": "on a server", **super().identity}

    def add_adapter(self, name: str, folder: str | Path) -> None:
        """Have the server load an adapter.

        Raises:
            ConfigError: It belongs to another base, or the server loads no adapters while it runs.
            ServerError: The server cannot be reached or refuses.
        """
        self.load_adapter(name, folder)

    def policy_hash(self, name: str | None) -> str:
        """Return the hash of what speaks under an adapter's name; None = the base."""
        before, self.adapter = self.adapter, name
        try:
            return super().identity["policy"]
        finally:
            self.adapter = before
