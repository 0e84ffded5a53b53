"""What a batch of executions looked like: reward parts, validity, lengths, workflow shares, signs of gaming.

Numbers only, under the names of `evaluation.glossary`; failed runs count where a share of all runs is meant.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.call import Call
from agents.workflow import BY_TEXT, Topology
from evaluation.metrics import normalize_squad
from graphs.trajectory import FAILED, Trajectory
from training.buffer import Floats, RolloutBuffer
from training.duals import RETRIEVALS, TURNS
from training.losses import explained_variance
from training.reward import TrajectoryReward, charged_retrievals, charged_turns
from training.update import returns_of

DECLINED = frozenset(
    {"", "unknown", "i dont know", "dont know", "none", "not known", "no answer", "unanswerable", "not mentioned"}
)
"""Normalised answers that decline to answer."""
PARTS = {"reward": "total", "score": "score", "turn_cost": "turn_cost", "retrieval_cost": "retrieval_cost"}
"""Tracked name of each part of a run's reward → attribute of `TrajectoryReward`."""


def rollout_metrics(
    runs: Sequence[Trajectory],
    rewards: Mapping[str, TrajectoryReward],
    f1: Callable[[Trajectory], float | None] = lambda run: None,
) -> dict[str, float]:
    """Describe a batch.

    Args:
        runs: All executions of the batch, failed ones included.
        rewards: Run id → reward parts, of those that were scored.
        f1: Token F1 of a run's answer; None where no gold answer is known.
    """
    if not runs:
        return {}
    scored = [run for run in runs if run.run in rewards]
    answered = [run for run in runs if run.outcome not in FAILED]
    found = {"rollout/trajectories": float(len(runs)), **_rewards([rewards[run.run] for run in scored])}
    accuracy = [value for run in scored if (value := f1(run)) is not None]
    found |= {"rollout/f1": _mean(accuracy)} if accuracy else {}
    found |= {
        "rollout/turns": _mean(run.turns for run in runs),
        "rollout/retrievals": _mean(len(run.retrievals) for run in runs),
        TURNS: _mean(charged_turns(run.turns) for run in scored),
        RETRIEVALS: _mean(charged_retrievals(len(run.retrievals)) for run in scored),
        "rollout/calls": _mean(len(run.calls) for run in runs),
        "rollout/prompt_tokens": _mean(sum(len(call.prompt_ids) for call in run.calls) for run in runs),
        "rollout/generated_tokens": _mean(sum(len(call.response_ids) for call in run.calls) for run in runs),
        "rollout/budget_hit": _mean(run.budget_hit for run in runs),
        "rollout/dropped_documents": _mean(sum(call.dropped_documents for call in run.calls) for run in runs),
        "rollout/dont_know": _mean(normalize_squad(run.answer) in DECLINED for run in answered),
        "rollout/copy": _mean(_copied(run) for run in answered),
    }
    outcomes = Counter(run.outcome for run in runs)
    found |= {f"rollout/outcome/{name}": count / len(runs) for name, count in outcomes.items()}
    return found | _by_role(runs, rewards) | _workflows(runs)


def ledger_metrics(runs: Sequence[Trajectory], segments: Sequence[Path]) -> dict[str, float]:
    """Count what one iteration recorded, or replayed.

    Args:
        runs: All executions of the batch.
        segments: The files that hold exactly these; none = they come from elsewhere.
    """
    calls = sum(len(run.calls) for run in runs)
    found = {"ledger/runs": float(len(runs)), "ledger/calls": float(calls), "ledger/tokens": float(tokens_of(runs))}
    size = sum(file.stat().st_size for file in segments)
    return {**found, "ledger/bytes": float(size)} if segments else found


def tokens_of(runs: Sequence[Trajectory]) -> int:
    """Return the prompt and response tokens of all calls."""
    return sum(len(call.prompt_ids) + len(call.response_ids) for run in runs for call in run.calls)


def _rewards(parts: Sequence[TrajectoryReward]) -> dict[str, float]:
    if not parts:
        return {}
    found = {f"rollout/{name}": _mean(getattr(part, attribute) for part in parts) for name, attribute in PARTS.items()}
    found["rollout/objective"] = _mean(part.total + _mean(part.format.values()) for part in parts)
    return {**found, "rollout/reward_std": float(np.std([part.total for part in parts]))}


def _by_role(runs: Sequence[Trajectory], rewards: Mapping[str, TrajectoryReward]) -> dict[str, float]:
    calls: dict[str, list[tuple[Trajectory, Call]]] = defaultdict(list)
    for run in runs:
        for call in run.calls:
            calls[call.role].append((run, call))
    found: dict[str, float] = {}
    for role, mine in sorted(calls.items()):
        found[f"rollout/calls/{role}"] = len(mine) / len(runs)
        found[f"rollout/valid/{role}"] = _mean(call.format_error is None for _, call in mine)
        found[f"rollout/truncated/{role}"] = _mean(call.truncated for _, call in mine)
        found[f"rollout/length/{role}"] = _mean(len(call.response_ids) for _, call in mine)
        paid = [(rewards[run.run], call) for run, call in mine if run.run in rewards]
        if paid:
            found[f"rollout/format/{role}"] = _mean(reward.format[call.id] for reward, call in paid)
            spoke = {run.run: rewards[run.run] for run, _ in mine if run.run in rewards}
            for name, attribute in PARTS.items():
                found[f"rollout/{name}/{role}"] = _mean(getattr(part, attribute) for part in spoke.values())
    selections = [call for _, call in calls.get("document_selector", ()) if call.format_error is None]
    if selections:
        found["rollout/empty_selection"] = _mean(not call.value for call in selections)
    return found


def _workflows(runs: Sequence[Trajectory]) -> dict[str, float]:
    """Return topology shares of roots, plan shares of all planned nodes, and their spread; none without plans."""
    planned = [run.workflow for run in runs if run.workflow]
    if not planned:
        return {}
    roots = Counter(str(tree.get("plan")) for tree in planned)
    ours = any(plan in BY_TEXT for plan in roots)
    shapes = Counter({topology.value: 0 for topology in Topology} if ours else {})  # 0 of a share is news too
    for plan, count in roots.items():
        shapes[BY_TEXT[plan].topology.value if plan in BY_TEXT else "other"] += count
    nodes = Counter(plan for tree in planned for plan in _plans(tree))
    found = {f"rollout/topology/{name}": count / len(planned) for name, count in shapes.items()}
    total = sum(nodes.values())
    found |= {f"rollout/plan/{plan.replace(',', '-')}": count / total for plan, count in nodes.items()}
    shares = [count / len(planned) for count in roots.values()]
    found["rollout/plan_entropy"] = -sum(share * math.log(share) for share in shares)
    found["rollout/depth"] = _mean(_depth(tree) for tree in planned)
    return found


def _plans(tree: Mapping[str, Any]) -> Iterator[str]:
    if tree.get("plan"):
        yield str(tree["plan"])
    for child in tree.get("children") or ():
        yield from _plans(child)


def _depth(tree: Mapping[str, Any]) -> int:
    children = tree.get("children") or ()
    return 1 + max((_depth(child) for child in children), default=0) if children else 0


def _copied(run: Trajectory) -> bool:
    """Return whether the answer is the question, or a long part of it."""
    answer = normalize_squad(run.answer)
    return len(answer.split()) >= 4 and answer in normalize_squad(run.question)


def credit_metrics(buffer: RolloutBuffer, scores: Sequence[float], *, critic: bool = True) -> dict[str, float]:
    """Describe advantages, returns and values by role, before whitening.

    Args:
        buffer: Filled but not whitened.
        scores: Of each trajectory.
        critic: Whether a critic learns; else nothing is said of its values.
    """
    assert buffer.advantages is not None and buffer.old is not None
    values, returns = returns_of(buffer)
    found: dict[str, float] = {}
    means = np.array([part.mean() if len(part) else 0.0 for part in buffer.advantages])
    for index, role in enumerate(buffer.roles):
        mine = buffer.role_ids == index
        found[f"update/advantage/{role}"] = float(means[mine].mean())
        found[f"update/advantage_std/{role}"] = float(means[mine].std())
        found[f"update/return/{role}"] = float(returns[mine, 0].mean())
        if critic:
            found[f"update/value/{role}"] = float(values[mine, 0].mean())
    found["update/rows"] = float(buffer.trained.sum())
    found["update/tokens"] = float(buffer.counts.sum())
    found |= _explained(buffer, values, returns) if critic else {}
    good = [
        part[np.array(row.call.mask, dtype=bool)]
        for part, row in zip(buffer.old, buffer.rows, strict=True)
        if row.trained and scores[row.trajectory] > 0
    ]
    sampled = np.concatenate([*good, np.zeros(0)])
    if sampled.size:
        found["update/correct_logprob"] = float(sampled.mean())
    return found


def _explained(buffer: RolloutBuffer, values: Floats, returns: Floats) -> dict[str, float]:
    """Return explained variances: of both outputs over all calls, and of the team output by role; none undefined."""
    names = ("update/explained_variance", "update/explained_variance_format")
    cases = {name: (values[:, i], returns[:, i]) for i, name in enumerate(names)}
    for index, role in enumerate(buffer.roles):
        mine = buffer.role_ids == index
        cases[f"update/explained_variance/{role}"] = values[mine, 0], returns[mine, 0]
    found = {name: explained_variance(*(torch.tensor(part) for part in pair)) for name, pair in cases.items()}
    return {name: value for name, value in found.items() if not math.isnan(value)}


def _mean(values: Any) -> float:
    items = [float(value) for value in values]
    return sum(items) / len(items) if items else 0.0
