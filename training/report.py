"""What a training run leaves in the tracking store beside its metrics: credit in traces, figures, ledger statistics."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from agents.errors import LedgerError
from evaluation.ledger_statistics import ledger_report
from evaluation.plots import learning_curve, topology_shares
from evaluation.traces import RunCredit
from evaluation.tracking import TrackedRun
from training.buffer import RolloutBuffer
from training.credit import Credit
from training.history import read_metrics
from training.rollout import Rollout
from training.session import Session


def hash_tags(session: Session) -> dict[str, str]:
    """Return the three hashes as the tags of a run: text, policy (as it is now) and environment, one for each set."""
    identity = session.players.shared.identity
    found = {world.name: world.graph.recorder.hashes()["environment"] for world in session.worlds}
    environment = ", ".join(value if len(found) == 1 else f"{name} {value}" for name, value in found.items())
    tags = {"hash.text": identity["text"], "hash.policy": identity["policy"]}
    return tags | ({"hash.environment": environment} if found else {})


def report_figures(output: Path, tracked: TrackedRun) -> None:
    """Draw the learning curve and the topology shares of the iterations so far; they replace the figures before.

    Args:
        output: Folder of the training run, whose metrics are read.
        tracked: Where the figures go, below plots/.
    """
    rows = read_metrics(output)
    if not rows:
        return
    tracked.log_figure(learning_curve(rows), "plots/learning.png")
    shares = topology_shares(rows)
    if shares is not None:
        tracked.log_figure(shares, "plots/topologies.png")


def report_ledger(path: Path, tracked: TrackedRun) -> None:
    """Store the statistics of a ledger as ledger.json; nothing where there is none.

    Args:
        path: Ledger file or folder.
        tracked: Where the artifact goes.
    """
    try:
        found = ledger_report(path)
    except LedgerError:
        return
    tracked.log_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "ledger.json")


def run_credit(buffer: RolloutBuffer, rollout: Rollout, credits: Sequence[Credit]) -> dict[str, RunCredit]:
    """Return reward and credit of each run, for the trace view.

    A call's reward is f_c, and R as well at the sink; its value is the V that its advantage was taken against, which is
    the leave-one-out baseline under `loo`.
    """
    found = {}
    for item, dag, credit, reward in zip(buffer.trajectories, buffer.dags, credits, rollout.team, strict=True):
        calls = {
            call: {
                "reward": reward.format[call] + (reward.total if call == dag.sink else 0.0),
                "format": reward.format[call],
                "value": credit.returns[call] - credit.advantages[call],
                "return": credit.returns[call],
                "advantage": credit.total[call],
            }
            for call in credit.returns
        }
        paid = {name: getattr(reward, name) for name in ("total", "score", "turn_cost", "retrieval_cost")}
        found[item.run] = RunCredit(paid, calls)
    return found
