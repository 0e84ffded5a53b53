"""Where in a LangGraph run a call was made: supersteps and send order, heard through callbacks.

LangGraph tells a node its own step only. The steps of the subgraphs around it, which the call DAG needs, pass
by as chain-start events, one per task and level, with the task's namespace, step and path in the metadata.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from langgraph.callbacks import GraphCallbackHandler

NS_SEPARATOR = "|"


@dataclass(frozen=True, order=True)
class Level:
    """One level of a place: a task of one superstep."""

    step: int
    """Superstep within its own graph, from 1."""
    node: str
    send: int
    """Position in the fan-out for `Send` tasks, -1 for ordinary ones."""
    task: str
    """LangGraph's random task id: tells tasks apart, never ordered by."""

    @property
    def invocation(self) -> int:
        """Return n where this level stands for the n-th further subgraph that one task ran, else 0."""
        return int(self.node) if self.node.isdigit() and not self.task else 0


Place = tuple[Level, ...]


class Tracker(GraphCallbackHandler):
    """Listen to one run: places of its tasks, its final output, whether it paused."""

    run_inline = True

    def __init__(self) -> None:
        """Start with nothing heard."""
        super().__init__()
        self._levels: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._root: UUID | None = None
        self.output: Any = None
        """What the graph's outermost chain returned."""
        self.paused = False
        """Whether the run stopped at a breakpoint or an interrupt."""

    def on_chain_start(
        self,
        serialized: dict[str, Any] | None,
        inputs: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Remember step and send position of a task when its namespace is first heard."""
        if self._root is None:
            self._root = run_id
        namespace = (metadata or {}).get("langgraph_checkpoint_ns")
        if not namespace or namespace in self._levels:
            return
        path: Sequence[Any] = (metadata or {}).get("langgraph_path") or []
        pushed = len(path) > 1 and path[0] == "__pregel_push" and isinstance(path[1], int)
        with self._lock:
            self._levels.setdefault(
                namespace, (int((metadata or {}).get("langgraph_step", 0)), path[1] if pushed else -1)
            )

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Keep what the outermost chain returned."""
        if run_id == self._root:
            self.output = outputs

    def on_interrupt(self, event: Any) -> None:
        """Note that the run paused."""
        self.paused = True

    def place(self, config: Mapping[str, Any]) -> Place:
        """Return the place of the node that holds `config`, outermost level first."""
        namespace = str(config.get("metadata", {}).get("langgraph_checkpoint_ns", ""))
        levels: list[Level] = []
        prefix: list[str] = []
        for part in filter(None, namespace.split(NS_SEPARATOR)):
            prefix.append(part)
            node, _, task = part.partition(":")
            step, send = self._levels.get(NS_SEPARATOR.join(prefix), (0, -1))
            levels.append(Level(step, node, send, task))
        return tuple(levels)


def node_path(place: Place) -> str:
    """Return a path that is the same in every run: node names, with the send position where there is one."""
    parts = (f"{level.node}[{level.send}]" if level.send >= 0 else level.node for level in place)
    return "/".join(parts) or "node"
