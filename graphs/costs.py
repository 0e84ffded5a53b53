"""What a run may cost, as a choice among adapters: those of a sweep over prices, one of which plays all roles of a run.

An adapter trained at high prices plans cheaply, one trained at none thoroughly; `cost="low"` takes the first. All of
them stand on one model, under one prompt set, so choosing costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agents.adapters import CARD, adapter_folder, content_hash, read_adapter
from agents.errors import ConfigError

Cost = Literal["low", "default", "high"]
CHOSEN = ("low", "high")
"""Costs that have an adapter of their own; "default" is the graph's own."""
Costs = str | Path | Mapping[str, str | Path]
"""A folder that holds low/ and high/, or cost → adapter folder, or the id of the MLflow run that logged it."""


@dataclass(frozen=True)
class Speaker:
    """Who plays a run instead of the graph's own adapters."""

    adapter: str
    """Name of the adapter in the model."""
    policy: str
    """Its content hash."""
    version: str
    """PPO updates behind it."""

    @property
    def identity(self) -> dict[str, str]:
        """Return what the records of its runs say in place of the default adapter's."""
        return {"policy": self.policy, "adapter": self.adapter, "version": self.version}


def cost_folders(costs: Costs | None, default: Path | None) -> dict[str, Path]:
    """Return cost → adapter folder.

    Args:
        costs: As the user gave them; None = low/ and high/ beside a default adapter whose folder is called default.
        default: Folder of the adapter that plays all roles, if there is one.

    Raises:
        ConfigError: An unknown cost, a folder that holds none, or an adapter that is not there.
    """
    if isinstance(costs, Mapping):
        unknown = [name for name in costs if name not in CHOSEN]
        if unknown:
            raise ConfigError(f"costs names {unknown}; allowed: {', '.join(CHOSEN)} (adapter= is the default one)")
        return {name: adapter_folder(folder) for name, folder in costs.items()}
    if costs is not None:
        found = _inside(Path(costs).expanduser())
        if not found:
            raise ConfigError(f"costs={str(costs)!r} holds no adapter; give a folder with low/ or high/ in it")
        return found
    return _inside(default.parent) if default is not None and default.name == "default" else {}


def _inside(folder: Path) -> dict[str, Path]:
    return {name: folder / name for name in CHOSEN if (folder / name / CARD).is_file()}


def adapter_name(cost: str) -> str:
    """Return the name under which the adapter of a cost is loaded."""
    return f"cost-{cost}"


def speakers(folders: Mapping[str, Path]) -> dict[str, Speaker]:
    """Return who plays at each cost, read from the folders alone.

    Raises:
        ConfigError: A folder holds no adapter.
    """
    return {
        cost: Speaker(adapter_name(cost), content_hash(folder), str(read_adapter(folder).version))
        for cost, folder in folders.items()
    }


def speaker_at(cost: str, known: Mapping[str, Speaker]) -> Speaker:
    """Return who plays at a cost.

    Raises:
        ConfigError: No adapter is loaded for it.
    """
    if cost in known:
        return known[cost]
    loaded = ", ".join(["default", *known])
    raise ConfigError(
        f"cost={cost!r}: no adapter is loaded for it; loaded: {loaded}. Give load_graph(costs={{{cost!r}: FOLDER}}), "
        f"or --costs FOLDER with {cost}/ in it; one beside an adapter folder called default is found by itself"
    )
