"""Who plays in PPO: the trained adapter, the frozen start adapter, and the critic, all on one shared model.

The start adapter is a copy of what PPO began with: the reference of the KL, and the player of frozen roles; it is the
bare base when PPO begins there. The critic is a value head on the policy's hidden states, or on those of a small
adapter of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from agents.adapters import AdapterInfo, read_adapter
from agents.call import Call
from agents.model import SharedModel
from evaluation.ranks import ALONE, Ranks
from training.adapter import START, TRAINED, LoraShape, create_adapter, first_adapted_layer
from training.buffer import PLANNER
from training.critic import ValueHead
from training.learner import Learner, Scores
from training.minibatch import Microbatch

CRITIC = "critic"
"""Name of the critic's own adapter in the shared model."""


@dataclass
class Players:
    """The adapters, the critic, and the forward passes that training needs of them."""

    shared: SharedModel
    learner: Learner
    start: str | None
    """Name of the frozen start adapter; None = the bare base."""
    train: str
    """all, planner, executors."""
    head: ValueHead
    own_critic: bool
    """Whether the critic has its own adapter."""
    ranks: Ranks = ALONE
    """The processes that train together; each holds all of the above."""

    def adapters(self) -> dict[str, str | None]:
        """Return role → adapter while collecting: frozen roles are played by the start adapter."""
        if self.train == "planner":
            return {PLANNER: TRAINED, "*": self.start}
        if self.train == "executors":
            return {PLANNER: self.start, "*": TRAINED}
        return {"*": TRAINED}

    def policy_parameters(self) -> list[nn.Parameter]:
        """Return the trained adapter's parameters, in fp32."""
        return self.learner.parameters(TRAINED)

    def critic_parameters(self) -> list[nn.Parameter]:
        """Return the critic's parameters, in fp32."""
        own = self.learner.parameters(CRITIC) if self.own_critic else []
        return [*self.head.parameters(), *own]

    def fingerprint(self) -> list[str]:
        """Return digests of all that learns: trained adapter, value head, the critic's adapter."""
        head = torch.cat([parameter.detach().reshape(-1).cpu() for parameter in self.head.parameters()])
        adapters = [TRAINED, *([CRITIC] if self.own_critic else [])]
        named = [self.shared.adapter_set.fingerprint(name) for name in adapters]
        return [*named, blake2b(head.numpy().tobytes(), digest_size=16).hexdigest()]

    def value(self, batch: Microbatch, policy_hidden: Tensor | None, *, tokens: bool, keep: bool) -> Tensor:
        """Return the critic's values: (B, 2) per call, or (B, T) per response token.

        Args:
            batch: B rows.
            policy_hidden: (B, T, H) of the trained adapter if at hand; detached here. Unused with an own adapter.
            tokens: Values per response token (`broadcast`).
            keep: Keep the trunk's states.
        """
        if self.own_critic:
            hidden = self.learner.hidden(batch, CRITIC, keep=keep)
        elif policy_hidden is not None:
            hidden = policy_hidden.detach()
        else:
            with torch.no_grad():
                hidden = self.learner.hidden(batch, TRAINED, keep=keep)
        values: Tensor = self.head(hidden if tokens else hidden[:, 0])
        return values[..., 0] if tokens else values

    def score(
        self, batch: Microbatch, calls: Sequence[Call], who: str | None, entropy_gradient: bool = False
    ) -> Scores:
        """Return log-probabilities and hidden states of some rows under an adapter, keeping the trunk's states."""
        return self.learner.score(batch, calls, who, keep=True, entropy_gradient=entropy_gradient)


class AdapterOptions(Protocol):
    """The part of a configuration that decides the players."""

    adapter: str | None
    train: str
    critic: str
    critic_rank: int
    rank: int
    lora_alpha: int
    first_layer: int | None
    targets: list[str]
    seed: int


def make_players(shared: SharedModel, options: AdapterOptions) -> tuple[Players, AdapterInfo | None]:
    """Load or create the adapters and the critic.

    Returns:
        The players, and the card of the start adapter (None when PPO starts from the base).

    Raises:
        ConfigError: The adapter belongs to another base or text, or cannot be created.
    """
    info, start = None, None
    if options.adapter is not None:
        folder = Path(options.adapter).expanduser()
        read_adapter(folder, base_weights=shared.weights, text=shared.identity["text"])
        info, start = shared.add_adapter(START, folder), START
        shared.add_adapter(TRAINED, folder, trainable=True)
    else:
        shape = LoraShape(options.rank, options.lora_alpha, options.first_layer, tuple(options.targets))
        create_adapter(shared, shape, options.seed)
    names = [TRAINED] if start is None else [TRAINED, START]
    if options.critic == "adapter":
        first = first_adapted_layer(shared, names)
        shape = LoraShape(options.critic_rank, 2 * options.critic_rank, first, tuple(options.targets))
        create_adapter(shared, shape, options.seed + 1, CRITIC)
        names.append(CRITIC)
    for name in names:
        for parameter in shared.adapter_set.parameters(name).values():
            parameter.data = parameter.data.float()
    shared.adapter = TRAINED
    learner = Learner(shared, first_adapted_layer(shared, names))
    head = ValueHead(learner.width).to(learner.device)
    players = Players(shared, learner, start, options.train, head, options.critic == "adapter")
    if start is not None:
        for parameter in shared.adapter_set.parameters(start).values():
            parameter.requires_grad_(False)
    return players, info
