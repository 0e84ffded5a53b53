"""A training run between iterations: players, optimiser, policy store and state; begun, resumed, saved, rolled back.

Where the run stands is one number of iterations; data position, seeds and schedules follow from it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType

from agents.adapters import AdapterInfo
from agents.errors import ConfigError
from agents.model import SharedModel
from agents.roster import ROLES
from training.adapter import START, TRAINED, save_adapter
from training.buffer import PLANNER
from training.checkpoint import HEALTHY, State, find_checkpoint, load_checkpoint, read_state, save_checkpoint, writing
from training.duals import ease, in_force
from training.gold import Gold
from training.players import Players, make_players
from training.policies import PolicyStore
from training.ppo_config import PPOConfig
from training.rollout import World
from training.update import Optimiser

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

    @property
    def output(self) -> Path:
        """Return the folder of the run."""
        return Path(self.config.output)

    def save(self) -> None:
        """Write a checkpoint: the second commit of an iteration.

        Raises:
            SetupError: The disk is full; the checkpoint before is untouched.
        """
        save_checkpoint(self.output, self.players, self.optimiser, self.store.path(self.state.version), self.state)

    def advance(self) -> None:
        """Give the trained adapter its next version, and keep it in the policy store.

        Raises:
            SetupError: The disk is full; the last checkpoint is untouched.
        """
        self.state.version += 1
        self.card = replace(self.card, version=self.state.version)
        self.players.shared.version = str(self.state.version)
        with writing(self.store.path(self.state.version), self.output):
            self.state.policy = self.store.add(self.players.shared, self.state.version, self.card)

    def name_roles(self, roles: Iterable[str]) -> None:
        """Add roles that were seen to learn to the adapter's card: a graph of one's own has its own."""
        known = self.card.roles if self.config.graph is None else tuple(set(self.card.roles) - set(ROLES))
        self.card = replace(self.card, roles=tuple(dict.fromkeys([*sorted(known), *sorted(roles)])))

    def roll_back(self, metrics: Mapping[str, float] = MappingProxyType({})) -> None:
        """Return to the last healthy checkpoint, skip this iteration's questions, and halve the learning rate.

        After a topology alarm, which rings when the collapse has lasted a whole window, that is the checkpoint from
        before the window; the prices that drove the collapse are lowered too (`training.duals.ease`).

        Args:
            metrics: Of the iteration that rang, alarms included.

        Raises:
            ConfigError: The checkpoint is damaged.
            SetupError: The disk is full.
        """
        lost, failed = self.state, in_force(self.config, self.state)
        collapsed = "alarm/topology" in metrics
        folder = find_checkpoint(self.output) or self.output
        if collapsed and (self.output / HEALTHY).is_dir():
            folder = self.output / HEALTHY
        self.state = load_checkpoint(folder, self.players, self.optimiser)
        with writing(self.store.path(self.state.version), self.output):
            self.store.restore(self.state.version, folder / "adapter")  # the store may have dropped it since
        self.state.iteration, self.state.rollbacks = lost.iteration + 1, lost.rollbacks + 1
        self.state.factor, self.state.mlflow_run = lost.factor / 2, lost.mlflow_run
        if collapsed:
            ease(self.config, self.state, failed, metrics)
        self.card = replace(self.card, version=self.state.version)

    def ship(self) -> Path:
        """Write the trained adapter, in half precision, as `<output>/adapter`, and return that folder.

        Raises:
            SetupError: The disk is full; the last checkpoint is untouched.
        """
        folder = self.output / "adapter"
        with writing(folder, self.output):
            save_adapter(self.players.shared, TRAINED, folder, self.card, half=True)
        return folder


def begin(
    config: PPOConfig, shared: SharedModel, worlds: Sequence[World], gold: Gold, prompts: str = "examples"
) -> Session:
    """Start a training run, or take up the one whose checkpoint stands in the output folder.

    Args:
        config: All options.
        shared: The loaded model; its adapters are made here.
        worlds: Questions and graphs; empty when a ledger is replayed.
        gold: Scores.
        prompts: Prompt set in force, for the adapter's card.

    Raises:
        ConfigError: The checkpoint is damaged or belongs to other options, or the adapter cannot be used.
    """
    found = find_checkpoint(Path(config.output))
    if found is not None:
        if not config.resume:
            raise ConfigError(f"{found} holds a checkpoint and resume is off; remove it, or give another output folder")
        _same_run(read_state(found).config, config, found)
    players, info = make_players(shared, config)
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
    session = Session(config, worlds, gold, players, optimiser, store, State(version=card.version), card)
    if found is None:
        session.state.start_policy, session.state.config = start, asdict(config)
        shared.version = str(card.version)
        with writing(store.path(card.version), session.output):
            session.state.policy = store.add(shared, card.version, card)
        session.save()
    else:
        session.state = load_checkpoint(found, players, optimiser)
        if session.state.start_policy != start:
            raise ConfigError(f"{found} began with another start adapter than {config.adapter}; put that one back")
        session.card = replace(card, version=session.state.version)
        with writing(store.path(session.state.version), session.output):
            store.restore(session.state.version, found / "adapter")
        _log.info("going on from %s: iteration %d", found, session.state.iteration)
    if players.start == START:
        store.known_as(start, START)
    return session


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
