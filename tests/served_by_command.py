"""A graph for `jade serve --graph tests.served_by_command:make`: its model waits until a file lets it go on."""

from __future__ import annotations

import os
import time
from pathlib import Path

from graphs.jade import build_jade
from graphs.recorded import RecordedGraph
from tests.scripted import record, says

HOME = Path(os.environ.get("JADE_HOME", "."))


def _answer(user: str) -> str:
    (HOME / "holding").touch()
    while not (HOME / "release").exists():
        time.sleep(0.01)
    return "Salzburg"


def make() -> RecordedGraph:
    """Build the graph."""
    return record(build_jade, says(planner="R,AG", answer_generator=_answer), HOME / "ledger").graph
