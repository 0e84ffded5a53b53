"""Which recorded runs an update may use: hashes, policies, parity, staleness; every refusal named and counted.

The log-probabilities under today's adapters are needed anyway (old, DESIGN §5), so the parity of freshly collected
runs costs nothing; only runs of an older policy are scored once more by that policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from agents.call import Call
from agents.errors import LedgerError
from graphs.trajectory import FAILED, Trajectory
from training.adapter import START, TRAINED
from training.buffer import RolloutBuffer
from training.dropped import Dropped
from training.parity import (
    BF16,
    FP32,
    Gap,
    ParityLimits,
    StalenessLimits,
    gap,
    hash_problem,
    joined,
    parity_problem,
    staleness_problem,
    version_problem,
)
from training.players import Players
from training.policies import OLDER, PolicyStore
from training.scoring import Scored, score_buffer


@dataclass(frozen=True)
class Limits:
    """When a run is refused."""

    parity: ParityLimits
    staleness: StalenessLimits


@dataclass
class Screened:
    """What is left, scored."""

    buffer: RolloutBuffer
    scored: Scored
    dropped: Dropped
    metrics: dict[str, float] = field(default_factory=dict)


def limits_of(players: Players, mean: float | None, total: float | None, versions: int, drift: float) -> Limits:
    """Return the limits in force; None = the bound for the base's dtype."""
    half = next(players.shared.module.parameters()).dtype != torch.float32
    default = BF16 if half else FP32
    parity = ParityLimits(default.mean if mean is None else mean, default.total if total is None else total)
    return Limits(parity, StalenessLimits(versions, drift))


def screen(
    players: Players,
    store: PolicyStore,
    runs: Sequence[Trajectory],
    *,
    version: int,
    limits: Limits,
    token_budget: int,
    tokens: bool = False,
) -> Screened:
    """Refuse what may not be trained on, and score the rest.

    Args:
        players: Today's adapters and critic.
        store: Older policies.
        runs: Recorded executions, all of one batch.
        version: Version of the policy that learns.
        limits: When a run is refused.
        token_budget: Most tokens of a forward pass.
        tokens: Also values per response token.
    """
    refused: list[tuple[str, str]] = []
    kept = [run for run in _usable(players, runs, refused) if not _off_version(run, version, limits, refused)]
    samplers = {run.run: _samplers(players, store, run) for run in kept}
    refused += [("unknown-policy", run.run) for run in kept if samplers[run.run] is None]
    kept = [run for run in kept if samplers[run.run] is not None]
    buffer = RolloutBuffer.of(kept, players.train)
    scored = score_buffer(players, buffer, token_budget, tokens=tokens)
    parity = _parity_gaps(players, buffer, scored, {run: found or {} for run, found in samplers.items()})
    drift = _drifts(buffer, scored)
    for index, run in enumerate(buffer.trajectories):
        problem = parity_problem(parity[index], limits.parity) or staleness_problem(
            _version(run), version, drift[index], limits.staleness
        )
        if problem is not None:
            refused.append((problem, run.run))
    metrics = _metrics(buffer, parity, drift, version)
    out = {run for _, run in refused}
    if any(run.run in out for run in buffer.trajectories):
        left = [run for run in buffer.trajectories if run.run not in out]
        buffer = RolloutBuffer.of(left, players.train)
        scored = score_buffer(players, buffer, token_budget, tokens=tokens)
    players.shared.remove_adapter(OLDER)
    dropped = Dropped.of(refused)
    metrics |= {f"replay/refused/{reason}": float(count) for reason, count in dropped.counts.items()}
    return Screened(buffer, scored, dropped, metrics)


def _usable(players: Players, runs: Sequence[Trajectory], refused: list[tuple[str, str]]) -> list[Trajectory]:
    """Keep runs that did not fail, were sampled, can be read, and belong to one text and environment.

    Roles of one's own, which the text hash does not cover, must not have changed from one run to the next.
    """
    text, environment = players.shared.identity["text"], None
    kept: list[Trajectory] = []
    roles: dict[str, str] = {}
    for run in runs:
        problem = _record_problem(run) or hash_problem(run.hashes, text, environment)
        own: dict[str, str] = run.identity.get("roles") or {}
        if problem is None and any(roles.get(role, digest) != digest for role, digest in own.items()):
            problem = "other-roles"
        if problem is not None:
            refused.append((problem, run.run))
            continue
        environment = run.hashes.get("environment", "")
        roles |= own
        kept.append(run)
    return kept


def _off_version(run: Trajectory, version: int, limits: Limits, refused: list[tuple[str, str]]) -> bool:
    """Refuse a run whose version forbids it, before anything is spent on scoring it."""
    problem = version_problem(_version(run), version, limits.staleness)
    if problem is not None:
        refused.append((problem, run.run))
    return problem is not None


def _record_problem(run: Trajectory) -> str | None:
    if run.outcome in FAILED:
        return run.outcome
    if not run.calls:
        return "no-calls"
    if any(call.greedy for call in run.calls):
        return "greedy"
    try:
        RolloutBuffer.of([run])
    except (LedgerError, ValueError):
        return "damaged"
    return None


def _samplers(players: Players, store: PolicyStore, run: Trajectory) -> dict[str, str | None] | None:
    """Return call id → name of the loaded adapter that sampled it; None when one of them is gone."""
    found: dict[str, str | None] = {}
    for call in run.calls:
        if call.adapter is None:
            found[call.id] = None
        elif call.adapter == START:
            found[call.id] = players.start
        else:
            own = call.adapter in (TRAINED, run.identity.get("adapter"))
            known, name = store.find(players.shared, run.hashes.get("policy", "")) if own else (False, None)
            if not known:
                return None
            found[call.id] = name
    return found


def _parity_gaps(
    players: Players, buffer: RolloutBuffer, scored: Scored, samplers: dict[str, dict[str, str | None]]
) -> list[list[Gap]]:
    """Return per trajectory the gap of each call between recorded and recomputed μ."""
    gaps: list[list[Gap]] = [[] for _ in buffer.trajectories]
    again: dict[str | None, list[tuple[int, Call]]] = {}
    for place, row in enumerate(buffer.rows):
        sampler = samplers[buffer.trajectories[row.trajectory].run][row.call.id]
        if sampler == (TRAINED if row.trained else players.start):
            recomputed = scored.current[place].tolist()
            gaps[row.trajectory].append(gap(row.call.logprobs, recomputed, row.call.mask))
        else:
            again.setdefault(sampler, []).append((row.trajectory, row.call))
    for sampler, calls in again.items():
        rows = [(call.prompt_ids, call.response_ids, call.constraint, call.temperature) for _, call in calls]
        again_forced = players.ranks.spread(rows, partial(players.shared.teacher_force, adapter=sampler))
        for (trajectory, call), forced in zip(calls, again_forced, strict=True):
            gaps[trajectory].append(gap(call.logprobs, forced, call.mask))
    return gaps


def _drifts(buffer: RolloutBuffer, scored: Scored) -> list[Gap]:
    """Return per trajectory how far today's policy is from the one that sampled, over trained calls."""
    gaps: list[list[Gap]] = [[] for _ in buffer.trajectories]
    for place, row in enumerate(buffer.rows):
        if row.trained:
            gaps[row.trajectory].append(gap(row.call.logprobs, scored.current[place].tolist(), row.call.mask))
    return [joined(items) for items in gaps]


def _version(run: Trajectory) -> int:
    """Return the version of the policy that sampled; 0 where the record does not say."""
    try:
        return int(run.identity.get("version", 0))
    except (TypeError, ValueError):
        return 0


def _metrics(buffer: RolloutBuffer, parity: list[list[Gap]], drift: list[Gap], version: int) -> dict[str, float]:
    every = joined(item for gaps in parity for item in gaps)
    oldest = min((_version(run) for run in buffer.trajectories), default=version)
    return {
        "replay/parity_mean": every.mean,
        "replay/parity_call": every.total,
        "replay/staleness": joined(drift).mean,
        "replay/versions": float(version - oldest),
    }
