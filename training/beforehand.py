"""What is refused before a model is loaded: options that would do nothing, and a ledger that cannot be learned from.

An option that is given and then ignored is worse than an error: the run ends well and has learned something else, or
nothing. What only the first executions can tell (which roles a graph of one's own has) is refused right after them.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from agents.adapters import CONFIG, read_adapter
from agents.errors import ConfigError, LedgerError
from agents.workflow import check_forced, parse_forced
from graphs.ledger import read_ledger
from training.adapter import LoraShape
from training.buffer import PLANNER, RolloutBuffer
from training.ppo_config import PPOConfig


def check_options(config: PPOConfig) -> None:
    """Refuse options of PPO that would do nothing, and a ledger that nobody can learn from.

    Raises:
        ConfigError: As named in the message.
        LedgerError: No ledger at the path, or no run in it.
    """
    if config.adapter is not None:
        shape = LoraShape(config.rank, config.lora_alpha, config.first_layer, tuple(config.targets))
        # the critic's own adapter is made here, and has these targets
        refuse_ignored(Path(config.adapter).expanduser(), shape, spared=["targets"] * (config.critic == "adapter"))
    if config.workflow is not None and config.graph is None:
        check_forced(parse_forced(config.workflow), config)
    if config.ledger is not None:
        _check_ledger(Path(config.ledger).expanduser(), config.train)


def refuse_ignored(adapter: Path, given: LoraShape, *, alpha: str = "lora_alpha", spared: Collection[str] = ()) -> None:
    """Refuse a shape beside an adapter that has another one; a default, or what it has, is fine.

    Args:
        adapter: The folder of the adapter to go on from.
        given: What the options say.
        alpha: The option's name for LoRA alpha.
        spared: Options that mean something else as well.

    Raises:
        ConfigError: A shape option differs from the adapter's, or the folder cannot be read.
    """
    own, usual = shape_of(adapter), LoraShape()
    names = {"rank": "rank", alpha: "alpha", "first_layer": "first_layer"}
    held = {option: getattr(own, name) for option, name in names.items()} | {"targets": sorted(own.targets)}
    asked = {option: getattr(given, name) for option, name in names.items()} | {"targets": sorted(given.targets)}
    free = {option: getattr(usual, name) for option, name in names.items()} | {"targets": sorted(usual.targets)}
    ignored = [name for name in held if name not in spared and asked[name] not in (free[name], held[name])]
    if ignored:
        wanted = ", ".join(f"{name}={asked[name]}" for name in ignored)
        has = ", ".join(f"{name}={held[name]}" for name in ignored)
        raise ConfigError(
            f"{wanted}: shapes a fresh adapter, and adapter {adapter} keeps its own ({has}); "
            f"leave {' and '.join(ignored)} out, or start without --adapter"
        )


def shape_of(adapter: Path) -> LoraShape:
    """Return the shape of an adapter in a folder, read without its weights.

    Raises:
        ConfigError: The folder holds no adapter of JADE's, or its configuration is corrupt.
    """
    read_adapter(adapter)
    try:
        found: dict[str, Any] = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
        layers, targets = found.get("layers_to_transform"), found["target_modules"]
        first = 0 if layers is None else layers if isinstance(layers, int) else min(layers)
        return LoraShape(
            rank=int(found["r"]),
            alpha=int(found["lora_alpha"]),
            first_layer=int(first),
            targets=(targets,) if isinstance(targets, str) else tuple(targets),
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"{adapter / CONFIG} is no configuration of an adapter ({error!r}); give a folder written by training"
        ) from None


def _check_ledger(ledger: Path, train: str) -> None:
    """Read a ledger up to the first run in which somebody speaks who is to learn."""
    runs, spoke = 0, set[str]()
    for run in read_ledger(ledger, on_problem=lambda problem: None):  # reported when it is replayed
        runs, spoke = runs + 1, spoke | {call.role for call in run.calls}
        if any(_learns(role, train) for role in spoke):
            return
    if not runs:
        raise LedgerError(f"ledger {ledger} holds no run; record some with `python -m training.collect`")
    if spoke:
        raise ConfigError(_idle(train, spoke, f"in {runs} runs of ledger {ledger}"))


def refuse_idle(buffer: RolloutBuffer, train: str) -> None:
    """Refuse to train on a first batch in which nobody speaks who is to learn.

    Raises:
        ConfigError: Not one call is trained.
    """
    if not any(row.trained for row in buffer.rows):
        spoke = {row.call.role for row in buffer.rows}
        raise ConfigError(_idle(train, spoke, f"in the first {len(buffer.trajectories)} runs"))


def _learns(role: str, train: str) -> bool:
    return train == "all" or (role == PLANNER) == (train == "planner")


def _idle(train: str, spoke: Collection[str], where: str) -> str:
    wanted = f"a role named {PLANNER!r}" if train == "planner" else f"a role other than {PLANNER!r}"
    return (
        f"train={train!r}, but {wanted} speaks nowhere {where} (who speaks: {', '.join(sorted(spoke))}), so nothing "
        "would be trained; take --train all and another output"
    )
