"""The ledger at growing sizes: write, stream, list, filter, show and count; seconds, MB a CPU second, peak memory.

    python -m benchmarks.scale_ledger --sizes 1000 100000

Runs are made up, of the shape that the embedded model leaves (rewriter, selector, generator; 1,400 tokens). Every step
runs in a process of its own, `jade runs` and `jade show` as a user would start them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from agents.call import Call
from benchmarks.alone import alone, kept, megabytes, parser_of, table
from evaluation.ledger_statistics import ledger_report
from graphs.ledger import LedgerWriter, read_ledger
from graphs.trajectory import Retrieval, Trajectory

CALLS = (
    ("planner", 210, 9),
    ("query_rewriter", 170, 15),
    ("document_selector", 500, 10),
    ("answer_generator", 520, 12),
)
"""Role, tokens of its prompt, tokens of its response."""
STEPS = {
    "write": "write, a line when a run opens and one when it closes",
    "read": "read every run",
    "statistics": "statistics of all runs",
    "list": "`jade runs --limit 20`",
    "filter": "`jade runs --question 'number 77 '`",
    "show": "`jade show RUN`, a run in the middle",
}


def call(draw: np.random.Generator, place: int) -> Call:
    """Return a call of random tokens."""
    role, prompt, response = CALLS[place]
    before = (f"root/{CALLS[place - 1][0]}",) if place else ()
    return Call(
        id=f"root/{role}",
        role=role,
        path=f"root/{role}",
        parents=before,
        prompt_ids=tuple(draw.integers(0, 49_152, prompt).tolist()),
        response_ids=tuple(draw.integers(0, 49_152, response).tolist()),
        logprobs=tuple((-draw.random(response)).tolist()),
        mask=(1,) * response,
        temperature=1.0,
        greedy=False,
        text="<answer>a made-up text</answer>",
        value="a made-up text",
        format_error=None,
        truncated=False,
        seconds={"wait": 0.01, "prefill": 0.5, "decode": 0.25},
    )


def made_up(size: int) -> Iterator[Trajectory]:
    """Yield runs of different questions."""
    draw = np.random.default_rng(size)
    for number in range(size):
        found = Retrieval("root/R", "a query", tuple(f"p{row}" for row in range(5)), (0.5,) * 5, 0.01)
        yield Trajectory(
            run=f"{number:016x}",
            question=f"What is known of number {number} ?",
            answer="a made-up text",
            outcome="ok",
            calls=tuple(call(draw, place) for place in range(len(CALLS))),
            retrievals=(found,),
            evidence=found.ids,
            workflow={"path": "root", "question": "?", "plan": "QR,R,DS,AG", "children": []},
            hashes={"text": "0" * 32, "policy": "0" * 32, "environment": "0" * 32},
            started=f"2026-01-01T{number // 3600 % 24:02d}:{number // 60 % 60:02d}:{number % 60:02d}+00:00",
            seconds={"total": 1.0},
        )


def write(folder: Path, size: int) -> dict[str, float]:
    """Record made-up runs; return the seconds that the ledger took, without making them up."""
    writer, wall, cpu = LedgerWriter(folder, "runs"), 0.0, 0.0
    for run in made_up(size):
        began, busy = time.perf_counter(), time.process_time()
        failed = writer.open(run.run, {"question": run.question, "options": {}}) or writer.close(run)
        wall, cpu = wall + time.perf_counter() - began, cpu + time.process_time() - busy
        if failed:
            raise SystemExit(failed)
    return {"seconds": wall, "cpu": cpu}


def perform(step: str, folder: Path, size: int) -> dict[str, float]:
    """Do one step on a ledger; return its seconds, on the wall and of CPU."""
    if step == "write":
        return write(folder, size)
    began, busy = time.perf_counter(), time.process_time()
    runs = sum(1 for _ in read_ledger(folder)) if step == "read" else ledger_report(folder)["runs"]
    assert runs == size
    return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - busy}


def measured(folder: Path, size: int, steps: Sequence[str]) -> list[list[object]]:
    """Take some steps at one size; return a row of the table for each."""
    commands = {
        "list": ("runs", "--limit", 20, "--json"),
        "filter": ("runs", "--question", "number 77 ", "--json"),
        "show": ("show", f"{size // 2:016x}", "--json"),
    }
    rows: list[list[object]] = []
    for step in steps:
        if step in commands:
            done = alone("cli.main", *commands[step], "--ledger", folder)
            seconds, cpu = done.seconds, done.cpu
        else:
            done = alone("benchmarks.scale_ledger", "--step", step, "--folder", folder, "--sizes", size)
            seconds, cpu = done.found["seconds"], done.found["cpu"]
        disk = megabytes(folder)
        numbers = [f"{disk:.0f}", f"{seconds:.2f}", f"{cpu:.2f}", f"{disk / cpu:.0f}", f"{done.peak:.1f}"]
        rows.append([STEPS[step], f"{size:,}", *numbers])
        print(rows[-1], flush=True)
    return rows


HEADS = ("step", "runs", "ledger MB", "seconds", "CPU s", "MB a CPU s", "peak MB")


def main() -> None:
    """Measure every size, or be one step of it."""
    parser = parser_of(__doc__)
    parser.add_argument("--sizes", nargs="+", type=int, default=[1_000, 100_000], help="numbers of runs")
    parser.add_argument("--folder", type=Path, help="where ledgers are kept; default: nowhere")
    parser.add_argument("--steps", nargs="+", default=list(STEPS), choices=STEPS, help="of a kept ledger, one by one")
    parser.add_argument("--step", choices=STEPS, help="used by the program itself")
    asked = parser.parse_args()
    if asked.step is not None:
        print(json.dumps(perform(asked.step, asked.folder, asked.sizes[0])))
        return
    with kept(asked.folder) as place:
        rows = [row for size in asked.sizes for row in measured(place / str(size), size, asked.steps)]
    print(table(HEADS, sorted(rows, key=lambda row: list(STEPS.values()).index(str(row[0])))))


if __name__ == "__main__":
    main()
