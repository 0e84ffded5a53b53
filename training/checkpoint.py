"""Checkpoints that are whole or not there: written beside the old one, then renamed; the previous one survives.

    checkpoint/ adapter/  heads.safetensors  optimizer.safetensors  [critic/]  state.json

Nothing is pickled. `state.json` holds the position of the run, and the size and hash of every other file, so that a
truncated or corrupt checkpoint is named rather than half loaded.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from agents.adapters import content_hash
from agents.errors import ConfigError, SetupError
from training.adapter import TRAINED
from training.players import CRITIC, Players
from training.update import Optimiser

LATEST, PREVIOUS, FRESH = "checkpoint", "checkpoint.previous", ".checkpoint.new"
HEALTHY = "checkpoint.healthy"
"""Kept while a topology is taking over: the checkpoint whose policy acted before that began."""
FORMAT = 1


@dataclass
class State:
    """Where a training run stands."""

    iteration: int = 0
    """Iterations finished: data position, schedules and seeds all follow from it."""
    version: int = 0
    """Policy version: updates behind the trained adapter."""
    factor: float = 1.0
    """On the learning rate; halved by each rollback."""
    rollbacks: int = 0
    critic_started: bool = False
    """Whether the value head has its first bias."""
    start_policy: str = ""
    """Policy hash of the start adapter."""
    policy: str = ""
    """Policy hash of the trained adapter."""
    segment: str = ""
    """Name of the last ledger segment that was trained on."""
    read: int = 0
    """Batches of a replayed ledger that were read, those that were left out included (`training.replayed`)."""
    learned: int = 0
    """Runs of a replayed ledger that were learned from."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Reason → runs of a replayed ledger that were not."""
    alpha: float | None = None
    """Price α of the next iteration where a target moves it (`training.duals`); none = the configuration's."""
    beta: float | None = None
    """Price β, likewise."""
    mlflow_run: str | None = None
    history: dict[str, list[float]] = field(default_factory=dict)
    """What the health alarms remember: metric → one value an iteration."""
    config: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(output: Path, players: Players, optimiser: Optimiser, policy: Path, state: State) -> None:
    """Write a checkpoint, all or nothing.

    Args:
        output: Folder of the run.
        players: Whose critic is saved.
        optimiser: Its Adam states.
        policy: Folder of the trained adapter as the policy store wrote it; copied.
        state: Where the run stands.

    Raises:
        SetupError: The disk is full or read-only; the checkpoint before is untouched.
    """
    fresh = output / FRESH
    with writing(fresh, output):
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        shutil.copytree(policy, fresh / "adapter")
        _save(players.head.state_dict(), fresh / "heads.safetensors")
        tensors, steps = _adam_tensors(optimiser)
        _save(tensors, fresh / "optimizer.safetensors")
        if players.own_critic:
            players.shared.adapter_set.save(CRITIC, fresh / "critic")
        listed = {str(path.relative_to(fresh)): _digest(path) for path in sorted(fresh.rglob("*")) if path.is_file()}
        record = {"format": FORMAT, "steps": steps, "files": listed, "state": asdict(state)}
        (fresh / "state.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
        for path in [*fresh.rglob("*"), fresh]:
            _sync(path)
        _swap(output)


@contextmanager
def writing(folder: Path, output: Path) -> Iterator[None]:
    """Name what cannot be written, and leave nothing half-written of it behind.

    Args:
        folder: What is being written.
        output: Folder of the run, whose last checkpoint stands whatever happens.

    Raises:
        SetupError: The disk is full or read-only.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        fresh = folder if folder.name == FRESH else folder.with_name(f".{folder.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        raise SetupError(
            f"{folder} cannot be written ({_line(error)}); the last checkpoint in {output} is untouched: free the "
            "disk and run the same command again"
        ) from error


def _swap(output: Path) -> None:
    """Put the fresh checkpoint in place; at every moment `checkpoint` or `checkpoint.previous` is whole."""
    latest, previous = output / LATEST, output / PREVIOUS
    if latest.exists():
        shutil.rmtree(previous, ignore_errors=True)
        os.replace(latest, previous)
    os.replace(output / FRESH, latest)
    _sync(output)


def keep_healthy(output: Path, collapsing: bool) -> None:
    """Keep the checkpoint from before a collapse for as long as it lasts; call before the iteration is saved.

    `checkpoint` holds the policy that acted in this iteration, `checkpoint.previous` the one that acted before it.

    Args:
        output: Folder of the run.
        collapsing: Whether one topology had almost all executions of this iteration.

    Raises:
        SetupError: The disk is full or read-only.
    """
    kept, previous = output / HEALTHY, output / PREVIOUS
    fresh = output / f".{HEALTHY}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    if not collapsing and kept.is_dir():
        kept.replace(fresh)  # so that no half-deleted one stands if we are killed here
        shutil.rmtree(fresh, ignore_errors=True)
    if collapsing and not kept.is_dir() and previous.is_dir():
        with writing(kept, output):
            shutil.copytree(previous, fresh)
            fresh.replace(kept)


def find_checkpoint(output: Path) -> Path | None:
    """Return the newest checkpoint folder of a run's output folder; None when there is none."""
    return next((output / name for name in (LATEST, PREVIOUS) if (output / name).is_dir()), None)


def read_state(folder: Path) -> State:
    """Read and verify a checkpoint's record without loading any weights.

    Raises:
        ConfigError: A file is missing, truncated or corrupt; the message names it.
    """
    record = _record(folder)
    known = {item.name for item in fields(State)}
    return State(**{name: value for name, value in record["state"].items() if name in known})


def load_checkpoint(folder: Path, players: Players, optimiser: Optimiser) -> State:
    """Put a checkpoint's weights and Adam states into place, bit for bit.

    Raises:
        ConfigError: The checkpoint is damaged, or belongs to another adapter shape or critic.
    """
    state, record = read_state(folder), _record(folder)
    try:
        _fill(players.shared.adapter_set.parameters(TRAINED), folder / "adapter", TRAINED)
        players.head.load_state_dict(load_file(folder / "heads.safetensors"))
        if players.own_critic:
            _fill(players.shared.adapter_set.parameters(CRITIC), folder / "critic", CRITIC)
        _load_adam(optimiser, load_file(folder / "optimizer.safetensors"), record["steps"])
    except (SafetensorError, RuntimeError, KeyError, OSError, ValueError) as error:
        raise ConfigError(
            f"checkpoint {folder} does not fit this run ({_line(error)}); give the options it was made with, or "
            "another output folder"
        ) from error
    players.shared.refresh(TRAINED, content_hash(folder / "adapter"))
    players.shared.version = str(state.version)
    return state


def _fill(parameters: Mapping[str, torch.nn.Parameter], folder: Path, name: str) -> None:
    """Copy saved adapter weights into parameters of the same names."""
    saved = load_file(folder / "adapter_model.safetensors")
    with torch.no_grad():
        for key, parameter in parameters.items():
            short = f".{key}".replace(f".{name}.", ".")
            found = next(item for item in saved if item.endswith(short))
            parameter.copy_(saved[found])
            parameter.requires_grad_(True)
    if len(saved) != len(parameters):
        raise ValueError(f"{folder} holds {len(saved)} tensors, the adapter has {len(parameters)}")


def _adam_tensors(optimiser: Optimiser) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return Adam's moments by "<parameter number>.<name>", and its step counts."""
    tensors: dict[str, Tensor] = {}
    steps: dict[str, float] = {}
    for number, entry in optimiser.adam.state_dict()["state"].items():
        for name, value in entry.items():
            if name == "step":
                steps[str(number)] = float(value)
            else:
                tensors[f"{number}.{name}"] = value
    return tensors, steps


def _load_adam(optimiser: Optimiser, tensors: Mapping[str, Tensor], steps: Mapping[str, float]) -> None:
    table = optimiser.adam.state_dict()
    state: dict[int, dict[str, Tensor]] = {int(number): {"step": torch.tensor(step)} for number, step in steps.items()}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        state[int(number)][name] = value
    optimiser.adam.load_state_dict({**table, "state": state})


def _record(folder: Path) -> dict[str, Any]:
    """Return `state.json` after checking every file it names.

    Raises:
        ConfigError: A file is missing, truncated or corrupt.
    """
    remedy = f"remove {folder}: the run goes on from {PREVIOUS} beside it, if there is one"
    try:
        record: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        files, version = dict(record["files"]), record["format"]
        _ = record["state"]["iteration"], record["steps"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder / 'state.json'} is missing or corrupt ({_line(error)}); {remedy}") from error
    if version != FORMAT:
        raise ConfigError(f"{folder} has checkpoint format {version}, this version reads {FORMAT}; {remedy}")
    for name, (size, digest) in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise ConfigError(f"{path} is missing or truncated ({size} bytes expected); {remedy}")
        if _digest(path)[1] != digest:
            raise ConfigError(f"{path} is corrupt (its hash has changed); {remedy}")
    return record


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, path)


def _digest(path: Path) -> tuple[int, str]:
    digest = blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return path.stat().st_size, digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__} {error}".split())[:300]
