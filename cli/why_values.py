"""What `jade why --critic` adds: a PPO run's critic beside the Monte-Carlo values of the same states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.counterfactual_result import Explanation
from graphs.trajectory import Trajectory
from training.duals import in_force
from training.gold import load_score
from training.recorded_credit import Terms
from training.restored import load_critic, read_past, values_of
from training.value_check import Agreement, StateValue, agreement, state_values

if TYPE_CHECKING:
    from training.players import Players


class Checks:
    """The critic of a PPO run, loaded when it is first asked, and what that run says of adapter, prices and answers."""

    def __init__(self, folder: Path) -> None:
        """Read the newest checkpoint's options.

        Raises:
            ConfigError: There is none, or its score function cannot be imported.
        """
        self._past = read_past(folder)
        config = self._past.config
        self.adapter = self._past.folder / "adapter"
        self.model, self.graph, self.answers = config.model, config.graph, config.answers or config.data
        self.score = load_score(config.score)
        prices = in_force(config, self._past.state)
        self._terms = Terms(prices.alpha, prices.beta, config.format_penalty, config.gamma, config.lam)

    @cached_property
    def _players(self) -> Players:
        return load_critic(self._past)

    def values(self, run: Trajectory) -> Mapping[str, tuple[float, float]]:
        """Return the critic's V and V^f of each call of a run.

        Raises:
            ConfigError: The critic has not learned, or belongs to another model or prompt set.
        """
        return values_of(self._players, run, self._past.config.token_budget)

    def compare(self, explanation: Explanation, values: Mapping[str, tuple[float, float]]) -> list[StateValue]:
        """Return both values of each state of a run.

        Raises:
            ConfigError: The run has no gold answer.
        """
        return state_values(explanation, values, self._terms)

    def agreement(self, states: Sequence[StateValue]) -> Agreement:
        """Return how well both agree.

        Raises:
            ConfigError: There are no states.
        """
        return agreement(states)

    def to_json(self, states: Sequence[StateValue]) -> dict[str, Any]:
        """Return both values of all states, and how well they agree, as a JSON object."""
        return {"states": [asdict(state) for state in states], "agreement": agreement(states).to_json()}
