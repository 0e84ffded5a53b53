"""Runs under a checkpointer: what is written after each call, and how an interrupted run is taken up again.

LangGraph's checkpoints hold the graph's state, which knows calls by id only; the tokens are in the journal of
a process that may be gone. So a run with a checkpointer thread writes its journal as a "pause" line after
each call, and whoever resumes the thread finds it there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from agents.call import Call
from agents.errors import LedgerError
from graphs.ledger_lines import UNREADABLE, log_problem, read_data, read_lines
from graphs.tracker import Level, Place
from graphs.trajectory import Retrieval

if TYPE_CHECKING:
    from graphs.run import Run


def snapshot(run: Run) -> dict[str, Any]:
    """Return the data of a pause line: the open line's, and the journal so far with its places."""
    entries = run.journal.entries
    retrievals = list(run.journal.retrievals)
    return {
        **run.header(),
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


def last_pause(run_folder: Any, thread: str) -> tuple[str, dict[str, Any]] | None:
    """Return (run id, pause data) of the latest run of a checkpointer thread that was not closed.

    Lines that cannot be read are logged and skipped; a folder without a ledger has no paused run.
    """
    mark = f'"thread":{json.dumps(thread)}'.encode()
    found: dict[str, dict[str, Any]] = {}
    try:
        for line in read_lines(run_folder, log_problem):
            if line.event == "close":
                found.pop(line.run, None)
            elif line.event == "pause" and mark in line.raw:
                try:
                    found[line.run] = read_data(line)
                except UNREADABLE:
                    continue
    except LedgerError:
        return None
    matching = [(run, data) for run, data in found.items() if data.get("thread") == thread]
    return matching[-1] if matching else None


def _place_json(place: Place) -> list[list[Any]]:
    return [[level.step, level.node, level.send, level.task] for level in place]


def _place(data: list[list[Any]]) -> Place:
    return tuple(Level(int(step), str(node), int(send), str(task)) for step, node, send, task in data)
