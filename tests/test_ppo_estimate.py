"""Memory to expect: what grows with the batch is measured apart and extrapolated, what does not stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ppo_toy import rolled, toy_session
from training.ppo_estimate import expected_memory


def test_what_grows_is_extrapolated_by_hand() -> None:
    # the model 2.0, collecting 0.5 of which twice as much runs at once, the update 3.0 with 0.25 kept, 4 times as many
    assert expected_memory(2.0, 2.5, 3.0, 0.25, share=4.0, at_once=2.0) == pytest.approx(3.75)
    assert expected_memory(2.0, 2.5, 3.0, 0.25, share=1.0, at_once=1.0) == pytest.approx(3.0)  # nothing is left out
    assert expected_memory(2.0, 2.9, 3.0, 0.0, share=16.0, at_once=4.0) == pytest.approx(5.6)  # collecting is the peak


def test_kept_states_are_counted_grow_with_the_questions_and_go_with_the_update(tmp_path: Path) -> None:
    sizes = {}
    for questions in (1, 4):
        session = toy_session(tmp_path / str(questions), questions=questions)
        assert session.players.learner.kept_bytes() == 0
        buffer = rolled(session).buffer
        learner = session.players.learner
        sizes[questions] = learner.kept_bytes()
        calls = [row.call for row in buffer.rows]
        prompts = {call.prompt_ids for call in calls}
        width = 4 * learner.width  # bytes of one token's fp32 state
        least = sum(map(len, prompts)) * width  # each prompt once
        most = least + sum(len(call.response_ids) for call in calls) * width
        assert least <= sizes[questions] <= most
        learner.forget()
        assert learner.kept_bytes() == 0
    assert sizes[4] > 2 * sizes[1]
