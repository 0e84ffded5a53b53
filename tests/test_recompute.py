"""Gradient checkpointing: the same gradients bit for bit, with less kept, whatever adapter is active going backward."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.ppo_toy import rolled, start_adapter, toy_session
from tests.test_update import updated, weights
from training.adapter import TRAINED
from training.interference import policy_gradient
from training.session import Session
from training.update import fill


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return start_adapter(tmp_path_factory.mktemp("start") / "adapter")


def kept_bytes(session: Session, work: Any) -> tuple[Any, int]:
    """Return what `work` returns, and how many bytes autograd kept for going backward in it."""
    seen: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        return work(), sum(seen.values())


def test_gradients_are_the_same_bit_for_bit_and_less_is_kept(tmp_path: Path, start: Path) -> None:
    session = toy_session(tmp_path, start=start)
    rollout = rolled(session)
    buffer, _, _ = fill(rollout.buffer, rollout.scored, rollout.team, session.config)
    learner, hidden = session.players.learner, session.players.learner.hidden
    rows = [row for row, item in enumerate(buffer.rows) if item.trained]
    kept: dict[bool, list[int]] = {False: [], True: []}

    def counted(*args: Any, **options: Any) -> Any:
        states, size = kept_bytes(session, lambda: hidden(*args, **options))
        kept[learner.checkpointing].append(size)
        return states

    learner.hidden = counted  # type: ignore[method-assign]
    found = {}
    for on in (False, True):
        learner.checkpointing = on
        found[on] = policy_gradient(session.players, buffer, rows, session.config)
    assert found[False].any() and torch.equal(found[False], found[True])
    assert len(kept[True]) == len(kept[False]) and sum(kept[True]) < 0.5 * sum(kept[False])


@pytest.mark.parametrize("critic", ["head", "adapter"])
def test_an_update_ends_at_the_same_weights(tmp_path: Path, start: Path, critic: str) -> None:
    after = []
    for on in (False, True):
        session = toy_session(
            tmp_path / str(on), start=start, critic=critic, entropy=0.01, gradient_checkpointing=on, epochs=1
        )
        assert session.players.learner.checkpointing == on
        before = weights(session, TRAINED)
        updated(session, rolled(session))
        after.append(weights(session, TRAINED) | session.players.head.state_dict())
        assert any(not torch.equal(before[key], after[-1][key]) for key in before)
    assert all(torch.equal(value, after[1][key]) for key, value in after[0].items())


def test_layers_are_computed_again_under_the_adapter_that_spoke(tmp_path: Path, start: Path) -> None:
    session = toy_session(tmp_path, start=start)
    rollout = rolled(session)
    buffer, _, _ = fill(rollout.buffer, rollout.scored, rollout.team, session.config)
    rows = [row for row, item in enumerate(buffer.rows) if item.trained][:4]
    plain = policy_gradient(session.players, buffer, rows, session.config)
    session.players.learner.checkpointing = True
    backward = torch.Tensor.backward

    def under_the_base(self: torch.Tensor, *args: Any, **options: Any) -> None:
        with session.players.shared.using(None):
            backward(self, *args, **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.Tensor, "backward", under_the_base)
        again = policy_gradient(session.players, buffer, rows, replace(session.config))
    assert torch.equal(plain, again)
