"""The adapters of the last updates: runs recorded by an older policy can be checked and replayed (DESIGN §6)."""

from __future__ import annotations

import shutil
from pathlib import Path

from agents.adapters import AdapterInfo, content_hash
from agents.errors import ConfigError
from agents.model import SharedModel
from training.adapter import START, TRAINED, save_adapter

OLDER = "older"
"""Name under which an older policy is loaded for a while."""


class PolicyStore:
    """A folder of adapter folders, one a policy version."""

    def __init__(self, folder: Path, keep: int) -> None:
        """Name the folder; nothing is created yet."""
        self.folder, self.keep = folder, keep
        self._aliases: dict[str, str | None] = {}

    def path(self, version: int) -> Path:
        """Return the adapter folder of a version."""
        return self.folder / f"{version:06d}"

    def add(self, shared: SharedModel, version: int, info: AdapterInfo) -> str:
        """Write the trained adapter as a version, name the speaker after it, and drop the oldest.

        Returns:
            The policy hash.

        Raises:
            OSError: The disk is full; older versions still stand.
        """
        save_adapter(shared, TRAINED, self.path(version), info)
        policy = content_hash(self.path(version))
        shared.refresh(TRAINED, policy)
        versions = sorted(item for item in self.folder.iterdir() if item.name.isdigit())
        for old in versions[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)
        return policy

    def restore(self, version: int, adapter: Path) -> None:
        """Put a checkpoint's adapter back as a version: what stands there may be half copied or of a lost update."""
        folder = self.path(version)
        fresh = folder.with_name(f".{folder.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(adapter, fresh)
        shutil.rmtree(folder, ignore_errors=True)
        fresh.replace(folder)

    def known_as(self, policy: str, adapter: str | None) -> None:
        """Remember that a policy hash stands for a loaded adapter (None = the base)."""
        self._aliases[policy] = adapter

    def find(self, shared: SharedModel, policy: str) -> tuple[bool, str | None]:
        """Return whether a policy can speak today, and under which adapter name, loading it if need be."""
        names: list[str | None] = [None, *(name for name in (TRAINED, START) if name in shared.adapters)]
        for name in names:
            if shared.policy_hash(name) == policy:
                return True, name
        if policy in self._aliases:
            return True, self._aliases[policy]
        for folder in sorted(self.folder.glob("[0-9]*")) if self.folder.is_dir() else []:
            try:
                if content_hash(folder) == policy:
                    shared.add_adapter(OLDER, folder)
                    return True, OLDER
            except ConfigError:
                continue  # half-deleted: as good as gone
        return False, None
