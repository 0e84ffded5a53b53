"""What a ledger holds, in numbers: runs, calls, tokens, outcomes and workflow shares.

Streams; of each run eight bytes are kept, by which questions are told apart.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from graphs.ledger import read_ledger
from graphs.trajectory import Trajectory


def ledger_statistics(runs: Iterable[Trajectory]) -> dict[str, Any]:
    """Return counts over recorded runs, as JSON.

    Returns:
        "runs", "questions" (distinct), "calls", "retrievals", "prompt_tokens", "response_tokens" (numbers);
        "outcomes" (name → runs); "workflows" (plan of the root → share of the planned runs); "roles" (name →
        {"calls", "valid" (share), "response_tokens" (mean)}); "policies" (hash → runs).
    """
    totals: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    workflows: Counter[str] = Counter()
    policies: Counter[str] = Counter()
    roles: dict[str, Counter[str]] = {}
    questions = array("Q")
    for run in runs:
        questions.append(_digest(run.question_id or run.question))
        outcomes[run.outcome] += 1
        policies[run.hashes.get("policy", "")] += 1
        if run.workflow:
            workflows[str(run.workflow.get("plan"))] += 1
        totals.update(runs=1, calls=len(run.calls), retrievals=len(run.retrievals))
        for call in run.calls:
            size = len(call.response_ids)
            totals.update(prompt_tokens=len(call.prompt_ids), response_tokens=size)
            mine = roles.setdefault(call.role, Counter())
            mine.update(calls=1, valid=int(call.format_error is None), response_tokens=size)
    names = ("runs", "calls", "retrievals", "prompt_tokens", "response_tokens")
    return {
        **{name: totals[name] for name in names},
        "questions": len(np.unique(np.array(questions, dtype=np.uint64))),
        "outcomes": dict(outcomes.most_common()),
        "workflows": {plan: count / workflows.total() for plan, count in workflows.most_common()},
        "roles": {role: _role(counts) for role, counts in sorted(roles.items())},
        "policies": dict(policies),
    }


def ledger_report(path: Path) -> dict[str, Any]:
    """Return the statistics of a ledger file or folder, with its "files" and "bytes".

    Raises:
        LedgerError: No ledger at the path.
    """
    found = ledger_statistics(read_ledger(path))
    files = [path] if path.is_file() else sorted(path.glob("*.jsonl"))
    return {**found, "files": len(files), "bytes": sum(file.stat().st_size for file in files)}


def _digest(question: str) -> int:
    return int.from_bytes(blake2b(question.encode(errors="backslashreplace"), digest_size=8).digest(), "big")


def _role(counts: Mapping[str, int]) -> dict[str, float]:
    calls = counts["calls"]
    return {
        "calls": calls,
        "valid": counts["valid"] / calls,
        "response_tokens": counts["response_tokens"] / calls,
    }
