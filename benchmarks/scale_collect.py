"""Collection on one and on several processes, as training does it, on the tiny world's model; a Markdown table.

    python -m benchmarks.scale_collect --processes 1 2 --questions 64

Each process records its share of the questions into its own ledger segment and hands its runs to all others; one
thread each. The model is a random Llama of 0.35 million parameters held to the grammars, and the graph is JADE's own,
so this measures what sharing costs: what a larger model gains is bounded by the cores, or GPUs, that there are.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.alone import alone, parser_of, table

LAUNCH = "configs/accelerate-cpu.yaml"


@dataclass
class Amount:
    """How much is recorded."""

    runs: int = 2
    in_flight: int = 64


def be_rank(questions: int, folder: Path) -> dict[str, Any]:
    """Collect this rank's share and the runs of all; return what each rank took, in seconds."""
    import torch

    from agents.model import SharedModel
    from agents.roster import prompts_digest
    from evaluation.ranks import joined
    from graphs.ledger import read_ledger
    from training.rollout import record
    from training.shares import collect_share, segment_file
    from training.tinymodel import TINY_PROMPTS, tiny_config, tiny_model, tiny_tokenizer
    from training.tinystart import tiny_graph
    from training.tinyworld import tiny_world

    torch.set_num_threads(1)
    with joined("cpu") as ranks:
        world = tiny_world()
        tokenizer = tiny_tokenizer(world)
        module = tiny_model(tiny_config(tokenizer))
        shared = SharedModel(module, tokenizer, name="tiny", text_digest=prompts_digest(TINY_PROMPTS), rows=64)
        graph = tiny_graph(world, shared, folder / "unused")
        took: dict[str, float] = {}

        def share(file: Path) -> None:
            wall, cpu = time.perf_counter(), time.process_time()
            options: dict[str, Any] = {"record": "train", "decoding": "constrained", "max_depth": 1, "seed": 1}
            record(graph, shared, world.train[:questions], file, Amount(), ranks=ranks, **options)
            took.update(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)

        record(graph, shared, world.train[-4:], folder / f"warm{ranks.rank}.jsonl", Amount(), record="train")
        ranks.gather("warm")
        began = time.perf_counter()
        if ranks.size == 1:
            share(segment_file(folder, 0))
            runs = list(read_ledger(segment_file(folder, 0)))
        else:
            runs = collect_share(folder, 0, ranks, share)
        took["total"] = time.perf_counter() - began
        sent = sum(len(json.dumps(run.to_json())) for run in runs)
        return {"runs": len(runs), "distinct": len({run.run for run in runs}), "sent": sent, "of": ranks.gather(took)}


def measured(processes: int, questions: int) -> list[object]:
    """Collect with some processes; return a row of the table."""
    words: list[object] = ["--questions", questions, "--rank"]
    with tempfile.TemporaryDirectory() as folder:
        where = {"OMP_NUM_THREADS": "1", "JADE_SCALE_FOLDER": folder}
        if processes == 1:
            step = alone("benchmarks.scale_collect", *words, environment=where)
        else:
            launch = ["--config_file", LAUNCH, "--num_processes", processes, "--main_process_port", 0]
            words = [*launch, "-m", "benchmarks.scale_collect", *words]
            step = alone("accelerate.commands.launch", *words, environment=where)
    found = step.found
    assert found["runs"] == found["distinct"] == questions * Amount().runs
    total = max(took["total"] for took in found["of"])
    working = [took["wall"] for took in found["of"]]
    cpu = [took["cpu"] for took in found["of"]]
    return [
        processes, len(os.sched_getaffinity(0)), found["runs"], f"{total:.1f}", f"{60 * questions / total:.0f}",
        " + ".join(f"{seconds:.1f}" for seconds in cpu), f"{1000 * sum(cpu) / found['runs']:.0f}",
        f"{total - max(working):.2f}", f"{found['sent'] / 1e6:.2f}",
    ]  # fmt: skip


HEADS = (
    "processes", "cores", "runs", "seconds", "questions/min", "CPU s of each", "CPU ms a run",
    "s after the slowest share", "MB of runs",
)  # fmt: skip


def main() -> None:
    """Measure, or be one of the processes."""
    parser = parser_of(__doc__)
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--questions", type=int, default=64, help="two runs of each are recorded")
    parser.add_argument("--rank", action="store_true", help="used by the program itself")
    asked = parser.parse_args()
    if asked.rank:
        found = be_rank(asked.questions, Path(os.environ["JADE_SCALE_FOLDER"]))
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps(found))
        return
    print(table(HEADS, [measured(processes, asked.questions) for processes in asked.processes]))


if __name__ == "__main__":
    main()
