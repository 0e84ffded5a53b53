"""Questions per minute of a plain loop, of lock-step collection, and of the bare model: `python -m benchmarks.asking`.

(a) a loop of `graph.invoke`; (b) `collect`; (c) the limit: the very same prompts handed to the bare model at once, in
ideally sorted batches with the same prefix cache, as if no call depended on another. All three run in one process on
the same questions, once with the workflow forced to R,AG and once with sampled plans. (b) and (c) take turns, on all
questions, so that a machine whose speed drifts slows both alike. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agents.call import Call, Prompt, Request
from agents.lazy import LazyPolicy
from agents.model import SharedModel
from agents.roster import ROLES
from evaluation.dataset import load_examples
from graphs import collect, load_graph
from graphs.collection import Timing
from graphs.recorded import RecordedGraph
from graphs.trajectory import Trajectory


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    seconds: float
    questions: int
    outside: float | None = None
    """Share of the time that is neither model nor retrieval."""

    @property
    def rate(self) -> float:
        """Return questions per minute."""
        return 60 * self.questions / self.seconds


@dataclass(frozen=True)
class Wanted:
    """How the comparison is made."""

    rounds: int
    """How often (b) and (c) take turns."""
    loop: bool
    """Whether (a) is measured as well."""


def joined(rows: Sequence[Row]) -> Row:
    """Return one row for several rounds of the same thing."""
    seconds = sum(row.seconds for row in rows)
    outside = None if rows[0].outside is None else sum((row.outside or 0) * row.seconds for row in rows) / seconds
    return Row(rows[0].name, seconds, sum(row.questions for row in rows), outside)


def as_request(run: Trajectory, call: Call, tau: float) -> Request:
    """Rebuild the request that a recorded call answered."""
    role = ROLES[call.role]
    index = int(call.id.rpartition("#")[2]) if "#" in call.id else 0
    return Request(
        key=(run.seed, run.question, call.path, index),
        role=call.role,
        prompt=Prompt(call.prompt_ids, call.head),
        max_new_tokens=role.max_new_tokens,
        temperature=tau,
        stop=role.stop,
        constraint=call.constraint,
        adapter=call.adapter,
    )


def loop(graph: RecordedGraph, questions: Sequence[str], options: dict[str, Any]) -> Row:
    """Ask one question after the other."""
    started = time.perf_counter()
    for question in questions:
        graph.invoke(question, **options)
    return Row("(a) loop of graph.invoke", time.perf_counter() - started, len(questions))


def lockstep(graph: RecordedGraph, questions: Sequence[str], options: dict[str, Any]) -> tuple[Row, list[Trajectory]]:
    """Collect all questions at once."""
    timing = Timing()
    started = time.perf_counter()
    runs = collect(graph, questions, timing=timing, **options)
    seconds = time.perf_counter() - started
    return Row("(b) collect", seconds, len(questions), timing.graph / timing.total), runs


def limit(model: SharedModel, runs: Sequence[Trajectory], tau: float) -> tuple[Row, float]:
    """Hand all recorded prompts to the bare model; also return the share of calls that said the same."""
    pairs = [(call, as_request(run, call, tau)) for run in runs for call in run.calls]
    started = time.perf_counter()
    completions = model.sample([request for _, request in pairs])
    seconds = time.perf_counter() - started
    same = sum(c.response_ids == call.response_ids for (call, _), c in zip(pairs, completions, strict=True))
    return Row("(c) bare model, sorted", seconds, len(runs)), same / len(pairs)


def compare(
    graph: RecordedGraph, model: SharedModel, questions: Sequence[str], wanted: Wanted, name: str, **options: Any
) -> str:
    """Measure the three on the same questions."""
    tau = options.get("temperature", 1.0 if options.get("record") == "train" else 0.0)
    collect(graph, questions[:4], **options)  # warm: caches of heads, queries and kernels
    turns = []
    for _ in range(wanted.rounds):
        collected, runs = lockstep(graph, questions, options)
        turns.append((collected, *limit(model, runs, tau)))
    b, c = joined([turn[0] for turn in turns]), joined([turn[1] for turn in turns])
    same = sum(share for _, _, share in turns) / len(turns)
    a = loop(graph, questions, options) if wanted.loop else None
    calls = sum(len(run.calls) for run in runs)
    prompt = sum(len(call.prompt_ids) for run in runs for call in run.calls)
    lines = [
        f"### {name}: {len(questions)} questions, {calls} calls, {prompt / calls:.0f} prompt tokens a call",
        "| | questions/min | seconds | outside model and retrieval |",
        "|---|---|---|---|",
    ]
    for row in filter(None, (a, b, c)):
        outside = "" if row.outside is None else f"{row.outside:.1%}"
        lines.append(f"| {row.name} | {row.rate:.1f} | {row.seconds:.1f} | {outside} |")
    lines.append(f"\n(b)/(c) = {b.rate / c.rate:.2f}; ")
    if a is not None:
        lines[-1] += f"(b)/(a) = {b.rate / a.rate:.2f}, ceiling (c)/(a) = {c.rate / a.rate:.2f}; "
    lines[-1] += f"{same:.0%} of the calls of (c) said the same tokens as in (b)"
    return "\n".join(lines)


def peak_memory() -> float:
    """Return the process's peak resident memory in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dataset", default="hotpotqa", help="whose dev questions are asked over the starter corpus")
    parser.add_argument("--rounds", type=int, default=2, help="how often (b) and (c) take turns")
    parser.add_argument("--only", choices=("forced", "sampled"), help="one of the two tables; default: both")
    parser.add_argument("--loop", action=argparse.BooleanOptionalAction, default=True, help="measure (a) as well")
    given = parser.parse_args()
    wanted = Wanted(given.rounds, given.loop)
    questions = [e.question for e in load_examples(given.dataset, "dev", sample=given.questions)]
    graph = load_graph(threads=given.threads, record="off")
    policy = graph.recorder.batcher.policy
    assert isinstance(policy, LazyPolicy)
    model = policy.load()
    assert isinstance(model, SharedModel)
    graph.invoke(questions[0])
    print(f"peak memory after asking: {peak_memory():.2f} GB\n")
    if given.only != "sampled":
        print(compare(graph, model, questions, wanted, "forced R,AG", workflow="R,AG"), flush=True)
    if given.only != "forced":
        print(compare(graph, model, questions, wanted, "sampled plans", temperature=1.0), flush=True)
    print(f"\npeak memory after collecting: {peak_memory():.2f} GB")


if __name__ == "__main__":
    main()
