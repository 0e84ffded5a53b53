"""The plan grammar: which workflows exist, and which of them a node may choose.

    plan := QDS | QDP | chain        chain := [QR] [R] [DS] AG, DS only after R: six legal chains

One `Grammar` object makes the planner's menu, the validator, the constrained decoder and the documentation,
and the chain graph takes its edges from `CHAINS`, so that they cannot disagree. Against the released code:
`DS,AG` and trailing commas are refused, and QDP is on the menu. Tokens are case-sensitive; spaces around
commas are allowed, nothing else is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from itertools import combinations
from typing import NamedTuple, Protocol

from agents.call import Constraint
from agents.errors import ConfigError, FormatError
from agents.role import read_tag

TAG = "workflow"


class Module(StrEnum):
    """A step of a single-round chain, in execution order; each member carries its menu sentence."""

    sentence: str

    def __new__(cls, value: str, sentence: str) -> Module:
        """Attach the menu sentence to the token."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.sentence = sentence
        return member

    QR = "QR", "rewrites the search query"
    R = "R", "retrieves documents"
    DS = "DS", "keeps the useful ones"
    AG = "AG", "answers"


class Topology(Enum):
    """The shape of a workflow; each member carries its menu sentence."""

    sentence: str

    def __new__(cls, value: str, sentence: str) -> Topology:
        """Attach the menu sentence to the name."""
        member = object.__new__(cls)
        member._value_ = value
        member.sentence = sentence
        return member

    SINGLE_ROUND = "SINGLE_ROUND", "runs one chain of modules"
    QDS = "QDS", "splits into steps that need earlier answers"
    QDP = "QDP", "splits into independent parts"

    def turns(self, children: Sequence[int]) -> int:
        """Return the turns of a node from its children's (DESIGN §5): 1, 1 + Σ (QDS) or 1 + max (QDP)."""
        if self is Topology.QDS:
            return 1 + sum(children)
        return 1 + max(children, default=0) if self is Topology.QDP else 1


def _chains() -> tuple[tuple[Module, ...], ...]:
    optional = (Module.QR, Module.R, Module.DS)
    picks = [pick for size in range(4) for pick in combinations(optional, size)]
    return tuple((*pick, Module.AG) for pick in picks if Module.DS not in pick or Module.R in pick)


CHAINS = _chains()
"""The six legal chains, shortest first."""


class Needs(NamedTuple):
    """The least that a workflow must be granted to run."""

    depth: int
    turns: int
    retrievals: int


@dataclass(frozen=True)
class Workflow:
    """One plan: a chain, or a decomposition whose children follow `child` (None: they are planned)."""

    topology: Topology
    modules: tuple[Module, ...] = ()
    child: Workflow | None = None

    def __post_init__(self) -> None:
        """Refuse what the grammar does not hold.

        Raises:
            ValueError: A chain that is none of `CHAINS` or has a child, or a decomposition with modules.
        """
        chain = self.topology is Topology.SINGLE_ROUND
        if (self.modules not in CHAINS) if chain else bool(self.modules):
            raise ValueError(f"{self.topology.value} cannot have the modules {','.join(self.modules)!r}")
        if chain and self.child is not None:
            raise ValueError("a chain has no child plan")

    @property
    def plan(self) -> str:
        """Return the node's own plan, such as "R,AG" or "QDS"."""
        return ",".join(self.modules) if self.modules else self.topology.value

    def __str__(self) -> str:
        return self.plan if self.child is None else f"{self.plan}/{self.child}"

    @property
    def needs(self) -> Needs:
        """Return the least depth, turns (two hops for QDS) and retrievals (one hop's) that it runs with."""
        if self.topology is Topology.SINGLE_ROUND:
            return Needs(0, 1, int(Module.R in self.modules))
        below = self.child.needs if self.child is not None else Needs(0, 1, 0)
        turns = self.topology.turns([below.turns, below.turns])
        return Needs(1 + below.depth, turns, below.retrievals)

    def fits(self, depth_left: int, turns_left: int | None, retrievals_left: int | None) -> bool:
        """Return whether depth and budgets (None = no limit) let it run."""
        needs = self.needs
        return (
            needs.depth <= depth_left
            and (turns_left is None or needs.turns <= turns_left)
            and (retrievals_left is None or needs.retrievals <= retrievals_left)
        )


PLANS = (
    *(Workflow(Topology.SINGLE_ROUND, chain) for chain in CHAINS),
    Workflow(Topology.QDS),
    Workflow(Topology.QDP),
)
"""Every plan that one node can have; the order of menus and of constrained choices."""
BY_TEXT = {workflow.plan: workflow for workflow in PLANS}
_ALL = ", ".join(BY_TEXT)


@dataclass(frozen=True)
class Grammar:
    """The plans that one node may choose, given the depth and the budgets that are left.

    Raises:
        ConfigError: No turn is left; such a node is skipped, not planned.
    """

    depth_left: int = 2
    turns_left: int | None = None
    retrievals_left: int | None = None

    def __post_init__(self) -> None:
        """Make sure that at least `AG` is legal."""
        if self.turns_left is not None and self.turns_left < 1:
            raise ConfigError(f"turns_left={self.turns_left}: a plan needs at least one turn")

    @property
    def plans(self) -> tuple[Workflow, ...]:
        """Return the legal plans, in the order of `PLANS`."""
        return tuple(plan for plan in PLANS if plan.fits(self.depth_left, self.turns_left, self.retrievals_left))

    def menu(self) -> str:
        """Return the legal plans and what their parts do, for the planner's prompt."""
        plans = self.plans
        modules = [module for module in Module if any(module in plan.modules for plan in plans)]
        parts = [f"{module.value} {module.sentence}" for module in modules]
        parts += [f"{plan.plan} {plan.topology.sentence}" for plan in plans if not plan.modules]
        return f"Plans: {'; '.join(plan.plan for plan in plans)}.\n{'; '.join(parts)}."

    def parse(self, text: str) -> Workflow:
        """Read a complete response such as `<workflow>R,AG</workflow>`.

        Raises:
            FormatError: Not exactly one workflow tag, no plan at all, or a plan that does not fit here.
        """
        plan = ",".join(token.strip(" ") for token in read_tag(text, TAG).split(","))
        if plan not in BY_TEXT:
            raise FormatError("not a plan", text)
        if BY_TEXT[plan] not in self.plans:
            raise FormatError("a plan beyond depth or budget", text)
        return BY_TEXT[plan]

    def constraint(self) -> Constraint:
        """Return the complete responses that constrained decoding may produce."""
        return Constraint(choices=tuple(f"<{TAG}>{plan.plan}</{TAG}>" for plan in self.plans))

    def fallback(self) -> Workflow:
        """Return the plan of an invalid response: QDS; R,AG without depth or turns; AG without retrievals."""
        return next(BY_TEXT[plan] for plan in ("QDS", "R,AG", "AG") if BY_TEXT[plan] in self.plans)

    def markdown(self) -> str:
        """Return the legal plans as a Markdown table, for the documentation."""
        rows = ["| plan | depth | turns | retrievals | what runs |", "|---|---|---|---|---|"]
        for plan in self.plans:
            parts = [(module.value, module.sentence) for module in plan.modules]
            runs = parts or [(plan.topology.value, plan.topology.sentence)]
            does = "; ".join(f"{name} {sentence}" for name, sentence in runs)
            needs = plan.needs
            rows.append(f"| `{plan.plan}` | {needs.depth} | {needs.turns} | {needs.retrievals} | {does} |")
        return "\n".join(rows)


def parse_forced(text: str) -> Workflow:
    """Read a forced plan such as "R,AG" or "QDS/R,DS,AG": children's plans follow a slash.

    Raises:
        ConfigError: A part is no plan, a chain has children, or there are more than two decompositions.
    """
    parts = [",".join(token.strip(" ") for token in part.split(",")) for part in text.split("/")]
    problem = ""
    for position, part in enumerate(parts):
        if part not in BY_TEXT:
            problem = f"{part!r} is no plan"
        elif BY_TEXT[part].modules and position < len(parts) - 1:
            problem = f"the chain {part!r} cannot have children"
        elif not BY_TEXT[part].modules and position > 1:
            problem = "more than two decompositions"
        if problem:
            raise ConfigError(
                f"workflow={text!r}: {problem}; allowed: {_ALL}, where QDS and QDP may be followed by a "
                "slash and their children's plan, such as 'QDS/R,DS,AG' or 'QDS/QDP/R,AG'"
            )
    workflow: Workflow | None = None
    for part in reversed(parts):
        workflow = Workflow(BY_TEXT[part].topology, BY_TEXT[part].modules, workflow)
    assert workflow is not None  # split returns at least one part
    return workflow


class Budgets(Protocol):
    """The part of `graphs.options.Options` that a forced plan is checked against; None = no limit."""

    @property
    def max_depth(self) -> int | None:
        """Return the deepest decomposition allowed."""

    @property
    def max_turns(self) -> int | None:
        """Return the most turns of a run."""

    @property
    def max_retrievals(self) -> int | None:
        """Return the most retrievals of a run."""


def check_forced(workflow: Workflow, budgets: Budgets) -> None:
    """Refuse a forced plan that could not run under `budgets`.

    Raises:
        ConfigError: It needs more depth, turns or retrievals than allowed; the message says which.
    """
    for name, need, allowed in zip(
        ("max_depth", "max_turns", "max_retrievals"),
        workflow.needs,
        (budgets.max_depth, budgets.max_turns, budgets.max_retrievals),
        strict=True,
    ):
        if allowed is not None and need > allowed:
            raise ConfigError(
                f"workflow={str(workflow)!r} needs {name} of at least {need}, but {name}={allowed}; "
                f"raise {name} or force another plan ({_ALL})"
            )
