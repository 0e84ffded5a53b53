import numpy as np
import pytest
import torch

from agents.call import Call
from agents.errors import ConfigError, LedgerError
from graphs.trajectory import Outcome, Trajectory
from training.buffer import RolloutBuffer, Weighting
from training.credit import broadcast, tree_gae


def call(name: str, before: tuple[str, ...], order: int, size: int = 2, **changes: object) -> Call:
    fields: dict[str, object] = {
        "id": name, "role": name.split("/")[-1], "path": name, "parents": before,
        "prompt_ids": tuple(range(10, 13 + order)), "response_ids": tuple(range(1, size + 1)),
        "logprobs": (-0.5,) * size, "mask": (1,) * size, "temperature": 1.0, "greedy": False, "text": "",
        "value": "", "format_error": None, "truncated": False, "order": order,
    }  # fmt: skip
    return Call(**{**fields, **changes})  # type: ignore[arg-type]


def run(name: str, outcome: Outcome = "ok", **changes: object) -> Trajectory:
    """Planner → answer generator; the planner's second token was forced."""
    calls = (
        call("root/planner", (), 0, mask=(1, 0)),
        call("root/AG", ("root/planner",), 1, size=3, **changes),
    )
    return Trajectory(run=name, question="q", answer="a", outcome=outcome, calls=calls)


def test_rows_are_the_recorded_tokens_in_send_order() -> None:
    buffer = RolloutBuffer.of([run("r1"), run("r2")])
    assert [(row.trajectory, row.call.id) for row in buffer.rows] == [
        (0, "root/planner"), (0, "root/AG"), (1, "root/planner"), (1, "root/AG"),
    ]  # fmt: skip
    assert buffer.roles == ("AG", "planner")
    assert buffer.role_ids.tolist() == [1, 0, 1, 0]
    assert buffer.edges == ((0, 1), (2, 3))
    assert buffer.lengths.tolist() == [5, 7, 5, 7]
    assert buffer.counts.tolist() == [1, 3, 1, 3]
    assert [part.tolist() for part in buffer.mu[:2]] == [[-0.5] * 2, [-0.5] * 3]


def test_failed_runs_are_dropped_by_name_and_counted() -> None:
    empty = Trajectory(run="r4", question="q", answer="", outcome="ok", calls=())
    batch = [run("r1"), run("r2", "crashed"), run("r3", "timeout"), empty, run("r5", "crashed"), run("r6", "invalid")]
    buffer = RolloutBuffer.of(batch)
    assert [item.run for item in buffer.trajectories] == ["r1", "r6"]
    assert buffer.dropped.runs == {"crashed": ("r2", "r5"), "timeout": ("r3",), "no-calls": ("r4",)}
    assert buffer.dropped.counts == {"crashed": 2, "timeout": 1, "no-calls": 1}
    assert (buffer.dropped + buffer.dropped).total == 8


def test_what_cannot_be_trained_on_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"run r2, call root/AG: greedy"):
        RolloutBuffer.of([run("r1"), run("r2", greedy=True)])
    with pytest.raises(ConfigError, match="r1 is in the batch twice"):
        RolloutBuffer.of([run("r1"), run("r1")])
    with pytest.raises(LedgerError, match=r"run r1, call root/AG: 3 response tokens, 1 log-prob"):
        RolloutBuffer.of([run("r1", logprobs=(-1.0,))])
    with pytest.raises(LedgerError, match="finite"):
        RolloutBuffer.of([run("r1", logprobs=(-1.0, float("nan"), 0.0))])
    with pytest.raises(ValueError, match=r"run r1: .*ghost"):
        RolloutBuffer.of([run("r1", parents=("ghost",))])
    assert len(RolloutBuffer.of([run("r1", "crashed", greedy=True)])) == 0  # dropped before it is judged


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ("all", [True, True]),
        ("planner", [True, False]),
        ("executors", [False, True]),
        ({"AG"}, [False, True]),
    ],
)
def test_which_roles_are_trained(train: object, expected: list[bool]) -> None:
    buffer = RolloutBuffer.of([run("r1")], train)  # type: ignore[arg-type]
    assert buffer.trained.tolist() == expected
    weighed = buffer.weighed()
    assert weighed.weights is not None and weighed.value_weights is not None
    assert [bool(w > 0) for w in weighed.weights] == expected
    assert weighed.value_weights.tolist() == [0.5, 0.5]  # frozen calls still teach the critic
    total = sum(w * c for w, c in zip(weighed.weights, buffer.counts, strict=True))
    assert total == pytest.approx(1.0)


def test_unknown_train_modes_are_refused() -> None:
    modes: list[object] = ["everyone", set()]
    for train in modes:
        with pytest.raises(ConfigError, match="train"):
            RolloutBuffer.of([run("r1")], train)  # type: ignore[arg-type]


def test_weights_by_hand() -> None:
    # r1 has 1 + 3 sampled tokens, r2 the same: 1/(2·4) each per trajectory, 1/8 per token.
    buffer = RolloutBuffer.of([run("r1"), run("r2")], "all")
    modes: list[Weighting] = ["trajectory", "token"]
    for weighting in modes:
        weighed = buffer.weighed(weighting)
        assert weighed.weights is not None
        assert weighed.weights.tolist() == pytest.approx([0.125] * 4)


def test_credit_fills_advantages_and_targets_and_whitening_spares_the_targets() -> None:
    buffer = RolloutBuffer.of([run("r1"), run("r2")]).with_values([[0.5, 0.0]] * 4)
    credits = []
    for index, (dag, reward) in enumerate(zip(buffer.dags, (1.0, 0.0), strict=True)):
        values, own_values = buffer.call_values(index)
        own = {"root/planner": 0.0, "root/AG": -1.0}
        credits.append((tree_gae(dag, reward, values, own, own_values, lam=1.0), own))
    filled = buffer.with_credit(credits).weighed()
    assert filled.returns is not None and filled.advantages is not None
    assert filled.returns.tolist() == [[1.0, 0.0], [1.0, -1.0], [0.0, 0.0], [0.0, -1.0]]
    assert [part.tolist() for part in filled.advantages] == [[0.5] * 2, [-0.5] * 3, [-0.5] * 2, [-1.5] * 3]
    # Weights are 1/8 a token; sampled tokens: 1, 3, 1, 3. Mean = (0.5 − 1.5 − 0.5 − 4.5)/8 = −0.75,
    # variance = (1.25² + 3·0.25² + 0.25² + 3·0.75²)/8 = 3.5/8 = 0.4375, σ = 0.661438.
    white = filled.whitened()
    assert white.advantages is not None and white.returns is filled.returns
    assert white.advantages[0].tolist() == pytest.approx([1.25 / 0.661438, 0.0], abs=1e-5)  # forced: no weight
    assert white.advantages[3].tolist() == pytest.approx([-0.75 / 0.661438] * 3, abs=1e-5)
    with pytest.raises(ValueError, match="whitening needs"):
        buffer.whitened()


def test_broadcast_credit_is_per_token() -> None:
    buffer = RolloutBuffer.of([run("r1")])
    own = {"root/planner": 0.0, "root/AG": -1.0}
    tokens = {"root/planner": [0.1, 0.2], "root/AG": [0.0, 0.1, 0.2]}
    filled = buffer.with_credit([(broadcast(buffer.dags[0], 1.0, tokens, own), own)])
    assert filled.advantages is not None and filled.returns is not None
    assert filled.advantages[1].tolist() == pytest.approx([0.0, -0.1, -0.2])
    assert filled.returns[:, 0].tolist() == [1.0, 0.0]


def test_wrong_shapes_are_refused() -> None:
    buffer = RolloutBuffer.of([run("r1")])
    with pytest.raises(ValueError, match="old: need 2 rows"):
        buffer.with_logprobs([np.zeros(2), np.zeros(2)], None)
    with pytest.raises(ValueError, match=r"values: shape \(2, 3\)"):
        buffer.with_values(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="2 credits for 1"):
        buffer.with_credit([None, None])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="no values yet"):
        buffer.call_values(0)


def test_an_empty_batch_stays_empty_through_every_stage() -> None:
    buffer = RolloutBuffer.of([run("r1", "crashed")]).with_values(np.zeros((0, 2))).with_credit([])
    assert len(buffer.weighed("token").whitened()) == 0
    assert len(buffer.weighed("trajectory", lambda tensor: tensor + torch.ones_like(tensor))) == 0
