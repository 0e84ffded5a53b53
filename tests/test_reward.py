import pytest

from agents.call import Call
from graphs.trajectory import Retrieval, Trajectory
from training.reward import format_penalty, outcome_reward, rewards


def call(name: str, error: str | None = None) -> Call:
    return Call(
        id=name, role="answer_generator", path=name, parents=(), prompt_ids=(1,), response_ids=(2,),
        logprobs=(-0.5,), mask=(1,), temperature=1.0, greedy=False, text="x", value="x", format_error=error,
        truncated=False,
    )  # fmt: skip


# α = 0.3, β = 0.6, worked by hand: extra turns and retrievals are capped at 3 and divided by 3.
@pytest.mark.parametrize(
    ("score", "turns", "retrievals", "expected"),
    [
        (1.0, 1, 0, 1.0),  # closed book, one round: nothing subtracted
        (1.0, 1, 1, 0.8),  # 1 − 0.6/3
        (1.0, 2, 2, 0.5),  # QDP of two: 1 − 0.3/3 − 0.6·2/3
        (0.0, 3, 2, -0.6),  # QDS of two: 0 − 0.3·2/3 − 0.6·2/3
        (0.5, 4, 3, -0.4),  # both at the cap: 0.5 − 0.3 − 0.6
        (0.5, 9, 9, -0.4),  # beyond the cap: the same
    ],
)
def test_outcome_by_hand(score: float, turns: int, retrievals: int, expected: float) -> None:
    assert outcome_reward(score, turns, retrievals, 0.3, 0.6) == pytest.approx(expected, abs=1e-12)


def test_impossible_inputs_are_refused() -> None:
    for score, turns, retrievals in [(float("nan"), 1, 0), (1.0, 0, 0), (1.0, 1, -1)]:
        with pytest.raises(ValueError):
            outcome_reward(score, turns, retrievals, 0.1, 0.1)


def test_format_penalty_is_the_calls_own() -> None:
    assert format_penalty(call("root/AG")) == 0.0
    assert format_penalty(call("root/AG", "no <answer> tag")) == -1.0
    assert format_penalty(call("root/AG", "truncated"), penalty=2.0) == -2.0


def test_parts_stay_apart() -> None:
    run = Trajectory(
        run="r1", question="q", answer="a", outcome="ok", turns=2,
        calls=(call("root/planner", "no <workflow> at the start"), call("root/AG")),
        retrievals=(Retrieval("0/R", "q", ("p1",), (1.0,), 0.0), Retrieval("1/R", "x", (), (), 0.0)),
    )  # fmt: skip
    parts = rewards(run, 0.75, alpha=0.3, beta=0.6, penalty=2.0)
    assert parts.score == 0.75
    assert parts.turn_cost == pytest.approx(0.1)
    assert parts.retrieval_cost == pytest.approx(0.4)
    assert parts.total == pytest.approx(0.25)  # the format penalty is not in it
    assert parts.format == {"root/planner": -2.0, "root/AG": 0.0}
    with pytest.raises(ValueError, match="run r1"):
        rewards(run, float("inf"))
