"""The call DAG of one run: who followed whom, checked once, so that the credit estimators need not check.

Nodes are the model calls of a run, frozen roles included; `Call.parents` are the edges (DESIGN §5 "Call
DAG"). Children and the flattened chain follow depth-first send order (`Call.order`), which is also a
topological order.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agents.call import Call
from graphs.trajectory import Trajectory


@dataclass(frozen=True)
class CallDag:
    """A checked call DAG: acyclic, all parents known, exactly one sink."""

    run: str
    """Id of the run, for messages."""
    order: tuple[str, ...]
    """All call ids, each after its parents; equals the depth-first send order; the last one is the sink."""
    parents: Mapping[str, tuple[str, ...]]
    children: Mapping[str, tuple[str, ...]]
    """Successors of each call, in depth-first send order."""

    @property
    def sink(self) -> str:
        """Return the id of the one call that nothing follows: the one that gave the final answer."""
        return self.order[-1]


def call_dag(run: str, calls: Sequence[Call]) -> CallDag:
    """Build and check the call DAG of one run.

    Args:
        run: Id of the run, named in every error.
        calls: Its calls. Sorted by `Call.order`; calls of equal order keep their place in the sequence.

    Raises:
        ValueError: No call, an id used twice, an unknown parent, a cycle, or not exactly one sink.
    """
    listed = sorted(calls, key=lambda call: call.order)
    position = {call.id: place for place, call in enumerate(listed)}
    if not listed:
        raise ValueError(f"run {run}: it has no calls, so there is nothing to credit")
    if len(position) < len(listed):
        twice = sorted({call.id for call in listed if sum(other.id == call.id for other in listed) > 1})
        raise ValueError(f"run {run}: call ids used twice: {', '.join(twice)}")
    parents = {call.id: tuple(dict.fromkeys(call.parents)) for call in listed}
    for call, above in parents.items():
        unknown = [parent for parent in above if parent not in position]
        if unknown:
            raise ValueError(f"run {run}: call {call} follows {', '.join(unknown)}, which it does not have")
    children = {call.id: tuple(c.id for c in listed if call.id in parents[c.id]) for call in listed}
    order = _topological(run, position, parents, children)
    sinks = [call for call in order if not children[call]]
    if len(sinks) != 1:
        raise ValueError(
            f"run {run}: {len(sinks)} calls are followed by none ({', '.join(sinks)}); exactly one must be, "
            "the call that gives the final answer"
        )
    return CallDag(run, order, parents, children)


def trajectory_dag(trajectory: Trajectory) -> CallDag:
    """Build and check the call DAG of a recorded execution.

    Raises:
        ValueError: As `call_dag`.
    """
    return call_dag(trajectory.run, trajectory.calls)


def _topological(
    run: str,
    position: Mapping[str, int],
    parents: Mapping[str, tuple[str, ...]],
    children: Mapping[str, tuple[str, ...]],
) -> tuple[str, ...]:
    """Return the topological order closest to send order (Kahn's algorithm, earliest sent first)."""
    waiting = {call: len(above) for call, above in parents.items()}
    ready = [(position[call], call) for call, count in waiting.items() if count == 0]
    heapq.heapify(ready)
    order: list[str] = []
    while ready:
        call = heapq.heappop(ready)[1]
        order.append(call)
        for child in children[call]:
            waiting[child] -= 1
            if waiting[child] == 0:
                heapq.heappush(ready, (position[child], child))
    if len(order) < len(position):
        stuck = ", ".join(call for call in position if call not in set(order))
        raise ValueError(f"run {run}: the calls {stuck} follow one another in a circle")
    return tuple(order)
