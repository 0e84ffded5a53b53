"""The plan grammar: what is accepted, what is refused, and that its five faces agree."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.errors import ConfigError, FormatError
from agents.workflow import (
    CHAINS,
    PLANS,
    Grammar,
    Module,
    Needs,
    Topology,
    Workflow,
    check_forced,
    parse_forced,
)

SIX = {"AG", "QR,AG", "R,AG", "QR,R,AG", "R,DS,AG", "QR,R,DS,AG"}
FULL = Grammar(depth_left=1)


def plans(*budgets: int | None) -> set[str]:
    return {workflow.plan for workflow in Grammar(*budgets).plans}  # type: ignore[arg-type]


def test_the_six_chains() -> None:
    assert {",".join(chain) for chain in CHAINS} == SIX
    assert len(PLANS) == 8


@pytest.mark.parametrize("plan", [*sorted(SIX), "QDS", "QDP"])
def test_every_legal_plan_round_trips(plan: str) -> None:
    workflow = FULL.parse(f"<workflow>{plan}</workflow>")
    assert workflow.plan == str(workflow) == plan
    assert parse_forced(plan) == workflow


@pytest.mark.parametrize("text", ["R , AG", " R,AG ", "R, AG"])
def test_spaces_around_commas_are_allowed(text: str) -> None:
    assert FULL.parse(f"<workflow>{text}</workflow>").modules == (Module.R, Module.AG)


@pytest.mark.parametrize(
    "plan",
    [
        "DS,AG",
        "QR,DS,AG",
        "R,DS",
        "R",
        "QR",
        "R,R,AG",
        "AG,R",
        "DS,R,AG",
        "QDS,",
        "AG,",
        ",AG",
        ",",
        "",
        "qds",
        "r,ag",
        "AS",
        "R,AG,AS",
        "QDS,AG",
        "R AG",
        "R\tAG",
        "R,\nAG",
        "QDS/R,AG",
    ],
)
def test_everything_else_is_refused(plan: str) -> None:
    with pytest.raises(FormatError):
        FULL.parse(f"<workflow>{plan}</workflow>")


@pytest.mark.parametrize(
    "text",
    [
        "R,AG",
        "<workflow>R,AG",
        "R,AG</workflow>",
        "<Workflow>R,AG</Workflow>",
        "<workflow>R,AG</workflow> ok",
        "<workflow>R,AG</workflow><workflow>AG</workflow>",
        "<workflow>",
        "",
    ],
)
def test_the_tag_must_be_the_whole_response(text: str) -> None:
    with pytest.raises(FormatError):
        FULL.parse(text)


@given(st.text() | st.text(alphabet="<>/workflQRDSAGP, "))
def test_parse_raises_nothing_but_its_own_error(text: str) -> None:
    for response in (text, f"<workflow>{text}</workflow>"):
        try:
            assert FULL.parse(response).plan in SIX | {"QDS", "QDP"}
        except FormatError as error:
            assert error.reason


def test_depth_and_budgets_cut_the_menu() -> None:
    closed_book = {"AG", "QR,AG"}
    assert plans(2, None, None) == plans(1, 3, 1) == SIX | {"QDS", "QDP"}
    assert plans(0, None, None) == SIX
    assert plans(1, 2, None) == SIX | {"QDP"}
    assert plans(2, 1, None) == SIX
    assert plans(1, None, 0) == closed_book | {"QDS", "QDP"}
    assert plans(0, 1, 0) == closed_book
    with pytest.raises(ConfigError, match="turns_left=0"):
        Grammar(1, 0, None)


@given(
    st.integers(0, 2),
    st.none() | st.integers(1, 5),
    st.none() | st.integers(0, 3),
)
def test_menu_validator_constraint_fallback_and_table_agree(
    depth: int, turns: int | None, retrievals: int | None
) -> None:
    grammar = Grammar(depth, turns, retrievals)
    legal = [workflow.plan for workflow in grammar.plans]
    assert [grammar.parse(choice).plan for choice in grammar.constraint().choices] == legal
    assert grammar.menu().splitlines()[0] == f"Plans: {'; '.join(legal)}."
    assert [row.split("`")[1] for row in grammar.markdown().splitlines()[2:]] == legal
    assert grammar.fallback() in grammar.plans
    for workflow in PLANS:
        if workflow.plan not in legal:
            with pytest.raises(FormatError, match="beyond"):
                grammar.parse(f"<workflow>{workflow.plan}</workflow>")


def test_menu_explains_only_what_is_offered() -> None:
    assert "QDP splits into independent parts" in FULL.menu()
    closed = Grammar(0, None, 0).menu()
    assert "retrieves" not in closed and "QDS" not in closed and "DS" not in closed


@pytest.mark.parametrize(
    ("budgets", "fallback"),
    [((1, None, None), "QDS"), ((1, 2, None), "R,AG"), ((0, None, None), "R,AG"), ((0, None, 0), "AG")],
)
def test_fallback(budgets: tuple[int, int | None, int | None], fallback: str) -> None:
    assert Grammar(*budgets).fallback().plan == fallback


def test_turns_formula() -> None:
    assert Topology.SINGLE_ROUND.turns([]) == 1
    assert Topology.QDS.turns([1, 1, 2]) == 5
    assert Topology.QDP.turns([1, 1, 2]) == 3
    assert Topology.QDS.turns([]) == Topology.QDP.turns([]) == 1


def test_forced_plans_nest() -> None:
    workflow = parse_forced("QDS/QDP/R, DS,AG")
    assert str(workflow) == "QDS/QDP/R,DS,AG"
    assert workflow.topology is Topology.QDS and workflow.child is not None
    assert workflow.child.child == Workflow(Topology.SINGLE_ROUND, (Module.R, Module.DS, Module.AG))
    assert workflow.needs == Needs(depth=2, turns=5, retrievals=1)  # 1 + 2 * (1 + 1)
    assert parse_forced("QDP/QDS").needs == Needs(depth=2, turns=4, retrievals=0)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("DS,AG", "'DS,AG' is no plan"),
        ("", "'' is no plan"),
        ("QDS/", "'' is no plan"),
        ("R,AG/AG", "cannot have children"),
        ("QDS/QDS/QDS", "more than two"),
        ("QDS/banana", "'banana' is no plan"),
    ],
)
def test_forced_plans_are_refused_by_name(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_forced(text)
    assert problem in str(caught.value)
    assert repr(text) in str(caught.value) and "QR,R,DS,AG" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "limits", "name"),
    [
        ("QDS", {"max_depth": 0}, "max_depth"),
        ("QDS/QDP", {"max_depth": 1}, "max_depth"),
        ("QDS/AG", {"max_turns": 2}, "max_turns"),
        ("QDP/QDS/AG", {"max_turns": 3}, "max_turns"),
        ("R,AG", {"max_retrievals": 0}, "max_retrievals"),
        ("QDS/R,AG", {"max_retrievals": 0}, "max_retrievals"),
    ],
)
def test_forced_plans_beyond_the_budget_are_refused(text: str, limits: dict[str, int], name: str) -> None:
    free = {"max_depth": None, "max_turns": None, "max_retrievals": None}
    check_forced(parse_forced(text), SimpleNamespace(**free))  # possible without limits
    with pytest.raises(ConfigError, match=name):
        check_forced(parse_forced(text), SimpleNamespace(**{**free, **limits}))


def test_a_workflow_outside_the_grammar_cannot_be_built() -> None:
    for arguments in (
        (Topology.SINGLE_ROUND, (Module.DS, Module.AG)),
        (Topology.SINGLE_ROUND, ()),
        (Topology.QDS, (Module.AG,)),
        (Topology.SINGLE_ROUND, (Module.AG,), Workflow(Topology.QDS)),
    ):
        with pytest.raises(ValueError):
            Workflow(*arguments)  # type: ignore[arg-type]
