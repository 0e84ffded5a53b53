"""Options of the mismatch meter: who plans, who executes, and the fixed workflow that planning must beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from agents.errors import ConfigError
from agents.planner import PLANNER
from evaluation.evaluate_config import EvalConfig


@dataclass
class MismatchConfig(EvalConfig):
    """Every planner over every set of executors, on one base: does planning help these executors or hurt them?

    A side is NAME=ADAPTER, where ADAPTER is what `python -m evaluation.evaluate` takes: "none", "shipped", a folder,
    an MLflow run id, "other" or "other:ADAPTER" for a second base model. The first of each list is the untrained side,
    the last the trained one. The systems of the evaluation follow from the two lists.
    """

    derived: ClassVar[tuple[str, ...]] = ("systems",)
    planners: list[str] = field(default_factory=lambda: ["untuned=none", "trained=shipped"])
    """Who plans, such as --planners "['start=shipped', 'alone=runs/p/adapter', 'joint=runs/j/adapter']"."""
    executors: list[str] = field(default_factory=lambda: ["untuned=none", "trained=shipped"])
    """Who executes; the same form."""
    fixed: str = "R,AG"
    """The workflow that each set of executors also runs without a planner."""
    also: list[str] = field(default_factory=lambda: ["R,DS,AG"])
    """Further workflows that each set of executors runs without a planner, compared with `fixed`: R,DS,AG is the
    document selector on and off; QDS/R,AG and QDP/R,AG are the decompositions."""
    decoding: str = "constrained"
    """The same for all, since what the grammars mend must not differ between cells: constrained or free."""
    output: str = "runs/mismatch"
    """Folder of records.jsonl, report.json, report.md, figures/ and ledger/; the same command goes on from it."""
    experiment: str | None = "jade-mismatch"
    """MLflow experiment; none = not tracked."""

    def __post_init__(self) -> None:
        """Refuse impossible values by name, and make the systems."""
        if self.systems not in (EvalConfig().systems, self._systems()):
            raise ConfigError("systems follows from planners and executors here; leave it out")
        if self.fixed in self.also:
            raise ConfigError(f"also names {self.fixed!r}, which is the fixed workflow")
        self.systems = self._systems()
        super().__post_init__()

    def sides(self, which: str) -> dict[str, str]:
        """Return name → adapter of "planners" or "executors".

        Raises:
            ConfigError: The list is empty, or two sides share a name.
        """
        found: dict[str, str] = {}
        for text in getattr(self, which):
            name, equals, adapter = (part.strip() for part in text.partition("="))
            adapter = adapter if equals else name
            if not name or not adapter or ";" in text:
                raise ConfigError(f"{which}: {text!r} is no NAME=ADAPTER, such as trained=runs/ppo/adapter")
            if name in found:
                raise ConfigError(f"{which} names {name!r} twice")
            found[name] = adapter
        if not found:
            raise ConfigError(f"{which} is empty; give at least one NAME=ADAPTER")
        return found

    def planned(self, planner: str, executors: str) -> str:
        """Return the system in which one adapter plans and another one executes."""
        plans, executes = self.sides("planners")[planner], self.sides("executors")[executors]
        return f"jade@{executes}" if plans == executes else f"jade@{PLANNER.name}={plans};*={executes}"

    def forced(self, plan: str, executors: str) -> str:
        """Return the system in which these executors run one plan."""
        return f"{plan}@{self.sides('executors')[executors]}"

    def plans(self) -> Sequence[str]:
        """Return the plans that every set of executors is forced to."""
        return list(dict.fromkeys([self.fixed, *self.also]))

    def _systems(self) -> list[str]:
        systems = []
        for executors in self.sides("executors"):
            systems += [self.planned(planner, executors) for planner in self.sides("planners")]
            systems += [self.forced(plan, executors) for plan in self.plans()]
        return list(dict.fromkeys(systems))
