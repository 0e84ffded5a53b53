"""The plan grammar against arbitrary responses and forced plans, under every budget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from agents.errors import ConfigError, FormatError
from agents.workflow import BY_TEXT, PLANS, TAG, Grammar, Workflow, check_forced, parse_forced
from fuzz.material import Material
from fuzz.target import Target, hold

WORDS = (
    *(f"<{slash}{TAG}>" for slash in ("", "/")),
    *BY_TEXT,
    *("QDS/", "QDP/", "/", ",", " ", "QR,R,DS,AG", ", ", "\u00a0", "\t", "qds", "DS,AG", "R,AG,"),
)


@cache
def _grammar(depth: int, turns: int | None, retrievals: int | None) -> Grammar | None:
    """Return the grammar of a budget, once its own promises are checked; None without a turn left."""
    try:
        grammar = Grammar(depth, turns, retrievals)
    except ConfigError:
        hold(turns == 0, "a node with a turn left can be planned")
        return None
    hold(grammar.fallback() in grammar.plans, "the fallback is legal")
    for choice in grammar.constraint().choices:
        hold(grammar.parse(choice) in grammar.plans, f"{choice} may be sampled and is read")
    return grammar


def _check_grammar(data: bytes) -> None:
    material = Material(data)
    limits = (None, 0, 1, 2, 3, 64)
    depth, turns, retrievals = material.below(4), material.pick(limits), material.pick(limits)
    grammar, text = _grammar(depth, turns, retrievals), material.text()
    if grammar is None:
        return
    try:
        plan = grammar.parse(text)
    except FormatError as error:
        hold(error.text == text, "the error keeps the text")
        return
    hold(plan in PLANS and plan.fits(depth, turns, retrievals), f"{plan} fits what is left")
    hold(plan.plan in grammar.menu(), f"{plan} is on the menu")
    hold(grammar.parse(f"<{TAG}>{plan.plan}</{TAG}>") == plan, "a plan prints back to itself")


@dataclass(frozen=True)
class _Budgets:
    max_depth: int | None
    max_turns: int | None
    max_retrievals: int | None


def _check_forced(data: bytes) -> None:
    material = Material(data)
    budgets = _Budgets(*(material.pick((None, 0, 1, 2, 5)) for _ in range(3)))
    try:
        workflow = parse_forced(material.text())
    except ConfigError:
        return
    hold(parse_forced(str(workflow)) == workflow, f"{workflow} prints back to itself")
    hold(_depth(workflow) <= 2 and workflow.needs.depth == _depth(workflow), "at most two decompositions")
    try:
        check_forced(workflow, budgets)
    except ConfigError:
        return
    hold(workflow.fits(_most(budgets.max_depth), budgets.max_turns, budgets.max_retrievals), "what passed fits")


def _most(depth: int | None) -> int:
    return 64 if depth is None else depth


def _depth(workflow: Workflow) -> int:
    own = int(not workflow.modules)
    return own + (_depth(workflow.child) if workflow.child is not None else 0)


def _forced_seeds() -> Iterator[bytes]:
    for text in ("R,AG", "QDS/R,DS,AG", "QDS/QDP/QR,R,AG", "QDP / AG", "R,AG/R,AG"):
        yield b"\x00\x00\x00" + text.encode()
        yield b"\x03\x04\x03" + text.encode()


TARGETS = (
    Target(
        "plan_grammar",
        "a plan that fits what is left and prints back to itself, or FormatError; whatever may be sampled is read",
        _check_grammar,
        lambda: (b"\x01\x00\x00" + f"<{TAG}>{plan}</{TAG}>".encode() for plan in BY_TEXT),
        WORDS,
        120,
        500_000,
    ),
    Target(
        "forced_plan",
        "a workflow that prints back to itself, or ConfigError; what passes the budgets fits them",
        _check_forced,
        _forced_seeds,
        WORDS,
        120,
        1_000_000,
    ),
)
