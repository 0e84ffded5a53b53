"""What flows through the graphs: plain JSON, with its reducers declared on the channels.

The state knows calls by id only; their tokens are in the run's journal. Gold answers never enter it. Against the
paper (§3.1, T_t): a node has one place where it is solved, so it cannot be planned twice (pending: not in
`solved`; expanded: has `items`; answered: its `Solved` record is there).
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import (
    Annotated,
    NotRequired,  # pydantic needs this TypedDict before Python 3.12
)

from typing_extensions import TypedDict


def union(left: list[str], right: Iterable[str]) -> list[str]:
    """Reduce call ids: each once, in the order of their first appearance; an empty update starts anew."""
    added = list(right)
    return list(dict.fromkeys([*left, *added])) if added else []


class Question(TypedDict):
    """Input of the graph."""

    question: str
    """What the user asks."""


class Source(TypedDict):
    """A passage by name."""

    id: str
    title: str


class Hop(TypedDict):
    """One sub-question of a run."""

    path: str
    """Node path such as "root/1"; nested hops follow their parent ("root/1/0")."""
    question: str
    """What was asked: `#k` replaced by hop k's answer."""
    raw_question: str
    """What the decomposer wrote."""
    answer: str
    skipped: NotRequired[str]
    """Why the hop was not run ("budget"); absent when it was."""


class Plan(TypedDict):
    """The workflow that ran at a node, as a tree."""

    path: str
    question: str
    plan: str
    """Such as "R,AG" or "QDS"."""
    children: list[Plan]
    """Plans of the hops that ran, in order."""
    planned: NotRequired[str]
    """What was planned, where something else ran (an invalid decomposition runs as a chain)."""


class Answered(TypedDict):
    """Output of every graph of ours; one that plans nothing has no more."""

    question: str
    answer: str
    evidence: list[Source]
    """Passages shown to the answer generators, best first, hop after hop."""
    citations: list[Source]
    """Those of them that contain their hop's answer, else the document selector's choice."""
    hops: list[Hop]
    turns: int
    """Planned rounds: chain 1, QDS 1 + Σ hops, QDP 1 + max hops (DESIGN §5)."""
    retrievals: int
    """Executed retrievals, cache hits included."""
    model_calls: int
    prompt_tokens: int
    generated_tokens: int
    budget_hit: bool
    """Whether a budget took something away: a hop was skipped, or no retrieval was left for its plan."""
    run: str | None
    """Id of the run in the ledger; None when it is not recorded."""
    warnings: list[str]
    calls: Annotated[list[str], union]
    """Ids of the calls, in the order their nodes ended."""


class Result(Answered):
    """Output of a graph that plans."""

    workflow: Plan


class Document(TypedDict):
    """A passage inside one chain."""

    number: int
    """Rank in the retrieval, from 0; stays the same up to the citations."""
    id: str
    title: str
    text: str
    score: float


class Known(TypedDict):
    """One line of the paper's trace T_t: a sub-question with its answer, None while unanswered."""

    question: str
    answer: str | None


class Solved(TypedDict):
    """What is known of a node once it is answered or skipped."""

    index: int
    """Position among its siblings, in send order."""
    path: str
    question: str
    raw_question: str
    answer: str
    evidence: list[Source]
    citations: list[Source]
    workflow: Plan | None
    """None for a skipped node."""
    hops: list[Hop]
    """The hops below this node, depth first."""
    turns: int
    retrievals: int
    budget_hit: bool
    skipped: NotRequired[str]


class NodeInput(TypedDict):
    """What a node of the workflow tree is given: its question and what it may spend."""

    question: str
    raw_question: str
    path: str
    """"root", "root/0", "root/0/1", …"""
    index: int
    main: str
    """The user's question."""
    trace: list[Known]
    """The blackboard when this node began: its elder relatives' sub-questions, answered or not."""
    select: str
    """"role" or "full" (`graphs.options.Options.select`)."""
    plan: str
    """The node's plan, or "" when the planner is to choose it."""
    planned: str
    """What was planned where `plan` is a repair of it, else ""."""
    below: str
    """The plan forced on its children, or "" when they are planned."""
    depth_left: int
    turns_left: int | None
    retrievals_left: int | None
    max_hops: int
    """Most items of a decomposition."""


class Calls(TypedDict):
    """Every graph's trace of calls; in no graph's input, or a subgraph would return its parent's again."""

    calls: Annotated[list[str], union]


class SolvedNode(Calls):
    """Output of a topology's graph."""

    solution: Solved


class SolvedHop(Calls):
    """Output of a hop's graph: reducer channels only, so that parallel hops do not collide."""

    solved: Annotated[list[Solved], operator.add]


class ChainState(NodeInput, SolvedNode):
    """State of a single-round chain."""

    query: NotRequired[str]
    documents: NotRequired[list[Document]]
    """What R returned."""
    selected: NotRequired[list[int]]
    """Numbers that DS kept; absent without DS, and where its response was invalid (then all are kept)."""


class DecomposedState(NodeInput, SolvedNode):
    """State of a decomposed node."""

    items: list[str]
    """Sub-questions as the decomposer wrote them; empty when its response was invalid."""
    solved: Annotated[list[Solved], operator.add]
    """Its hops so far."""


class HopState(NodeInput, SolvedNode):
    """State of one hop, from its plan to its answer."""

    solved: Annotated[list[Solved], operator.add]


class RunState(NodeInput, Result, SolvedNode):
    """State of the whole graph."""
