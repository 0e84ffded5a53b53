"""The rollout buffer: the batch that PPO sees, built from recorded token ids, never from decoded text.

One row per call, frozen roles included: they stay in the call DAG and carry values, but no policy loss.
Rows are ragged; `training.minibatch` pads them. The buffer is frozen: each stage of an update (old and
reference log-probabilities, values, credit, weights, whitening) returns a new one. Against the released
code: no row is dropped, duplicated or truncated to fit a shape, and what is left out is counted by name
(DESIGN §6).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from agents.call import Call
from agents.errors import ConfigError, LedgerError
from graphs.trajectory import FAILED, Trajectory
from training.calldag import CallDag, trajectory_dag
from training.credit import Credit
from training.dropped import Dropped
from training.losses import Reduce, alone, per_token, per_trajectory, whiten

Floats = npt.NDArray[np.float32]
Ragged = tuple[Floats, ...]
"""One array per row, as long as the row's response."""
Train = Literal["all", "planner", "executors"]
Weighting = Literal["trajectory", "token"]
PLANNER = "planner"
"""The role that decides; every other role executes."""


@dataclass(frozen=True)
class Row:
    """One call in the buffer."""

    trajectory: int
    """Index into `RolloutBuffer.trajectories`."""
    call: Call
    """Token ids, recorded log-probabilities μ, response mask m, τ, constraint (which gives M), adapter."""
    role: int
    """Index into `RolloutBuffer.roles`."""
    trained: bool
    """Whether it carries policy loss."""

    @property
    def length(self) -> int:
        """Return how many tokens prompt and response have together."""
        return len(self.call.prompt_ids) + len(self.call.response_ids)


@dataclass(frozen=True)
class RolloutBuffer:
    """N rows of whole trajectories, in trajectory order and, within one, in depth-first send order."""

    trajectories: tuple[Trajectory, ...]
    dags: tuple[CallDag, ...]
    """One per trajectory."""
    rows: tuple[Row, ...]
    roles: tuple[str, ...]
    """Role names, sorted; `Row.role` is an index into it."""
    edges: tuple[tuple[int, int], ...]
    """Edges of all call DAGs as (row of the parent, row of the child)."""
    dropped: Dropped
    old: Ragged | None = None
    """Log-probabilities of the trained model at the start of the update."""
    ref: Ragged | None = None
    """Log-probabilities of the frozen reference."""
    values: Floats | None = None
    """(N, 2): the critic's V and V^f at the last prompt token, when the update starts."""
    token_values: Ragged | None = None
    """Only for `broadcast`: V_{c,t} of every response token."""
    advantages: Ragged | None = None
    """A_c + A^f_c on every response token; whitened after `whitened`."""
    returns: Floats | None = None
    """(N, 2): the value targets G (R + f under `broadcast`) and f; never whitened."""
    weights: Floats | None = None
    """(N,): w of one response token with m = 1; 0 for rows that carry no policy loss."""
    value_weights: Floats | None = None
    """(N,): w of one call in the value loss; frozen calls included."""

    @staticmethod
    def of(trajectories: Iterable[Trajectory], train: Train | Collection[str] = "all") -> RolloutBuffer:
        """Build the buffer from recorded executions.

        Args:
            trajectories: Whole runs; failed ones and ones without calls are dropped, by name and counted.
            train: Which roles carry policy loss: "all", "planner", "executors", or a set of role names.

        Raises:
            ConfigError: A run is greedy, appears twice, or `train` is not understood.
            LedgerError: A call's fields do not fit together.
            ValueError: A call DAG is malformed; the message names the run.
        """
        kept, dropped = _sort_out(trajectories)
        dags = tuple(trajectory_dag(run) for run in kept)
        roles = tuple(sorted({call.role for run in kept for call in run.calls}))
        learners = _learners(train, roles)
        rows: list[Row] = []
        edges: list[tuple[int, int]] = []
        for index, (run, dag) in enumerate(zip(kept, dags, strict=True)):
            calls = {call.id: call for call in run.calls}
            place = {call: len(rows) + offset for offset, call in enumerate(dag.order)}
            rows += [
                Row(index, calls[name], roles.index(calls[name].role), calls[name].role in learners)
                for name in dag.order
            ]
            edges += [(place[above], place[name]) for name in dag.order for above in dag.parents[name]]
        return RolloutBuffer(kept, dags, tuple(rows), roles, tuple(edges), dropped)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Return (N,) tokens of prompt and response."""
        return np.array([row.length for row in self.rows], dtype=np.int64)

    @property
    def role_ids(self) -> npt.NDArray[np.int64]:
        """Return (N,) indices into `roles`."""
        return np.array([row.role for row in self.rows], dtype=np.int64)

    @property
    def trajectory_ids(self) -> npt.NDArray[np.int64]:
        """Return (N,) indices into `trajectories`."""
        return np.array([row.trajectory for row in self.rows], dtype=np.int64)

    @property
    def trained(self) -> npt.NDArray[np.bool_]:
        """Return (N,): whether the row carries policy loss."""
        return np.array([row.trained for row in self.rows], dtype=np.bool_)

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Return (N,) Σ_t m_t, 0 for rows that are not trained: the tokens that share the weight."""
        return np.array([sum(row.call.mask) * row.trained for row in self.rows], dtype=np.int64)

    @property
    def mu(self) -> Ragged:
        """Return the log-probabilities recorded while sampling."""
        return tuple(np.array(row.call.logprobs, dtype=np.float32) for row in self.rows)

    def with_logprobs(self, old: Sequence[npt.ArrayLike], ref: Sequence[npt.ArrayLike] | None) -> RolloutBuffer:
        """Return the buffer with old and, where a KL term is wanted, reference log-probabilities per row."""
        return replace(self, old=self._ragged("old", old), ref=None if ref is None else self._ragged("ref", ref))

    def with_values(self, values: npt.ArrayLike, token_values: Sequence[npt.ArrayLike] | None = None) -> RolloutBuffer:
        """Return the buffer with the critic's values, (N, 2) per call and, for `broadcast`, per token."""
        tokens = None if token_values is None else self._ragged("token_values", token_values)
        return replace(self, values=self._per_call("values", values), token_values=tokens)

    def call_values(self, trajectory: int) -> tuple[dict[str, float], dict[str, float]]:
        """Return V and V^f of one trajectory by call id, as the credit estimators take them.

        Raises:
            ValueError: The values have not been filled in.
        """
        if self.values is None:
            raise ValueError("the buffer has no values yet; call with_values first")
        own = [(row.call.id, i) for i, row in enumerate(self.rows) if row.trajectory == trajectory]
        values = self.values
        return {c: float(values[i, 0]) for c, i in own}, {c: float(values[i, 1]) for c, i in own}

    def with_credit(self, credits: Sequence[tuple[Credit, dict[str, float]]]) -> RolloutBuffer:
        """Return the buffer with unwhitened advantages and value targets.

        Args:
            credits: One (credit, f by call id) per trajectory, in order.

        Raises:
            ValueError: Not one per trajectory.
        """
        if len(credits) != len(self.trajectories):
            raise ValueError(f"{len(credits)} credits for {len(self.trajectories)} trajectories")
        advantages, returns = [], np.zeros((len(self), 2), dtype=np.float32)
        for place, row in enumerate(self.rows):
            credit, own = credits[row.trajectory]
            advantages.append(credit.tokens(row.call.id, len(row.call.response_ids)))
            returns[place] = credit.returns[row.call.id], own[row.call.id]
        return replace(self, advantages=self._ragged("advantages", advantages), returns=returns)

    def weighed(self, weighting: Weighting = "trajectory", all_sum: Reduce = alone) -> RolloutBuffer:
        """Return the buffer with the weights of DESIGN §5, over all ranks, once per batch."""
        counts, calls = torch.from_numpy(self.counts), torch.ones(len(self))
        if weighting == "token":
            weights, value_weights = per_token(counts, all_sum), per_token(calls, all_sum)
        else:
            owners = torch.from_numpy(self.trajectory_ids)
            weights = per_trajectory(counts, owners, all_sum)
            value_weights = per_trajectory(calls, owners, all_sum)
        return replace(self, weights=weights.numpy(), value_weights=value_weights.numpy())

    def reweighed(self, weights: npt.ArrayLike) -> RolloutBuffer:
        """Return the buffer with given weights of one response token, (N,): for losses that weigh by role."""
        return replace(self, weights=np.asarray(weights, dtype=np.float32))

    def whitened(self, all_sum: Reduce = alone) -> RolloutBuffer:
        """Return the buffer with advantages of weighted mean 0 and variance 1 over the trained calls.

        Raises:
            ValueError: Credit or weights are missing.
        """
        if self.advantages is None or self.weights is None:
            raise ValueError("whitening needs with_credit and weighed first")
        sizes = [len(row.call.response_ids) for row in self.rows]
        mass = [w * np.array(row.call.mask) for w, row in zip(self.weights, self.rows, strict=True)]
        flat, trained = np.concatenate([*self.advantages, []]), np.repeat(self.trained, sizes)
        weights = torch.from_numpy(np.concatenate([*mass, []]))
        white = whiten(torch.from_numpy(flat), weights, torch.from_numpy(trained), all_sum).numpy()
        parts = np.split(white, np.cumsum(sizes)[:-1]) if sizes else []
        return replace(self, advantages=self._ragged("advantages", parts))

    def _ragged(self, name: str, given: Sequence[npt.ArrayLike]) -> Ragged:
        arrays = tuple(np.asarray(part, dtype=np.float32) for part in given)
        wanted = [len(row.call.response_ids) for row in self.rows]
        if [len(array) for array in arrays] != wanted:
            raise ValueError(f"{name}: need {len(wanted)} rows, each as long as its response")
        return arrays

    def _per_call(self, name: str, given: npt.ArrayLike) -> Floats:
        array = np.asarray(given, dtype=np.float32)
        if array.shape != (len(self), 2):
            raise ValueError(f"{name}: shape {array.shape}, need ({len(self)}, 2)")
        return array


def _learners(train: Train | Collection[str], roles: Collection[str]) -> set[str]:
    """Return the role names that carry policy loss."""
    if isinstance(train, str):
        known = {"all": set(roles), "planner": {PLANNER}, "executors": set(roles) - {PLANNER}}
        if train not in known:
            raise ConfigError(f"train={train!r}: must be all, planner, executors, or a set of role names")
        return known[train]
    if not train:
        raise ConfigError("train is an empty set of roles; name at least one, or use all, planner, executors")
    return set(train)


def _sort_out(trajectories: Iterable[Trajectory]) -> tuple[tuple[Trajectory, ...], Dropped]:
    """Separate usable runs from dropped ones and check the former."""
    kept: dict[str, Trajectory] = {}
    out: list[tuple[str, str]] = []
    for run in trajectories:
        if run.outcome in FAILED or not run.calls:
            out.append((run.outcome if run.outcome in FAILED else "no-calls", run.run))
            continue
        if run.run in kept:
            raise ConfigError(f"run {run.run} is in the batch twice; give each recorded run once")
        for call in run.calls:
            _check_call(run.run, call)
        kept[run.run] = run
    return tuple(kept.values()), Dropped.of(out)


def _check_call(run: str, call: Call) -> None:
    if call.greedy:
        raise ConfigError(
            f"run {run}, call {call.id}: greedy (sampled at temperature 0), which PPO cannot learn from; "
            "record with record='train', or use the run for SFT"
        )
    size = len(call.response_ids)
    if len(call.logprobs) != size or len(call.mask) != size or not call.prompt_ids:
        raise LedgerError(
            f"run {run}, call {call.id}: {size} response tokens, {len(call.logprobs)} log-probabilities, "
            f"{len(call.mask)} mask entries, {len(call.prompt_ids)} prompt tokens; the record is damaged"
        )
    if not all(math.isfinite(logprob) for logprob in call.logprobs) or not set(call.mask) <= {0, 1}:
        raise LedgerError(f"run {run}, call {call.id}: log-probabilities must be finite and the mask 0 or 1")
