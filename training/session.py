"""A training run between iterations: players, optimiser, policy store and state; begun, resumed, saved, rolled back.

Where the run stands is one number of iterations; data position, seeds and schedules follow from it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from agents.adapters import AdapterInfo
from agents.errors import ConfigError
from agents.model import SharedModel
from agents.roster import ROLES
from evaluation.ranks import ALONE, MACHINES, Ranks
from evaluation.shared_folder import check_folder
from training.adapter import START, TRAINED, save_adapter
from training.buffer import PLANNER
from training.checkpoint import HEALTHY, State, find_checkpoint, load_checkpoint, read_state, save_checkpoint, writing
from training.duals import ease, in_force
from training.gold import Gold
from training.health import WINDOWED
from training.kept import before, forget_after, keep
from training.players import Players, make_players
from training.policies import PolicyStore
from training.ppo_config import PPOConfig
from training.replayed import note_rollback
from training.rollout import World
from training.speaker import reach_server
from training.update import Optimiser

if TYPE_CHECKING:
    from agents.remote import RemotePolicy

_log = logging.getLogger("jade.ppo")
FIXED = (
    "model", "adapter", "train", "datasets", "graph", "data", "ledger", "seed", "questions", "runs", "estimator",
    "critic", "critic_rank", "rank", "lora_alpha", "first_layer", "targets", "temperature",
)  # fmt: skip
"""Options that a resumed run must share with its checkpoint; all others may be changed."""


@dataclass
class Session:
    """Everything that lives longer than an iteration."""

    config: PPOConfig
    worlds: Sequence[World]
    gold: Gold
    players: Players
    optimiser: Optimiser
    store: PolicyStore
    state: State
    card: AdapterInfo
    server: RemotePolicy | None = None
    """Who samples in place of the model here (`training.speaker`)."""

    @property
    def output(self) -> Path:
        """Return the folder of the run."""
        return Path(self.config.output)

    @property
    def ranks(self) -> Ranks:
        """Return the processes that train together; rank 0 writes for all."""
        return self.players.ranks

    def save(self) -> None:
        """Write a checkpoint: the second commit of an iteration.

        Raises:
            ConfigError: The ranks have not learned the same, bit for bit.
            SetupError: The disk is full; the checkpoint before is untouched.
        """
        if self.ranks.size > 1:
            self.ranks.alike("the weights", self.players.fingerprint(), MACHINES)
        policy, config = self.store.path(self.state.version), self.config

        def write() -> None:
            save_checkpoint(self.output, self.players, self.optimiser, policy, self.state)
            if config.on_alarm != "continue":
                keep(self.output, self.state.iteration, config.alarm_window)

        self.ranks.first(write)

    def healthy(self, metrics: Mapping[str, float]) -> Path:
        """Return the checkpoint to go back to: the last one, or the one from before the window of a windowed alarm.

        Args:
            metrics: Of the iteration that rang, alarms included.
        """
        if "alarm/topology" in metrics and (self.output / HEALTHY).is_dir():
            return self.output / HEALTHY
        last = find_checkpoint(self.output) or self.output
        if not any(f"alarm/{name}" in metrics for name in WINDOWED):
            return last
        return before(self.output, self.state.iteration - self.config.alarm_window) or last

    def advance(self) -> None:
        """Give the trained adapter its next version, and keep it in the policy store.

        Raises:
            SetupError: The disk is full; the last checkpoint is untouched.
        """
        self.state.version += 1
        self.card = replace(self.card, version=self.state.version)
        self.players.shared.version = str(self.state.version)
        self.publish()

    def publish(self) -> None:
        """Write the trained adapter as the version in force, and name the speaker after it.

        Raises:
            SetupError: The disk is full.
        """
        shared, version = self.players.shared, self.state.version

        def add() -> str:
            with writing(self.store.path(version), self.output):
                return self.store.add(shared, version, self.card)

        self.state.policy = self.ranks.first(add)
        if not self.ranks.leads:
            shared.refresh(TRAINED, self.state.policy)

    def restore(self, adapter: Path) -> None:
        """Put a checkpoint's adapter back into the policy store, which may have dropped it since.

        Raises:
            SetupError: The disk is full.
        """

        def put_back() -> None:
            with writing(self.store.path(self.state.version), self.output):
                self.store.restore(self.state.version, adapter)

        self.ranks.first(put_back)

    def name_roles(self, roles: Iterable[str]) -> None:
        """Add roles that were seen to learn to the adapter's card: a graph of one's own has its own."""
        known = self.card.roles if self.config.graph is None else tuple(set(self.card.roles) - set(ROLES))
        self.card = replace(self.card, roles=tuple(dict.fromkeys([*sorted(known), *sorted(roles)])))

    def roll_back(self, metrics: Mapping[str, float] = MappingProxyType({})) -> None:
        """Return to the last healthy checkpoint, skip this iteration's questions, and halve the learning rate.

        After a topology alarm the prices that drove the collapse are lowered too (`training.duals.ease`).

        Args:
            metrics: Of the iteration that rang, alarms included.

        Raises:
            ConfigError: The checkpoint is damaged.
            SetupError: The disk is full.
        """
        lost, failed = self.state, in_force(self.config, self.state)
        collapsed = "alarm/topology" in metrics
        folder = Path(self.ranks.first(lambda: str(self.healthy(metrics))))
        self.state = load_checkpoint(folder, self.players, self.optimiser)
        restored = self.state.iteration
        self.restore(folder / "adapter")
        self.ranks.first(lambda: forget_after(self.output, restored))
        self.state.iteration, self.state.rollbacks = lost.iteration + 1, lost.rollbacks + 1
        self.state.factor, self.state.mlflow_run = lost.factor / 2, lost.mlflow_run
        note_rollback(self.state, lost)
        if collapsed:
            ease(self.config, self.state, failed, metrics)
        self.card = replace(self.card, version=self.state.version)

    def ship(self) -> Path:
        """Write the trained adapter, in half precision, as `<output>/adapter`, and return that folder.

        Raises:
            SetupError: The disk is full; the last checkpoint is untouched.
        """
        folder = self.output / "adapter"

        def write() -> None:
            with writing(folder, self.output):
                save_adapter(self.players.shared, TRAINED, folder, self.card, half=True)

        self.ranks.first(write)
        return folder


def begin(
    config: PPOConfig,
    shared: SharedModel,
    worlds: Sequence[World],
    gold: Gold,
    prompts: str = "examples",
    ranks: Ranks = ALONE,
) -> Session:
    """Start a training run, or take up the one whose checkpoint stands in the output folder.

    Args:
        config: All options.
        shared: The loaded model; its adapters are made here.
        worlds: Questions and graphs; empty when a ledger is replayed.
        gold: Scores.
        prompts: Prompt set in force, for the adapter's card.
        ranks: The processes that train together.

    Raises:
        ConfigError: The checkpoint is damaged or belongs to other options, or adapter or server cannot be used.
        ServerError: The server does not answer.
    """
    _agree(config, shared, ranks)
    place = ranks.first(lambda: str(find_checkpoint(Path(config.output)) or ""))
    found = Path(place) if place else None
    if found is not None:
        if not config.resume:
            raise ConfigError(f"{found} holds a checkpoint and resume is off; remove it, or give another output folder")
        _same_run(read_state(found).config, config, found)
    players, info = make_players(shared, config)
    players.ranks = ranks
    store = PolicyStore(Path(config.output) / "policies", config.keep_policies)
    card = AdapterInfo(
        text=shared.identity["text"],
        base=shared.name,
        base_weights=shared.weights,
        prompts=info.prompts if info is not None else prompts,
        temperature=config.temperature,
        roles=_roles(config.train),
        version=info.version if info is not None else 0,
    )
    optimiser = Optimiser(players, config)
    start = shared.policy_hash(players.start)
    server = reach_server(config.server, shared)
    session = Session(config, worlds, gold, players, optimiser, store, State(version=card.version), card, server)
    if found is None:
        session.state.start_policy, session.state.config = start, asdict(config)
        shared.version = str(card.version)
        session.publish()
        session.save()
    else:
        session.state = load_checkpoint(found, players, optimiser)
        if session.state.start_policy != start:
            raise ConfigError(f"{found} began with another start adapter than {config.adapter}; put that one back")
        session.card = replace(card, version=session.state.version)
        session.restore(found / "adapter")
        _log.info("going on from %s: iteration %d", found, session.state.iteration)
    if players.start == START:
        store.known_as(start, START)
    return session


def _agree(config: PPOConfig, shared: SharedModel, ranks: Ranks) -> None:
    """Check that all ranks begin alike: options, base model, number format, folder.

    Raises:
        ConfigError: They do not; the message names the ranks that differ.
    """
    if ranks.size == 1:
        return
    options = {name: value for name, value in asdict(config).items() if name not in ("device", "threads")}
    ranks.alike("the options", options, "start the same command on every machine")
    base = [shared.identity["text"], shared.weights, shared.identity["dtype"]]
    ranks.alike("base model or number format", base, "give the same --model and --dtype everywhere")
    check_folder(Path(config.output), ranks)


def _roles(train: str) -> tuple[str, ...]:
    """Return the names of JADE's roles that are trained."""
    if train == "planner":
        return (PLANNER,)
    return tuple(role for role in ROLES if train == "all" or role != PLANNER)


def _same_run(saved: Mapping[str, object], config: PPOConfig, folder: Path) -> None:
    """Refuse to go on with options that would make another run of it.

    Raises:
        ConfigError: They differ; the message names each.
    """
    now = asdict(config)
    changed = [
        f"{name}: {saved[name]!r} → {now[name]!r}" for name in FIXED if name in saved and saved[name] != now[name]
    ]
    if changed:
        raise ConfigError(f"{folder} was made with other options ({'; '.join(changed)}); use them, or another output")
