"""The journal of one run: its calls in the order they ended, and the call DAG that their places imply.

The DAG (DESIGN §5 "Call DAG") follows from LangGraph's supersteps alone, for any graph: tasks of one
superstep are parallel, the next superstep joins them, a subgraph is its calls in place of its node, and calls
and subgraphs of one task follow each other. Tools are not calls, so they are contracted by construction.
(Functions decorated with LangGraph's `@task` count as parallel to each other.)
"""

from __future__ import annotations

import itertools
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
        self._begun: dict[str, set[int]] = defaultdict(set)
        self._restored: set[Place] = set()
        self._sequence = itertools.count()
        self.retrievals: list[tuple[Place, Retrieval]] = []

    def begin(self, path: str, place: Place) -> int:
        """Return the index of a new call at `path`: 0, or more where others of the run bear the same path."""
        with self._lock:
            self._redo(place)
            taken = self._begun[path]
            index = next(number for number in itertools.count() if number not in taken)
            taken.add(index)
            return index

    def add(self, call: Call, place: Place) -> None:
        """Add a finished call."""
        with self._lock:
            self._entries.append(Entry(call, place, next(self._sequence)))

    def add_retrieval(self, retrieval: Retrieval, place: Place) -> None:
        """Add an executed retrieval."""
        with self._lock:
            self._redo(place)
            self.retrievals.append((place, retrieval))

    def restore(self, call: Call, place: Place) -> None:
        """Take over a call of an interrupted run; it is void once its task runs again."""
        with self._lock:
            self._begun[call.path].add(_index(call))
            self._entries.append(Entry(call, place, next(self._sequence)))
            self._restored.add(place)

    def restore_retrieval(self, retrieval: Retrieval, place: Place) -> None:
        """Take over a retrieval of an interrupted run."""
        with self._lock:
            self.retrievals.append((place, retrieval))
            self._restored.add(place)

    def _redo(self, place: Place) -> None:
        """Drop what an interrupted run had done here or later: it is done again, for its end was not saved."""
        void = {old for old in self._restored if _is_void(old, place)}
        if not void:
            return
        self._restored -= void
        for entry in self._entries:
            if entry.place in void:
                self._begun[entry.call.path].discard(_index(entry.call))
        self._entries = [entry for entry in self._entries if entry.place not in void]
        self.retrievals = [pair for pair in self.retrievals if pair[0] not in void]

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


def _index(call: Call) -> int:
    return int(call.id[len(call.path) + 1 :] or 0)


def _is_void(old: Place, now: Place) -> bool:
    """Return whether work at `now` undoes restored work at `old`: the same task, its slot, or a later superstep."""
    for was, level in zip(old, now, strict=False):
        if (was.invocation, was.step) != (level.invocation, level.step):
            return (was.invocation, was.step) > (level.invocation, level.step)
        if (was.send, was.node) != (level.send, level.node):
            return False  # side by side
        if was.task != level.task:
            return True
    return len(old) == len(now)


def _sort_key(place: Place) -> tuple[tuple[int, int, int, str], ...]:
    return tuple((level.invocation, level.step, level.send, level.node) for level in place)


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
    """Append the calls of one task, one after the other: its own, and each subgraph's in place of its first call."""
    parts: dict[int, list[Entry]] = defaultdict(list)
    for entry in entries:
        nested = len(entry.place) > depth + 1
        parts[entry.place[depth + 1].invocation if nested else -1 - entry.sequence].append(entry)
    for part in sorted(parts.values(), key=lambda part: min(entry.sequence for entry in part)):
        if len(part[0].place) > depth + 1:
            sinks = _connect(part, depth + 1, sinks, out)
        else:
            out.append(replace(part[0].call, parents=sinks))
            sinks = (part[0].call.id,)
    return sinks
