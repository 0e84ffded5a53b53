"""Runs under a checkpointer: what is written after each call, and how an interrupted run is taken up again.

LangGraph's checkpoints hold the graph's state, which knows calls by id only; the tokens are in the journal of
a process that may be gone. So a run with a checkpointer thread writes its journal as a "pause" line after
each call and retrieval, and whoever resumes the thread finds it there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.call import Call
from agents.errors import LedgerError
from graphs.ledger_lines import UNREADABLE, Line, Problem, latest_line, log_problem, read_data
from graphs.tracker import Level, Place
from graphs.trajectory import FAILED, Retrieval

if TYPE_CHECKING:
    from graphs.run import Run


def snapshot(run: Run) -> dict[str, Any]:
    """Return the data of a pause line: the open line's, and the journal so far with its places."""
    entries = run.journal.entries
    retrievals = list(run.journal.retrievals)
    return {
        **run.header(),
        "warnings": list(run.warnings),
        "roles": dict(run.roles),
        "calls": [entry.call.to_json() for entry in entries],
        "places": [_place_json(entry.place) for entry in entries],
        "retrievals": [asdict(item) for _, item in retrievals],
        "retrieval_places": [_place_json(place) for place, _ in retrievals],
    }


def restore(run: Run, data: Mapping[str, Any]) -> None:
    """Put the journal of a pause line into a fresh run.

    Raises:
        KeyError, TypeError, ValueError: The line is not what `snapshot` wrote.
    """
    for call, place in zip(data["calls"], data["places"], strict=True):
        run.journal.restore(Call.from_json(call), _place(place))
    for item, place in zip(data["retrievals"], data["retrieval_places"], strict=True):
        run.journal.restore_retrieval(Retrieval.from_json(item), _place(place))
    run.roles.update(data.get("roles", {}))
    for warning in data.get("warnings", ()):
        run.warn(str(warning))


@dataclass(frozen=True)
class Unfinished:
    """The latest run of a checkpointer thread, where it was left."""

    run: str
    closed: bool
    """Whether it is in the ledger as crashed: whoever takes it up again is another run."""
    data: Mapping[str, Any]
    """Of its last pause line, or of its open line where it made no call."""


def unfinished(folder: Path, thread: str) -> Unfinished | None:
    """Return the latest run of a checkpointer thread, if it did not end well.

    Lines that cannot be read are logged and skipped; a folder without a ledger has no such run.
    """
    mark = f'"thread":{json.dumps(thread)}'.encode()

    def of_thread(line: Line) -> bool:
        return line.event in ("open", "pause") and mark in line.raw and _data(line).get("thread") == thread

    try:
        last = latest_line(folder, of_thread)
        if last is None:
            return None
        close = latest_line(folder, lambda line: line.event == "close" and line.run == last.run, quiet=True)
    except LedgerError:
        return None
    if close is not None and _data(close).get("outcome") not in FAILED:
        return None
    empty: dict[str, Any] = {"calls": [], "places": [], "retrievals": [], "retrieval_places": []}
    return Unfinished(last.run, close is not None, {**empty, **_data(last)})


def _data(line: Line) -> dict[str, Any]:
    try:
        return read_data(line)
    except UNREADABLE as error:
        log_problem(Problem(line.file, line.number, f"corrupt {line.event} line: {error!r:.200}; skipped"))
        return {}


def _place_json(place: Place) -> list[list[Any]]:
    return [[level.step, level.node, level.send, level.task] for level in place]


def _place(data: list[list[Any]]) -> Place:
    return tuple(Level(int(step), str(node), int(send), str(task)) for step, node, send, task in data)
