"""The toy graph that HTTP fuzzing asks: `jade serve --graph fuzz.served:make`. Scripted roles, every plan, no model."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from agents.workflow import PLANS
from graphs.jade import build_jade
from graphs.recorded import RecordedGraph

HOME = Path(os.environ.get("JADE_HOME", "."))


def _plan(user: str) -> str:
    """Return a plan that the question decides, legal here or not: invalid ones have a declared fallback."""
    return PLANS[hashlib.sha256(user.encode("utf-8", "replace")).digest()[0] % len(PLANS)].plan


def make() -> RecordedGraph:
    """Build the graph; its ledger lies in JADE's home."""
    from tests.scripted import record, says

    script = says(
        planner=_plan,
        query_rewriter="Mozart birthplace",
        document_selector="Document0",
        answer_generator="Salzburg",
        answer_summariser="Salzburg",
        serial_decomposer="<q1>Where was Mozart born?</q1><q2>Who is the mayor of #1?</q2>",
        parallel_decomposer="<q1>How tall is K2?</q1><q2>How tall is Mont Blanc?</q2>",
    )
    return record(build_jade, script, HOME / "ledger").graph
