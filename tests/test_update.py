from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graphs.trajectory import Trajectory
from tests.ppo_toy import rolled, start_adapter, toy_session
from training.adapter import START, TRAINED
from training.losses import kl_penalty
from training.rollout import Rollout, permuted
from training.scoring import score_buffer
from training.session import Session
from training.trunk import Trunk
from training.update import Outcome, fill, local_rewards


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return start_adapter(tmp_path_factory.mktemp("start") / "adapter")


def updated(session: Session, rollout: Rollout, **options: Any) -> Outcome:
    buffer, _, _ = fill(rollout.buffer, rollout.scored, rollout.team, session.config)
    return session.optimiser.update(buffer, 0, 1.0, **options)


def weights(session: Session, name: str) -> dict[str, torch.Tensor]:
    return {key: p.detach().clone() for key, p in session.players.shared.adapter_set.parameters(name).items()}


@pytest.mark.parametrize("decoding", ["free", "constrained"])
def test_at_step_0_the_kl_is_0_and_the_ratio_is_1(tmp_path: Path, start: Path, decoding: str) -> None:
    session = toy_session(tmp_path, start=start, decoding=decoding, temperature=0.7, epochs=1, minibatches=1)
    rollout = rolled(session)
    assert not rollout.dropped.counts and {row.call.temperature for row in rollout.buffer.rows} == {0.7}
    if decoding == "constrained":
        assert any(0 in row.call.mask for row in rollout.buffer.rows)  # forced tokens are there, and count nowhere
    old, ref = np.concatenate(rollout.scored.current), np.concatenate(rollout.scored.ref)
    assert float(kl_penalty(torch.from_numpy(old), torch.from_numpy(ref)).abs().max()) == 0.0
    assert np.abs(np.concatenate(rollout.buffer.mu) - old).max() < 1e-4
    metrics = updated(session, rollout).metrics
    assert metrics["update/kl"] == 0.0 and metrics["update/old_new_kl"] == pytest.approx(0.0, abs=1e-9)
    assert metrics["update/ratio_max"] == pytest.approx(1.0, abs=1e-5) and metrics["update/clip_fraction"] == 0.0
    assert metrics["update/omega"] == pytest.approx(1.0, abs=1e-3)
    moved, start_weights = weights(session, TRAINED), weights(session, START)
    assert any(not torch.equal(moved[key], start_weights[key.replace(TRAINED, START)]) for key in moved)
    assert {p.dtype for p in session.optimiser.policy} == {torch.float32}


def test_frozen_roles_stay_the_same_bit_for_bit_when_the_planner_is_trained(tmp_path: Path, start: Path) -> None:
    session = toy_session(tmp_path, start=start, train="planner", decoding="constrained")
    rollout = rolled(session)
    frozen = [(p, row.call) for p, row in enumerate(rollout.buffer.rows) if not row.trained]
    assert {row.call.adapter for row in rollout.buffer.rows if row.trained} == {TRAINED}
    assert frozen and {call.adapter for _, call in frozen} == {START}
    before = weights(session, START)
    updated(session, rollout)
    session.advance()
    again = score_buffer(session.players, rollout.buffer, session.config.token_budget)
    for place, _ in frozen:
        assert np.array_equal(again.current[place], rollout.scored.current[place])
    trained = [place for place, row in enumerate(rollout.buffer.rows) if row.trained]
    assert any(not np.array_equal(again.current[place], rollout.scored.current[place]) for place in trained)
    after = weights(session, START)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_training_from_the_base_freezes_roles_on_the_base(tmp_path: Path) -> None:
    session = toy_session(tmp_path, train="executors")
    rollout = rolled(session)
    assert {row.call.adapter for row in rollout.buffer.rows if not row.trained} == {None}
    assert float(np.abs(np.concatenate(rollout.scored.current) - np.concatenate(rollout.scored.ref)).max()) == 0.0
    assert updated(session, rollout).finite


def test_a_format_penalty_enters_no_return(tmp_path: Path) -> None:
    session = toy_session(tmp_path)
    rollout = rolled(session)
    assert any(call.format_error for run in rollout.runs for call in run.calls)
    free = [replace(reward, format=dict.fromkeys(reward.format, 0.0)) for reward in rollout.team]
    for estimator in ("tree_gae", "terminal_gae"):
        config = replace(session.config, estimator=estimator)
        _, priced, credits = fill(rollout.buffer, rollout.scored, rollout.team, config)
        _, unpriced, plain = fill(rollout.buffer, rollout.scored, free, config)
        assert priced.returns is not None and unpriced.returns is not None
        assert np.array_equal(priced.returns[:, 0], unpriced.returns[:, 0])
        assert all(a.advantages == b.advantages for a, b in zip(credits, plain, strict=True))
        assert any(a.total != b.total for a, b in zip(credits, plain, strict=True))


def test_a_kl_in_the_reward_is_local_to_its_call(tmp_path: Path, start: Path) -> None:
    session = toy_session(tmp_path, start=start, kl=0.5, kl_in="reward")
    rollout = rolled(session)
    first = rollout.buffer.rows[0]
    ref = [part.copy() for part in rollout.scored.ref]
    ref[0] = ref[0] - 1.0  # d = −1: e^−1 + 1 − 1 = e^−1 a token
    buffer = rollout.buffer.with_logprobs(rollout.scored.current, ref)
    local = local_rewards(buffer, rollout.team, 0.5)
    expected = rollout.team[0].format[first.call.id] - 0.5 * np.exp(-1) * sum(first.call.mask)
    assert local[0][first.call.id] == pytest.approx(expected, rel=1e-4)
    rest = {key: value for key, value in local[0].items() if key != first.call.id}
    assert rest == pytest.approx({key: rollout.team[0].format[key] for key in rest})
    changed = replace(rollout.scored, ref=ref)
    _, priced, _ = fill(rollout.buffer, changed, rollout.team, session.config)
    _, plain, _ = fill(rollout.buffer, rollout.scored, rollout.team, session.config)
    assert priced.returns is not None and plain.returns is not None
    assert np.array_equal(priced.returns[:, 0], plain.returns[:, 0])


@pytest.mark.parametrize("estimator", ["terminal_gae", "broadcast", "loo"])
@pytest.mark.parametrize("critic", ["head", "adapter"])
def test_every_estimator_and_critic_takes_a_step(tmp_path: Path, start: Path, estimator: str, critic: str) -> None:
    options = {"kl_in": "reward", "entropy": 0.01, "weights": "token", "whiten": "none"}
    session = toy_session(tmp_path, start=start, estimator=estimator, critic=critic, **options)
    before = weights(session, TRAINED)
    outcome = updated(session, rolled(session))
    after = weights(session, TRAINED)
    assert outcome.finite and any(not torch.equal(before[key], after[key]) for key in before)
    moved = bool(session.players.head.linear.weight.abs().sum() > 0)
    assert moved == (estimator != "loo")


def test_only_the_critic_learns_while_it_warms_up(tmp_path: Path, start: Path) -> None:
    session = toy_session(tmp_path, start=start)
    before = weights(session, TRAINED)
    updated(session, rolled(session), critic_only=True)
    assert all(torch.equal(before[key], value) for key, value in weights(session, TRAINED).items())
    assert session.players.head.linear.weight.abs().sum() > 0


def test_an_update_ends_before_the_step_that_would_leave_the_target_kl(tmp_path: Path, start: Path) -> None:
    session = toy_session(tmp_path, start=start, target_kl=1e-7, epochs=3, minibatches=2, lr=1e-2)
    metrics = updated(session, rolled(session)).metrics
    assert metrics["update/epochs"] == 0.0  # the second minibatch already sees a policy that has moved
    assert metrics["update/old_new_kl"] > 0


def test_accumulating_over_microbatches_changes_nothing(tmp_path: Path, start: Path) -> None:
    found = []
    for name, budget in (("whole", 100_000), ("cut", 120)):
        session = toy_session(tmp_path / name, start=start, token_budget=budget, epochs=1)
        updated(session, rolled(session))
        found.append(weights(session, TRAINED))
    for key, value in found[0].items():
        assert torch.allclose(value, found[1][key], atol=2e-4), key


def test_the_two_halves_of_the_model_are_the_whole(tmp_path: Path, start: Path) -> None:
    session = toy_session(tmp_path, start=start)
    shared = session.players.shared
    ids = torch.arange(4, 40).reshape(2, 18)
    with shared.using(TRAINED), torch.no_grad():
        trunk = Trunk(shared.module, 1)
        halves = trunk.logits(trunk.above(trunk.below(ids)))
        assert torch.allclose(halves, shared.module(input_ids=ids).logits, atol=1e-5)


def test_kept_trunk_states_give_the_same_scores(tmp_path: Path, start: Path) -> None:
    session = toy_session(tmp_path, start=start)
    rollout = rolled(session)
    kept = score_buffer(session.players, rollout.buffer, 4096)
    session.players.learner.forget()
    fresh = score_buffer(session.players, rollout.buffer, 200)
    for one, other in zip(kept.current, fresh.current, strict=True):
        assert np.allclose(one, other, atol=1e-5)
    forced = session.players.shared.teacher_force(
        [(c.prompt_ids, c.response_ids, c.constraint, c.temperature) for c in (r.call for r in rollout.buffer.rows)],
        TRAINED,
    )
    for one, again in zip(kept.current, forced, strict=True):
        assert np.allclose(one, again, atol=1e-4)


def test_the_control_gives_every_question_the_outcomes_of_another(tmp_path: Path) -> None:
    session = toy_session(tmp_path)
    rollout = rolled(session)
    paid = {run.run: replace(rollout.rewards[run.run], total=float(i)) for i, run in enumerate(rollout.runs)}
    moved = permuted(rollout.runs, paid, 3)
    assert sorted(item.total for item in moved.values()) == sorted(item.total for item in paid.values())
    by_question: dict[str | None, list[Trajectory]] = {}
    for run in rollout.runs:
        by_question.setdefault(run.question_id, []).append(run)
    for runs in by_question.values():
        own = {paid[run.run].total for run in runs}
        assert own.isdisjoint({moved[run.run].total for run in runs})
        assert all(moved[run.run].format == paid[run.run].format for run in runs)
