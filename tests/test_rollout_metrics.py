from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluation.glossary import check_metrics
from graphs.trajectory import Retrieval, Trajectory
from tests.test_buffer import call
from training.buffer import RolloutBuffer
from training.credit import tree_gae
from training.reward import rewards
from training.rollout_metrics import credit_metrics, ledger_metrics, rollout_metrics


def runs() -> list[Trajectory]:
    chain = {"plan": "R,AG", "children": []}
    calls = (
        call("root/planner", (), 0, size=4),
        call("root/document_selector", ("root/planner",), 1, value=[]),
        call("root/AG", ("root/document_selector",), 2, format_error="truncated", truncated=True, dropped_documents=2),
    )
    first = Trajectory("r1", "who is who", "I don't know", "truncated", calls, workflow=chain, turns=1,
                       retrievals=(Retrieval("root/R", "q", (), (), 0.0),))  # fmt: skip
    split = {"plan": "QDS", "children": [chain, {"plan": "R,AG", "children": []}]}
    second = Trajectory("r2", "the river of a b c", "river of a b c", "ok", calls[:1], workflow=split, turns=3)
    return [first, second, replace(second, run="r3", outcome="crashed", calls=())]


def test_shares_and_means_by_hand() -> None:
    batch = runs()
    paid = {"r1": rewards(batch[0], 0.2, beta=0.3), "r2": rewards(batch[1], 1.0, alpha=0.3)}
    found = rollout_metrics(batch, paid, lambda run: {"r1": 0.4, "r3": 0.9}.get(run.run))
    check_metrics(found)
    assert found["rollout/f1"] == 0.4  # of the rewarded run with gold answers
    # each run's R and the mean format penalty of its calls: one of three, none of one
    assert found["rollout/objective"] == pytest.approx(((0.2 - 0.1 - 1 / 3) + (1.0 - 0.2)) / 2)
    assert found["rollout/reward"] == pytest.approx(((0.2 - 0.1) + (1.0 - 0.2)) / 2)
    assert found["rollout/score"] == pytest.approx(0.6)
    assert found["rollout/turn_cost"] == pytest.approx(0.1) and found["rollout/retrieval_cost"] == pytest.approx(0.05)
    assert found["rollout/turns"] == pytest.approx(7 / 3) and found["rollout/retrievals"] == pytest.approx(1 / 3)
    assert found["rollout/topology/QDS"] == pytest.approx(2 / 3) and found["rollout/topology/QDP"] == 0.0
    assert found["rollout/plan/R-AG"] == pytest.approx(5 / 7) and found["rollout/depth"] == pytest.approx(2 / 3)
    assert found["rollout/plan_entropy"] == pytest.approx(-(2 / 3) * np.log(2 / 3) - (1 / 3) * np.log(1 / 3))
    assert found["rollout/dont_know"] == found["rollout/copy"] == 0.5  # of two answers: the third run crashed
    assert found["rollout/outcome/crashed"] == pytest.approx(1 / 3)
    assert found["rollout/valid/AG"] == 0.0 and found["rollout/truncated/AG"] == 1.0
    assert found["rollout/format/AG"] == -1.0 and found["rollout/format/planner"] == 0.0
    assert found["rollout/calls/planner"] == pytest.approx(2 / 3) and found["rollout/length/planner"] == 4.0
    assert found["rollout/reward/document_selector"] == pytest.approx(0.1) and found["rollout/empty_selection"] == 1.0
    # the planner spoke in both scored runs (r2 paid 0.2 for two extra turns), the generator in r1 alone
    assert found["rollout/score/planner"] == pytest.approx(0.6) and found["rollout/score/AG"] == pytest.approx(0.2)
    assert found["rollout/turn_cost/planner"] == pytest.approx(0.1) and found["rollout/turn_cost/AG"] == 0.0
    assert found["rollout/retrieval_cost/planner"] == pytest.approx(0.05)
    assert found["rollout/retrieval_cost/AG"] == pytest.approx(0.1)
    assert found["rollout/dropped_documents"] == pytest.approx(2 / 3)  # two, in one of three runs


def test_what_an_iteration_recorded(tmp_path: Path) -> None:
    segment = tmp_path / "segment.jsonl"
    segment.write_bytes(b"x" * 70)
    found = ledger_metrics(runs(), [segment])
    check_metrics(found)
    assert found == {"ledger/runs": 3.0, "ledger/calls": 4.0, "ledger/tokens": 27.0, "ledger/bytes": 70.0}
    assert "ledger/bytes" not in ledger_metrics(runs(), [])  # replayed from elsewhere


def test_credit_by_role_by_hand() -> None:
    buffer = RolloutBuffer.of(runs()[:2])
    values = np.zeros((len(buffer), 2), dtype=np.float32)
    values[:, 0] = 0.5
    old = [np.full(len(row.call.response_ids), -2.0) for row in buffer.rows]
    buffer = buffer.with_logprobs(old, None).with_values(values)
    credits, local = [], []
    for index, (dag, reward) in enumerate(zip(buffer.dags, (0.0, 1.0), strict=True)):
        team, own = buffer.call_values(index)
        local.append(dict.fromkeys(dag.order, 0.0))
        credits.append(tree_gae(dag, reward, team, local[-1], own, lam=1.0))
    found = credit_metrics(buffer.with_credit(list(zip(credits, local, strict=True))), [0.0, 1.0])
    check_metrics(found)
    assert found["update/advantage/planner"] == pytest.approx(0.0)  # −0.5 and +0.5
    assert found["update/advantage_std/planner"] == pytest.approx(0.5)
    assert found["update/advantage/AG"] == pytest.approx(-0.5) and found["update/return/AG"] == 0.0
    assert found["update/value/planner"] == 0.5 and found["update/correct_logprob"] == -2.0
    assert found["update/explained_variance"] == pytest.approx(0.0)  # a constant explains nothing
    assert "update/explained_variance_format" not in found  # undefined: f does not vary
    assert found["update/explained_variance/planner"] == pytest.approx(0.0)
    assert "update/explained_variance/AG" not in found  # undefined: it spoke once
    untold = credit_metrics(buffer.with_credit(list(zip(credits, local, strict=True))), [0.0, 1.0], critic=False)
    assert untold == {name: value for name, value in found.items() if "/value/" not in name and "/expl" not in name}
    assert len(untold) < len(found)
    values[:, 0] = [0.25, 0.5, 0.5, 0.75]  # the planner's G are 0 and 1: Var(G − V)/Var(G) = 0.0625/0.25
    guessed = credit_metrics(buffer.with_values(values).with_credit(list(zip(credits, local, strict=True))), [0.0, 1.0])
    assert guessed["update/explained_variance/planner"] == pytest.approx(0.75)
    assert found["update/rows"] == 4.0 and found["update/tokens"] == 12.0
