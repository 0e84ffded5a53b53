"""Equal prompts are computed once, and nothing else changes: log-probabilities, values, gradients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from agents.call import Call
from graphs.trajectory import Trajectory
from tests.ppo_toy import rolled, toy_session
from training.adapter import TRAINED
from training.buffer import RolloutBuffer
from training.minibatch import collate
from training.packing import pack, shared_minibatches, units
from training.session import Session


def call(name: str, prompt: tuple[int, ...], response: tuple[int, ...]) -> Call:
    """Return a recorded call that sampled every token."""
    size = len(response)
    return Call(
        id=name, role="r", path=name, parents=(), prompt_ids=prompt, response_ids=response, logprobs=(-1.0,) * size,
        mask=(1,) * size, temperature=1.0, greedy=False, text="", value=None, format_error=None, truncated=False,
    )  # fmt: skip


def buffer_of(calls: list[Call]) -> RolloutBuffer:
    """Return a buffer with one run a call."""
    return RolloutBuffer.of(
        [Trajectory(run=f"{i}", question="", answer="", outcome="ok", calls=(c,)) for i, c in enumerate(calls)]
    )


CALLS = [call("a", (5, 6, 7), (8, 9)), call("b", (5, 6), (4,)), call("c", (5, 6, 7), (10, 11, 12))]


def test_a_shared_prompt_stands_once_and_responses_do_not_see_each_other() -> None:
    packed = pack(collate(buffer_of(CALLS), [0, 1, 2], pad_id=0))
    assert packed.input_ids.tolist() == [[5, 6, 7, 8, 9, 10, 11, 12], [5, 6, 4, 0, 0, 0, 0, 0]]
    assert packed.position_ids is not None and packed.mask is not None
    assert packed.position_ids[0].tolist() == [0, 1, 2, 3, 4, 3, 4, 5]
    assert packed.sequence.tolist() == [0, 1, 0]
    assert packed.logit_index.tolist() == [[2, 3, 0], [1, 0, 0], [2, 5, 6]]
    sees = packed.mask[0, 0]
    assert [i for i in range(8) if sees[4, i]] == [0, 1, 2, 3, 4]
    assert [i for i in range(8) if sees[6, i]] == [0, 1, 2, 5, 6]
    assert not sees[:3, 3:].any()


def test_without_a_shared_prompt_there_is_no_mask() -> None:
    batch = collate(buffer_of(CALLS), [0, 1, 2], pad_id=0)
    assert pack(collate(buffer_of(CALLS), [0, 1], pad_id=0)).mask is None
    alone = pack(batch, share=False)
    assert alone.mask is None and alone.members == ((0,), (1,), (2,))


def test_plans_keep_a_prompt_together_and_count_it_once() -> None:
    groups, lengths = units(CALLS)
    assert groups == [[0, 2], [1]] and lengths.tolist() == [8, 3]
    plan = shared_minibatches(CALLS * 3, 2, 100, (0,))
    assert sorted(place for part in plan for batch in part for place in batch) == list(range(9))
    assert any({0, 2, 3, 5, 6, 8} <= {place for batch in part for place in batch} for part in plan)


def grads(session: Session, buffer: RolloutBuffer, share: bool) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return log-probabilities of all rows, the gradient of their sum, and the tokens that the decoder saw."""
    learner = session.players.learner
    learner.shares = share
    learner.forget()
    parameters = session.players.policy_parameters()
    for parameter in parameters:
        parameter.grad = None
    rows = list(range(len(buffer)))
    batch = collate(buffer, rows, pad_id=0)
    scores = learner.score(batch, [buffer.rows[row].call for row in rows], TRAINED)
    scores.logprobs.sum().backward()  # type: ignore[no-untyped-call]
    flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    return scores.logprobs.detach(), flat.clone(), pack(batch, share).input_ids.numel()


def test_packed_and_separate_rows_give_the_same_scores_and_gradients(tmp_path: Path) -> None:
    session = toy_session(tmp_path, runs=4)
    rollout = rolled(session)
    with torch.no_grad():
        for parameter in session.players.policy_parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    one, gradient, packed = grads(session, rollout.buffer, True)
    other, expected, separate = grads(session, rollout.buffer, False)
    assert packed < 0.6 * separate
    assert torch.allclose(one, other, atol=1e-5)
    assert gradient.abs().max() > 0
    assert torch.allclose(gradient, expected, atol=1e-4 * float(expected.abs().max()))


def test_kept_states_serve_any_other_packing(tmp_path: Path) -> None:
    session = toy_session(tmp_path, runs=3)
    buffer = rolled(session).buffer
    learner, rows = session.players.learner, list(range(len(buffer)))
    learner.forget()

    def logprobs(chosen: list[int], keep: bool) -> list[torch.Tensor]:
        batch = collate(buffer, chosen, pad_id=0)
        with torch.no_grad():
            scores = learner.score(batch, [buffer.rows[row].call for row in chosen], TRAINED, keep=keep)
        return [scores.logprobs[i, : len(buffer.rows[row].call.response_ids)] for i, row in enumerate(chosen)]

    first = logprobs(rows, True)
    for half in (rows[::2], rows[1::2]):
        for row, again in zip(half, logprobs(half, True), strict=True):
            assert torch.allclose(first[row], again, atol=1e-5)


def test_a_row_alone_has_the_numbers_it_has_in_company() -> None:
    """The first response token is predicted by the shared prompt for all of them."""
    twin = replace(CALLS[0], id="d", path="d")
    packed = pack(collate(buffer_of([CALLS[0], twin]), [0, 1], pad_id=0))
    assert packed.logit_index[:, 0].tolist() == [2, 2]
