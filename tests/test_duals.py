"""The adaptive controller: dual steps by hand, its part of a checkpoint, and the guard against collapse."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from agents.errors import ConfigError
from agents.role import Prompts
from agents.tagged import tagged
from graphs import act, trainable
from graphs.ledger import LedgerWriter
from graphs.options import Options
from graphs.trajectory import Retrieval, Trajectory
from tests.ppo_toy import toy_config, toy_session
from tests.test_ppo import Notes, killed_in_update, same, state_of
from training.checkpoint import HEALTHY, PREVIOUS, State, keep_healthy, read_state
from training.duals import RETRIEVALS, TURNS, Prices, ascend, ease, in_force, move
from training.health import collapsing
from training.ppo import run
from training.ppo_config import PPOConfig
from training.reward import rewards
from training.rollout_metrics import rollout_metrics
from training.session import Session

TARGETS: dict[str, Any] = {"target_turns": 2.0, "target_retrievals": 1.0, "alpha": 0.2, "beta": 0.1, "dual_lr": 0.1}
PRICE = st.floats(0, 2)


def options(**changes: Any) -> PPOConfig:
    return toy_config(Path("unused"), **{**TARGETS, **changes})


@pytest.mark.parametrize(
    ("turns", "retrievals", "alpha", "beta"),
    [
        (2.5, 1.4, 0.25, 0.14),  # 0.2 + 0.1·0.5; 0.1 + 0.1·0.4
        (1.0, 1.0, 0.10, 0.10),  # 0.2 − 0.1·1.0; at the target nothing moves
        (2.0, 0.0, 0.20, 0.00),  # 0.1 − 0.1·1.0
    ],
)
def test_a_dual_step_by_hand(turns: float, retrievals: float, alpha: float, beta: float) -> None:
    state = State()
    move(options(), state, {TURNS: turns, RETRIEVALS: retrievals})
    assert (state.alpha, state.beta) == (pytest.approx(alpha), pytest.approx(beta))
    assert in_force(options(), state) == Prices(state.alpha or 0.0, state.beta or 0.0)


def test_steps_add_up_are_clipped_and_shrink_after_a_rollback() -> None:
    config, state = options(alpha_max=0.3, beta_max=0.5), State(factor=0.5)
    for _ in range(3):
        move(config, state, {TURNS: 3.0, RETRIEVALS: 0.0})
    assert state.alpha == pytest.approx(0.3)  # 0.25, 0.30, then the ceiling
    assert state.beta == pytest.approx(0.0)  # 0.05, 0.00, 0.00


def test_what_has_no_target_keeps_its_price() -> None:
    config, state = options(target_turns=None), State(alpha=0.9)
    move(config, state, {TURNS: 4.0, RETRIEVALS: 2.0})
    assert in_force(config, state) == Prices(0.2, pytest.approx(0.2)) and state.alpha == 0.9
    assert in_force(options(target_turns=None, target_retrievals=None), State(alpha=0.9, beta=0.9)) == Prices(0.2, 0.1)


@given(price=PRICE, excess=st.floats(-3, 3), step=st.floats(0, 2), ceiling=st.floats(0, 2))
def test_a_price_stays_in_bounds_and_moves_towards_the_target(
    price: float, excess: float, step: float, ceiling: float
) -> None:
    price = min(price, ceiling)
    moved = ascend(price, excess, step, ceiling)
    assert 0.0 <= moved <= ceiling
    assert (moved - price) * excess >= 0.0  # up when it costs too much, down when it costs less
    assert moved <= ascend(price, excess + 1.0, step, ceiling)


def test_the_step_is_the_gradient_of_what_the_reward_charges() -> None:
    searched = tuple(Retrieval("root/R", "q", (), (), 0.0) for _ in range(5))
    runs = [
        Trajectory("r1", "q", "a", "ok", (), turns=1),
        Trajectory("r2", "q", "a", "ok", (), retrievals=searched, turns=8),
        Trajectory("r3", "q", "", "crashed", (), turns=1),  # no reward, so no part of the constraint
    ]
    paid = {item.run: rewards(item, 0.5, alpha=0.3, beta=0.6) for item in runs[:2]}
    found = rollout_metrics(runs, paid)
    assert found[TURNS] == 2.5 and found[RETRIEVALS] == 1.5  # (1 + 4)/2, (0 + 3)/2
    assert found["rollout/turns"] == pytest.approx(10 / 3)
    assert found["rollout/turn_cost"] == pytest.approx(0.3 * (found[TURNS] - 1) / 3)
    assert found["rollout/retrieval_cost"] == pytest.approx(0.6 * found[RETRIEVALS] / 3)


def test_easing_halves_the_prices_of_met_targets_only() -> None:
    config, state = options(), State(alpha=0.4, beta=0.3)
    ease(config, state, Prices(0.6, 0.2), {TURNS: 1.0, RETRIEVALS: 1.5})
    assert state.alpha == 0.2 and state.beta == 0.3  # half of the smaller; β was still too low
    ease(config, state, Prices(0.1, 0.3), {TURNS: 1.0, RETRIEVALS: 0.9})
    assert state.alpha == 0.05 and state.beta == 0.15


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_turns": 5.0}, "target_turns=5.0; must be from 1 to 4"),
        ({"target_retrievals": -1.0}, "target_retrievals=-1.0; must be from 0 to 3"),
        ({"ledger": "somewhere"}, "target_turns steers what is collected, and a ledger is replayed"),
        ({"beta_max": 0.05}, "beta=0.1 is where the controller begins; it must be at most 0.05, beta_max"),
    ],
)
def test_impossible_targets_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options(**changes)


# ---- in a training run

HELD: dict[str, Any] = {"target_turns": 1.5, "target_retrievals": 0.25, "alpha": 0.4, "dual_lr": 0.1}
"""The toy's runs have one turn and one retrieval: α falls by 0.05 an iteration, and β rises by 0.075."""


def prices_of(notes: Notes) -> list[tuple[float, float]]:
    return [(row["update/alpha"], row["update/beta"]) for _, row in notes.metrics]


def test_killed_and_resumed_prices_and_weights_are_bit_identical(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, notes = toy_session(tmp_path / "whole", iterations=3, **HELD), Notes()
    assert run(whole, notes) == 0  # type: ignore[arg-type]
    expected = [(0.4, 0.0), (0.35, 0.075), (0.3, 0.15)]
    assert prices_of(notes) == [pytest.approx(pair) for pair in expected]
    killed_in_update(toy_session(tmp_path / "killed", iterations=3, **HELD), 2, monkeypatch)
    resumed, rest = toy_session(tmp_path / "killed", iterations=3, **HELD), Notes()
    assert resumed.state.iteration == 2 and run(resumed, rest) == 0  # type: ignore[arg-type]
    assert prices_of(rest) == prices_of(notes)[2:]
    assert (resumed.state.alpha, resumed.state.beta) == (whole.state.alpha, whole.state.beta)
    assert same(state_of(whole), state_of(resumed))


def test_the_price_in_force_is_what_the_reward_charges(tmp_path: Path) -> None:
    session, notes = toy_session(tmp_path, **HELD), Notes()
    assert run(session, notes) == 0  # type: ignore[arg-type]
    for _, row in notes.metrics:
        assert row["rollout/retrieval_cost"] == pytest.approx(row["update/beta"] * row[RETRIEVALS] / 3)


WRITER = tagged("writer", "Answer the question.", sees=["question"], tag="answer")


class Drafted(TypedDict, total=False):
    """A graph whose plans are none of JADE's."""

    question: str
    answer: str
    workflow: dict[str, Any]
    turns: int


def drafts() -> Any:
    """Compile a graph that says it took three turns."""

    def draft(state: Drafted, config: RunnableConfig) -> dict[str, Any]:
        return {"answer": act(WRITER, state, config), "workflow": {"plan": "drafts"}, "turns": 3}

    graph = StateGraph(Drafted)
    graph.add_node("draft", draft)
    graph.add_edge(START, "draft")
    return graph.compile()


def collapsing_session(folder: Path) -> Session:
    """Return a session whose runs take three turns at first and later; in between, one round takes them all."""
    changes = {**HELD, "iterations": 4, "on_alarm": "rollback", "alarm_window": 2, "alarm_entropy": 0.0}
    session = toy_session(folder, **changes)
    (world,) = session.worlds
    shared, ledger = session.players.shared, LedgerWriter(folder / "ledger")
    chain = world.graph.with_recorder(defaults=Options(max_new_tokens=10, workflow="R,AG"))
    long = trainable(
        drafts(), policy=shared, prompts=Prompts("bare"), ledger=ledger, defaults=Options(max_new_tokens=10)
    )
    session.worlds = [replace(world, graph=graph) for graph in (long, chain, chain, long)]
    return session


def test_a_collapse_rolls_back_to_before_it_began_and_eases_the_price_that_drove_it(tmp_path: Path) -> None:
    session, notes = collapsing_session(tmp_path), Notes()
    before = state_of(session)
    found: list[dict[str, Any]] = []
    roll_back = session.roll_back

    def watched(*args: Any) -> None:
        kept = read_state(tmp_path / HEALTHY)
        roll_back(*args)
        restored = state_of(session)
        found.append({"kept": kept, "restored": restored, "version": session.state.version})

    session.roll_back = watched  # type: ignore[method-assign]
    assert run(session, notes) == 0  # type: ignore[arg-type]
    (event,) = found
    assert notes.metrics[2][1]["alarm/topology"] == 1.0
    assert event["kept"].iteration == 0 and event["version"] == 0  # the last checkpoint had version 2
    assert same(
        {key: value for key, value in before.items() if "head" not in key},
        {key: value for key, value in event["restored"].items() if "head" not in key},
    )
    # α's target was met at the collapse: half of 0.4, the smaller. β's was not: as when the restored policy acted.
    expected = [(0.4, 0.0), (0.55, 0.0), (0.5, 0.075), (0.2, 0.0)]
    assert prices_of(notes) == [pytest.approx(pair) for pair in expected]
    assert session.state.factor == 0.5 and session.state.rollbacks == 1 and session.state.iteration == 4
    assert not (tmp_path / HEALTHY).exists()  # the collapse is over


def test_the_healthy_checkpoint_is_the_one_before_the_collapse_and_goes_with_it(tmp_path: Path) -> None:
    (tmp_path / PREVIOUS).mkdir()
    (tmp_path / PREVIOUS / "state.json").write_text("before")
    keep_healthy(tmp_path, False)
    assert not (tmp_path / HEALTHY).exists()
    keep_healthy(tmp_path, True)
    (tmp_path / PREVIOUS / "state.json").write_text("collapsed")
    keep_healthy(tmp_path, True)
    assert (tmp_path / HEALTHY / "state.json").read_text() == "before"
    keep_healthy(tmp_path, False)
    assert [item.name for item in tmp_path.iterdir()] == [PREVIOUS]


def test_a_collapse_is_under_way_from_its_first_iteration_on() -> None:
    name = "rollout/topology/SINGLE_ROUND"
    assert collapsing({name: [0.4, 0.5, 0.99]}, 0.98)
    assert not collapsing({name: [0.4, 0.99, 0.5]}, 0.98)
    assert not collapsing({name: [0.99, 0.99]}, 0.98)  # so from the start: a choice
    assert not collapsing({name: [0.99]}, 0.98) and not collapsing({"update/entropy": [0.1, 0.99]}, 0.98)
