from pathlib import Path

import pytest
import torch

from tests.ppo_toy import toy_session
from training.credit_report import ESTIMATORS, compare
from training.rollout import gather, prepare
from training.update import start_critic


def test_the_estimators_side_by_side(tmp_path: Path) -> None:
    session = toy_session(tmp_path, estimator="broadcast", decoding="constrained", lam=1.0)
    runs = gather(session.worlds[0], session.players, session.config, 0, 0)
    rollout = prepare(runs, session.players, session.store, session.gold, session.config, version=0)
    start_critic(session.players, rollout.buffer, rollout.team, rollout.scored)
    # one value for both kinds of estimator, so that what must agree does
    rollout.scored.values[:, 0] = 0.3
    for values in rollout.scored.token_values or []:
        values[:] = 0.3
    found = compare(session, rollout)
    assert tuple(found.advantages) == ESTIMATORS
    assert found.cosine("tree_gae", "terminal_gae") == pytest.approx(1.0, abs=1e-5)  # γ = λ = 1: the same
    assert found.agreement("tree_gae", "terminal_gae") == 1.0
    assert all(torch.isfinite(gradient).all() and gradient.any() for gradient in found.gradients.values())
    table = found.table()
    assert "| answer_generator |" in table and "| tree_gae, loo |" in table
    assert all(parameter.grad is None for parameter in session.optimiser.policy)
