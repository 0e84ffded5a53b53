"""Recorded executions as nested spans, ready for a trace viewer. Pure: trajectory in, plain JSON out.

One span per call and per retrieval, nested by node path below one span for the run. A record holds durations,
not clock times; starts follow from the call DAG (a call starts when its last parent has ended), so parallel
branches lie side by side. Prompts are recorded as tokens: give `decode` to show their text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from agents.call import Call
from graphs.trajectory import FAILED, Trajectory

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class RunCredit:
    """What one run and its calls were worth."""

    reward: Mapping[str, float] = field(default_factory=dict)
    """Parts of the run's reward: "total", "score", "turn_cost", "retrieval_cost"."""
    calls: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Call id → "reward", "format", "value", "return", "advantage", …"""


@dataclass
class Span:
    """One span; times are seconds since the run started."""

    path: str
    name: str
    type: str
    """MLflow span type: AGENT (the run), CHAIN (a node), LLM (a call), RETRIEVER."""
    start: float
    end: float
    parent: int | None
    """Index of the enclosing span in the list; None for the run itself."""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None


def spans_of(trajectory: Trajectory, credit: RunCredit | None = None, decode: Decode | None = None) -> list[Span]:
    """Return the spans of one run, every parent before its children; the first one is the run.

    Args:
        trajectory: The recorded execution.
        credit: Its reward and the credit of its calls, if known.
        decode: Token ids → text, to show prompts.
    """
    credit = credit or RunCredit()
    times, searches = _schedule(trajectory)
    leaves = [_call_span(call, times[call.id], credit, decode) for call in trajectory.calls]
    leaves += [
        Span(item.path, "retrieve", "RETRIEVER", start, start + item.seconds, None,
             {"query": item.query}, {"ids": list(item.ids), "scores": list(item.scores)})
        for item, start in zip(trajectory.retrievals, searches, strict=True)
    ]  # fmt: skip
    ends = [leaf.end for leaf in leaves]
    root = Span(
        path="",
        name="run",
        type="AGENT",
        start=0.0,
        end=max([float(trajectory.seconds.get("total", 0.0)), *ends]),
        parent=None,
        inputs={"question": trajectory.question},
        outputs={"answer": trajectory.answer, "citations": list(trajectory.citations)},
        attributes=_run_attributes(trajectory, credit),
        error=(trajectory.error or trajectory.outcome) if trajectory.outcome in FAILED else None,
    )
    return _nested(root, sorted(leaves, key=lambda leaf: (leaf.start, leaf.end, leaf.path)))


def started_ns(trajectory: Trajectory) -> int:
    """Return the run's start in nanoseconds since 1970; now, where the record does not say."""
    try:
        moment = datetime.fromisoformat(trajectory.started)
    except ValueError:
        moment = datetime.now(UTC)
    return int(moment.timestamp() * 1000) * 1_000_000


def _schedule(trajectory: Trajectory) -> tuple[dict[str, tuple[float, float]], list[float]]:
    """Return (start, end) of every call and the start of every retrieval, in seconds since the run's start.

    A retrieval is placed before the first later call of its own node, which waits for it.
    """
    times: dict[str, tuple[float, float]] = {}
    searches = [0.0] * len(trajectory.retrievals)
    placed: set[int] = set()
    for call in sorted(trajectory.calls, key=lambda call: call.order):
        start = max((times[parent][1] for parent in call.parents if parent in times), default=0.0)
        for index, search in enumerate(trajectory.retrievals):
            if index not in placed and _precedes(search.path, call):
                placed.add(index)
                searches[index] = start
                start += search.seconds
        times[call.id] = (start, start + sum(call.seconds.get(part, 0.0) for part in _PARTS))
    return times, searches


_PARTS = ("wait", "prefill", "decode")
_BEFORE_RETRIEVAL = ("planner", "query_rewriter")


def _precedes(search: str, call: Call) -> bool:
    """Return whether a retrieval at a node path runs before a call: same node, and the call reads documents."""
    return _node(search) == _node(call.path) and call.role not in _BEFORE_RETRIEVAL


def _node(path: str) -> str:
    return path.rpartition("/")[0]


def _call_span(call: Call, times: tuple[float, float], credit: RunCredit, decode: Decode | None) -> Span:
    prompt = {"prompt": decode(call.prompt_ids)} if decode else {}
    attributes = {
        "call": call.id,
        "role": call.role,
        "valid": call.format_error is None,
        "format_error": call.format_error,
        "truncated": call.truncated,
        "parents": list(call.parents),
        "adapter": call.adapter,
        "temperature": 0.0 if call.greedy else call.temperature,
        "logprob": sum(call.logprobs),
        "prompt_tokens": len(call.prompt_ids),
        "response_tokens": len(call.response_ids),
        "batch": call.batch,
        "dropped_documents": call.dropped_documents,
        **{f"seconds.{part}": call.seconds[part] for part in _PARTS if part in call.seconds},
        **credit.calls.get(call.id, {}),
    }
    return Span(
        path=call.path,
        name=call.role,
        type="LLM",
        start=times[0],
        end=times[1],
        parent=None,
        inputs={"node": _node(call.path), **prompt},
        outputs={"text": call.text, "value": call.value},
        attributes=attributes,
    )


def _run_attributes(trajectory: Trajectory, credit: RunCredit) -> dict[str, Any]:
    return {
        "run": trajectory.run,
        "outcome": trajectory.outcome,
        "question_id": trajectory.question_id,
        "workflow": trajectory.workflow,
        "turns": trajectory.turns,
        "retrievals": len(trajectory.retrievals),
        "calls": len(trajectory.calls),
        "seed": trajectory.seed,
        "budget_hit": trajectory.budget_hit,
        "warnings": list(trajectory.warnings),
        **{f"hash.{name}": value for name, value in trajectory.hashes.items()},
        **{f"reward.{name}": value for name, value in credit.reward.items()},
    }


def _nested(root: Span, leaves: Sequence[Span]) -> list[Span]:
    """Put leaves below their nodes: every prefix of a path is one span around what lies below it."""
    spans = [root]
    nodes: dict[str, int] = {"": 0}
    for leaf in leaves:
        prefix = ""
        for part in filter(None, _node(leaf.path).split("/")):
            above, prefix = nodes[prefix], f"{prefix}/{part}" if prefix else part
            if prefix not in nodes:
                nodes[prefix] = len(spans)
                spans.append(Span(prefix, part, "CHAIN", leaf.start, leaf.end, above))
            node = spans[nodes[prefix]]
            node.start, node.end = min(node.start, leaf.start), max(node.end, leaf.end)
        leaf.parent = nodes[prefix]
        spans.append(leaf)
    return spans


def digest(*parts: str) -> str:
    """Return a hash of the parts, for ids that are the same whenever the same thing is exported."""
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()


def trace_of(trajectory: Trajectory, credit: RunCredit | None = None, decode: Decode | None = None) -> dict[str, Any]:
    """Return one run as a JSON object that `evaluation.tracking` turns into a trace; see `spans_of`."""
    return {
        "run": trajectory.run,
        "name": str((trajectory.workflow or {}).get("plan") or "run"),
        "question": trajectory.question,
        "answer": trajectory.answer,
        "failed": trajectory.outcome in FAILED,
        "started_ns": started_ns(trajectory),
        "prompt_tokens": sum(len(call.prompt_ids) for call in trajectory.calls),
        "response_tokens": sum(len(call.response_ids) for call in trajectory.calls),
        "tags": {"outcome": trajectory.outcome, "turns": str(trajectory.turns)},
        "spans": [asdict(span) for span in spans_of(trajectory, credit, decode)],
    }


def otel_span(trace_id: str, trace: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return span `number` of a `trace_of` in the layout that MLflow reads back (OpenTelemetry names, ns)."""
    span = trace["spans"][number]
    attributes = {
        "mlflow.traceRequestId": trace_id,
        "mlflow.spanType": span["type"],
        "mlflow.spanInputs": span["inputs"],
        "mlflow.spanOutputs": span["outputs"],
        **span["attributes"],
    }
    if "prompt_tokens" in span["attributes"]:
        prompt, response = span["attributes"]["prompt_tokens"], span["attributes"]["response_tokens"]
        attributes["mlflow.chat.tokenUsage"] = token_usage(prompt, response)
    return {
        "trace_id": trace_id,
        "span_id": digest(trace_id, str(number))[:16],
        "parent_span_id": None if span["parent"] is None else digest(trace_id, str(span["parent"]))[:16],
        "name": span["name"],
        "start_time_unix_nano": trace["started_ns"] + round(span["start"] * 1e9),
        "end_time_unix_nano": trace["started_ns"] + round(span["end"] * 1e9),
        "events": [],
        "status": {"code": "ERROR" if span["error"] else "OK", "message": span["error"] or ""},
        "attributes": {name: json.dumps(value) for name, value in attributes.items()},
    }


def token_usage(prompt: int, response: int) -> dict[str, int]:
    """Return token counts under the names of MLflow's trace view."""
    return {"input_tokens": prompt, "output_tokens": response, "total_tokens": prompt + response}
