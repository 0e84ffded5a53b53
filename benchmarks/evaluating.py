"""Two limits of an evaluation: `python -m benchmarks.evaluating --only statistics` and `--only collection`.

statistics   scoring two systems on 10,000 synthetic questions, with every interval, comparison and table: under 10 s.
collection   64 HotpotQA questions by one system, collected in lock-step, against stage-by-stage batching of the very
             same prompts, the way FlashRAG's pipelines run: every question's first call in one batch, then every
             search, then every second call, … Both in one process, in turn, after a warm-up that asks all of them once
             (it fills the prefix cache for both; the cache of queries is off for both). The stages are given their
             prompts for nothing, so they have no graph, no parsing and no recording to pay for.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Sequence
from typing import Any

from agents.call import Request
from agents.lazy import LazyPolicy
from agents.model import SharedModel
from agents.passage import Retriever
from agents.retriever import ChromaRetriever, open_retriever
from benchmarks.asking import as_request
from evaluation.dataset import Example, load_examples
from evaluation.records import Record
from evaluation.report import Sampling, build_report
from evaluation.report_markdown import render
from evaluation.results import Block
from graphs import collect, load_graph
from graphs.collection import Timing
from graphs.recorded import RecordedGraph
from graphs.trajectory import Trajectory

WORDS = [f"{a}{b}" for a in "bcdfghklmnprstvw" for b in ("an", "el", "in", "or", "us", "ia", "eth", "ock")]
LIMIT_SECONDS = 10.0


def synthetic(system: str, skill: float, questions: int) -> Block:
    """Return a system's made-up records: right with probability `skill`, else a few words off."""
    draw = random.Random(f"{system}/{questions}")
    golds = random.Random(questions)
    examples, records = [], []
    for place in range(questions):
        gold = " ".join(golds.choices(WORDS, k=golds.randint(1, 5)))
        support = [f"p{golds.randrange(9999)}" for _ in range(golds.randint(1, 3))]
        answers = (gold, gold.title() + ".", " ".join(golds.choices(WORDS, k=2)))
        examples.append(Example(f"q{place}", f"{gold}?", answers, "bridge", golds.randint(1, 4), tuple(support)))
        words = gold.split() if draw.random() < skill else draw.choices([*gold.split(), *WORDS[:9]], k=3)
        found = [*support[:1], *(f"p{draw.randrange(9999)}" for _ in range(4))]
        facts: dict[str, Any] = {
            "answer": f"The {' '.join(words)}", "outcome": "ok", "plan": draw.choice(["R,AG", "QDS", "QDP"]),
            "retrieved": [found], "evidence": found, "citations": found[:2], "turns": draw.randint(1, 4), "calls": 4,
            "prompt_tokens": draw.randint(300, 4000), "generated_tokens": draw.randint(10, 200),
            "seconds": draw.random(),
            "roles": {"planner": {"calls": 1, "valid": 1, "truncated": 0}},
        }  # fmt: skip
        records.append([Record(system, "made-up", "h", f"q{place}", 0, f"{gold}?", **facts)])
    return Block(system, "made-up", examples, records)


def measure_statistics(questions: int) -> float:
    """Print and return the seconds from records to a rendered report."""
    blocks = [synthetic("A", 0.5, questions), synthetic("B", 0.52, questions)]
    started = time.perf_counter()
    for block in blocks:
        block.values("f1")
    scored = time.perf_counter() - started
    report = build_report(blocks, "A", Sampling(), {"top_k": 5, "level": 0.95})
    render(report)
    total = time.perf_counter() - started
    print(
        f"{questions} questions × 2 systems: {scored:.1f} s to score, {total - scored:.1f} s for statistics and tables"
    )
    print(f"{total:.1f} s in all; the limit for 10,000 questions is {LIMIT_SECONDS:.0f} s")
    return total


def stages(runs: Sequence[Trajectory], tau: float) -> list[tuple[list[Request], list[tuple[str, int]]]]:
    """Return the rounds that stage-by-stage batching would make: the n-th calls of all runs, then the searches after.

    A call's round is its depth in the run's call DAG, so parallel branches share a round, as they would there.
    """
    rounds: dict[int, tuple[list[Request], list[tuple[str, int]]]] = {}
    for run in runs:
        depth: dict[str, int] = {}
        for call in run.calls:
            depth[call.id] = 1 + max((depth[parent] for parent in call.parents), default=-1)
            rounds.setdefault(depth[call.id], ([], []))[0].append(as_request(run, call, tau))
        for item in run.retrievals:
            node = item.path.rpartition("/")[0]
            before = [depth[call.id] for call in run.calls if call.path.rpartition("/")[0] == node]
            rounds.setdefault(min(before, default=0), ([], []))[1].append((item.query, len(item.ids)))
    return [rounds[place] for place in sorted(rounds)]


def staged(model: SharedModel, retriever: Retriever, runs: Sequence[Trajectory], tau: float) -> tuple[float, float]:
    """Play the rounds; return the seconds, and the share of calls that said the same tokens."""
    plan = stages(runs, tau)
    said: dict[tuple[str | int, ...], tuple[int, ...]] = {}
    started = time.perf_counter()
    for requests, queries in plan:
        for request, completion in zip(requests, model.sample(requests), strict=True):
            said[request.key] = completion.response_ids
        for k in {k for _, k in queries}:
            retriever.search([query for query, size in queries if size == k], k)
    seconds = time.perf_counter() - started
    pairs = [(as_request(run, call, tau).key, call.response_ids) for run in runs for call in run.calls]
    return seconds, sum(said[key] == ids for key, ids in pairs) / len(pairs)


def collected(
    graph: RecordedGraph, examples: Sequence[Example], options: dict[str, Any]
) -> tuple[Timing, list[Trajectory]]:
    """Collect the questions; return the seconds and the runs."""
    timing = Timing()
    inputs = [{"question": example.question, "id": example.id} for example in examples]
    runs = collect(graph, inputs, timing=timing, **options)
    return timing, runs


def measure_collection(arguments: argparse.Namespace) -> None:
    """Print both times, in turn, and their ratio."""
    open_retriever(arguments.index)  # checks the index, and builds a bundled one
    retriever = ChromaRetriever(collection=arguments.index, cache_size=0)  # what one way asked, the other asks again
    graph = load_graph(adapter=arguments.adapter or "auto", retriever=retriever, threads=arguments.threads)
    policy = graph.recorder.batcher.policy
    assert isinstance(policy, LazyPolicy)
    model = policy.load()
    assert isinstance(model, SharedModel)
    options: dict[str, Any] = {"record": "off", **({"workflow": arguments.workflow} if arguments.workflow else {})}
    examples = load_examples("hotpotqa", "dev", sample=arguments.questions)
    collected(graph, examples, options)  # warm
    print("| round | collected s | of it model, search, graph | staged s | staged / collected | same tokens |")
    print("|---|---|---|---|---|---|")
    ratios = []
    for turn in range(arguments.repeat):
        ours, runs = collected(graph, examples, options)
        theirs, same = staged(model, retriever, runs, 0.0)
        ratios.append(theirs / ours.total)
        parts = f"{ours.model:.1f}, {ours.retrieval:.1f}, {ours.graph:.1f}"
        print(f"| {turn + 1} | {ours.total:.1f} | {parts} | {theirs:.1f} | {ratios[-1]:.2f} | {same:.0%} |")
    calls = sum(len(run.calls) for run in runs)
    middle = statistics.median(ratios)
    print(f"\n{len(examples)} questions, {calls} calls; median ratio {middle:.2f}: 1 or more means at least as fast")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("statistics", "collection"), help="one of the two; default: both")
    parser.add_argument("--synthetic", type=int, default=10_000, help="questions of the statistics")
    parser.add_argument("--questions", type=int, default=64, help="questions that are collected")
    parser.add_argument("--repeat", type=int, default=3, help="times that both ways are measured, in turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--index", default="hotpotqa")
    parser.add_argument("--adapter", help="adapter folder; default: the shipped one, else the untuned model")
    parser.add_argument("--workflow", help="force a plan, such as R,AG; default: the planner decides")
    arguments = parser.parse_args()
    if arguments.only != "collection":
        measure_statistics(arguments.synthetic)
    if arguments.only != "statistics":
        measure_collection(arguments)


if __name__ == "__main__":
    main()
