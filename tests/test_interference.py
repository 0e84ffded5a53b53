"""Role interference: cosines by hand, bounded samples, and gradients that sum to the batch's."""

from itertools import chain
from pathlib import Path

import pytest
import torch

from evaluation.glossary import check_metrics
from tests.ppo_toy import rolled, start_adapter, toy_session
from tests.test_update import weights
from training.adapter import TRAINED
from training.interference import cosines, interference, policy_gradient, role_rows
from training.update import fill


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return start_adapter(tmp_path_factory.mktemp("start") / "adapter")


def test_cosines_by_hand() -> None:
    vectors = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([4.0, 3.0]), "c": torch.tensor([-6.0, -8.0])}
    found = cosines(vectors | {"silent": torch.zeros(2)})
    assert found == {("a", "b"): pytest.approx(24 / 25), ("a", "c"): -1.0, ("b", "c"): pytest.approx(-24 / 25)}


def test_roles_are_compared_on_a_bounded_sample_and_nothing_changes(tmp_path: Path, start: Path) -> None:
    session = toy_session(tmp_path, start=start, decoding="constrained", interference_rows=3)
    rollout, config, players = rolled(session), session.config, session.players
    buffer, _, _ = fill(rollout.buffer, rollout.scored, rollout.team, config)
    chosen, everything = role_rows(buffer, 3, (0, 7)), role_rows(buffer, None, (0, 7))
    assert len(chosen) > 2 and set(chosen) == set(everything)
    assert all(len(rows) == min(3, len(everything[role])) for role, rows in chosen.items())
    assert all(buffer.roles[buffer.rows[row].role] == role for role, rows in chosen.items() for row in rows)
    assert chosen == role_rows(buffer, 3, (0, 7)) != role_rows(buffer, 3, (0, 8))
    before = weights(session, TRAINED)
    found = interference(players, buffer, config, 7)
    check_metrics(found)
    assert f"update/interference/{sorted(chosen)[0]}/{sorted(chosen)[1]}" in found
    assert all(-1.0 <= value <= 1.0 for value in found.values()) and len(set(found.values())) > 1
    assert all(torch.equal(before[key], value) for key, value in weights(session, TRAINED).items())
    assert all(parameter.grad is None for parameter in session.optimiser.policy)
    config.interference_rows = 0
    assert interference(players, buffer, config, 7) == {}


def test_the_roles_gradients_sum_to_that_of_the_batch(tmp_path: Path, start: Path) -> None:
    session = toy_session(tmp_path, start=start, decoding="constrained", train="executors")
    rollout = rolled(session)
    buffer, _, _ = fill(rollout.buffer, rollout.scored, rollout.team, session.config)
    rows = role_rows(buffer, None, ())
    assert "planner" not in rows  # frozen: it has no gradient
    parts = [policy_gradient(session.players, buffer, mine, session.config) for mine in rows.values()]
    whole = policy_gradient(session.players, buffer, sorted(chain.from_iterable(rows.values())), session.config)
    assert torch.allclose(torch.stack(parts).sum(0), whole, atol=1e-5) and whole.norm() > 1e-3
