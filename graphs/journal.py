"""The journal of one run: its calls in the order they ended, and the call DAG that their places imply.

The DAG (DESIGN §5 "Call DAG") follows from LangGraph's supersteps alone, for any graph: tasks of one
superstep are parallel, the next superstep joins them, a subgraph is its calls in place of its node, and calls
of one task follow each other. Tools are not calls, so they are contracted by construction.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from agents.call import Call
from graphs.tracker import Level, Place
from graphs.trajectory import Retrieval


@dataclass(frozen=True)
class Entry:
    """A call, where it was made, and when it ended relative to the others."""

    call: Call
    place: Place
    sequence: int


class Journal:
    """Thread-safe list of a run's calls and retrievals."""

    def __init__(self) -> None:
        """Start empty."""
        self._lock = threading.Lock()
        self._entries: list[Entry] = []
        self._started: dict[str, int] = defaultdict(int)
        self.retrievals: list[tuple[Place, Retrieval]] = []

    def begin(self, path: str) -> int:
        """Return how many calls were begun at `path` before, and count this one."""
        with self._lock:
            index = self._started[path]
            self._started[path] += 1
            return index

    def add(self, call: Call, place: Place) -> None:
        """Add a finished call."""
        with self._lock:
            self._entries.append(Entry(call, place, len(self._entries)))

    def add_retrieval(self, retrieval: Retrieval, place: Place) -> None:
        """Add an executed retrieval."""
        with self._lock:
            self.retrievals.append((place, retrieval))

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Return the finished calls so far."""
        with self._lock:
            return tuple(self._entries)

    def linked(self) -> tuple[Call, ...]:
        """Return the calls depth first in send order, each with its parents."""
        return link(self.entries)

    def ordered_retrievals(self) -> tuple[Retrieval, ...]:
        """Return the retrievals depth first in send order."""
        with self._lock:
            return tuple(item for _, item in sorted(self.retrievals, key=lambda pair: _sort_key(pair[0])))


def _sort_key(place: Place) -> tuple[tuple[int, int, str], ...]:
    return tuple((level.step, level.send, level.node) for level in place)


def link(entries: Sequence[Entry]) -> tuple[Call, ...]:
    """Return the calls of `entries` in depth-first, send order with `parents` and `order` filled in."""
    ordered: list[Call] = []
    _connect(list(entries), 0, (), ordered)
    return tuple(replace(call, order=index) for index, call in enumerate(ordered))


def _connect(entries: list[Entry], depth: int, sinks: tuple[str, ...], out: list[Call]) -> tuple[str, ...]:
    """Append the calls of one graph (level `depth`) to `out`; return the ids of its last calls.

    `sinks` are the calls that this graph's first calls follow.
    """
    steps: dict[int, dict[Level, list[Entry]]] = defaultdict(lambda: defaultdict(list))
    for entry in entries:
        level = entry.place[depth] if len(entry.place) > depth else Level(0, "", -1, "")
        steps[level.step][level].append(entry)
    for step in sorted(steps):
        ends: list[str] = []
        for level in sorted(steps[step], key=lambda level: (level.send, level.node)):
            ends.extend(_connect_task(steps[step][level], depth, sinks, out))
        sinks = tuple(dict.fromkeys(ends))
    return sinks


def _connect_task(entries: list[Entry], depth: int, sinks: tuple[str, ...], out: list[Call]) -> tuple[str, ...]:
    """Append the calls of one task: its own in order of ending, a subgraph's in place of its first call."""
    own = [entry for entry in entries if len(entry.place) <= depth + 1]
    nested = [entry for entry in entries if len(entry.place) > depth + 1]
    pending = sorted(own, key=lambda entry: entry.sequence)
    first_nested = min((entry.sequence for entry in nested), default=-1)
    for entry in pending:
        if nested and entry.sequence > first_nested:
            sinks = _connect(nested, depth + 1, sinks, out)
            nested = []
        out.append(replace(entry.call, parents=sinks))
        sinks = (entry.call.id,)
    if nested:
        sinks = _connect(nested, depth + 1, sinks, out)
    return sinks
