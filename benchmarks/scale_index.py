"""Index and retriever at growing sizes: building, opening, searching, memory and disk; a Markdown table.

    python -m benchmarks.scale_index --sizes 10000 100000
    python -m benchmarks.scale_index --sizes 1000000 --matrix                  # exact search alone, without Chroma
    python -m benchmarks.scale_index --sizes 1000000 --folder /tmp/scale       # an hour, most of it Chroma's HNSW

Passages are random words with random unit vectors of the embedder's 384 dimensions, so that no embedder is timed:
what is left is our own code around Chroma. Random directions have no neighbours, so HNSW's recall is the worst there
is. Every step runs in a process of its own; a store that is complete is not built again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np

from agents.embedder import Matrix, unit_rows
from agents.index import build_index
from agents.ranking import exact
from agents.retriever import MODES, open_retriever
from benchmarks.alone import Step, alone, kept, megabytes, parser_of, table

DIMENSION = 384
"""Of the embedder that comes with JADE."""
BATCH, SINGLES, BATCHES = 32, 100, 8
COLLECTION = "scale"
WORDS = 24
"""Words of a passage: short, for the texts are not what grows the memory here."""
VOCABULARY = 30_000


@dataclass(frozen=True)
class Clock:
    """Two clocks: that on the wall, and that of this process's threads, which a busy machine does not slow."""

    wall: float
    cpu: float

    def __add__(self, other: Clock) -> Clock:
        return Clock(self.wall + other.wall, self.cpu + other.cpu)

    def __sub__(self, other: Clock) -> Clock:
        return Clock(self.wall - other.wall, self.cpu - other.cpu)


def now() -> Clock:
    """Read both clocks."""
    return Clock(time.perf_counter(), time.process_time())


class RandomEmbedder:
    """Gives every text a unit vector of its own: normal numbers drawn with a hash of the text as seed."""

    name = f"random-{DIMENSION}"
    digest = "0" * 32

    def __init__(self) -> None:
        """Start the clocks at zero."""
        self.spent = Clock(0.0, 0.0)

    def encode(self, texts: Sequence[str]) -> Matrix:
        """Return unit vectors [texts, 384]."""
        began = now()
        vectors = np.empty((len(texts), DIMENSION), dtype=np.float32)
        for row, text in enumerate(texts):
            seed = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
            vectors[row] = np.random.Generator(np.random.SFC64(seed)).standard_normal(DIMENSION, dtype=np.float32)
        vectors = unit_rows(vectors)
        self.spent += now() - began
        return vectors

    encode_queries = encode


def sentence(draw: np.random.Generator, words: int) -> str:
    """Return some words, the n-th most frequent one as likely as 1/n."""
    ranks = np.exp(draw.random(words) * np.log(VOCABULARY)).astype(int)
    return " ".join(f"w{rank}" for rank in ranks)


def write(file: Path, size: int) -> None:
    """Write `size` passages as JSON lines."""
    draw = np.random.default_rng(size)
    with file.open("w", encoding="utf-8") as stream:
        for number in range(size):
            row = {"id": f"p{number:08d}", "title": f"Passage {number}", "text": sentence(draw, WORDS)}
            stream.write(json.dumps(row) + "\n")


def build(folder: Path) -> dict[str, object]:
    """Build the collection; return seconds on the wall and of CPU, the latter for the last tenth too, per passage."""
    embedder, marks, began = RandomEmbedder(), list[tuple[int, Clock]](), now()

    def note(what: str, done: int, total: int) -> None:
        marks.append((done, now() - embedder.spent))

    report = build_index(
        folder / "passages.jsonl", collection=COLLECTION, embedder=embedder, folder=folder / "store", progress=note
    )
    spent = now() - began - embedder.spent
    late = [mark for mark in marks if mark[0] >= 0.9 * report.passages]
    last = (late[-1][1] - late[0][1]).cpu / (late[-1][0] - late[0][0]) if late[-1][0] > late[0][0] else 0.0
    return {"wall": spent.wall, "cpu": spent.cpu, "last": last}


def search(folder: Path, mode: str) -> dict[str, object]:
    """Open the collection and search; return seconds to open, times in ms, and the ids that were found."""
    began = time.perf_counter()
    retriever = open_retriever(COLLECTION, mode=mode, embedder=RandomEmbedder(), folder=folder / "store")  # type: ignore[arg-type]
    retriever.warm()
    opened = time.perf_counter() - began

    def ask(queries: Sequence[str]) -> list[list[str]]:
        return [[passage["id"] for passage in passages] for passages in retriever.search(queries)]

    return {"opened": opened, **timed(ask)}


def matrix(size: int) -> dict[str, object]:
    """Search a matrix of random unit vectors as the exact mode does; return what `search` does."""
    began, draw, embedder = time.perf_counter(), np.random.default_rng(size), RandomEmbedder()
    vectors = np.empty((size, DIMENSION), dtype=np.float32)
    for start in range(0, size, 10_000):
        block = vectors[start : start + 10_000]
        block[:] = unit_rows(draw.standard_normal(block.shape, dtype=np.float32))
    opened = time.perf_counter() - began

    def ask(queries: Sequence[str]) -> list[list[str]]:
        return [[str(row) for row, _ in ranking] for ranking in exact(vectors, embedder.encode_queries(queries), 5)]

    return {"opened": opened, **timed(ask)}


def timed(ask: Callable[[Sequence[str]], list[list[str]]]) -> dict[str, object]:
    """Ask single queries and batches of 32; return their times in ms, and what the single ones found."""
    draw = np.random.default_rng(7)
    queries = [sentence(draw, 8) for _ in range(SINGLES + BATCH * BATCHES)]
    ask([sentence(draw, 8) for _ in range(BATCH)])
    singles, batches, found = list[float](), list[float](), []
    for query in queries[:SINGLES]:
        began = time.perf_counter()
        found += ask([query])
        singles.append(1000 * (time.perf_counter() - began))
    for start in range(SINGLES, len(queries), BATCH):
        began = time.perf_counter()
        ask(queries[start : start + BATCH])
        batches.append(1000 * (time.perf_counter() - began))
    return {"singles": singles, "batches": batches, "found": found}


def measured(folder: Path, size: int, modes: Sequence[str]) -> list[list[object]]:
    """Build and search one size; return a row of the table for each mode."""
    stamp = folder / "built.json"
    if not stamp.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / "passages.jsonl", size)
        step = alone("benchmarks.scale_index", "--step", "build", "--folder", folder)
        stamp.write_text(json.dumps({**step.found, "peak": step.peak}))
    done = json.loads(stamp.read_text())
    times = f"{done['wall']:.0f} ({done['cpu']:.0f})"
    built = [times, f"{1000 * done['last']:.2f}", f"{done['peak']:.0f}", f"{megabytes(folder / 'store'):.0f}"]
    rows: list[list[object]] = []
    truth = None
    for mode in modes:
        step = alone("benchmarks.scale_index", "--step", mode, "--folder", folder)
        found = step.found["found"]
        truth = found if mode == "exact" else truth
        recall = "" if truth is None or mode != "hnsw" else f"{shared(found, truth):.2f}"
        rows.append([f"{size:,}", mode, *built, *searched(step), recall])
        print(rows[-1], flush=True)
    return rows


def searched(step: Step) -> list[str]:
    """Return a row's cells about searching."""
    times = [np.percentile(step.found[kind], at) for kind in ("singles", "batches") for at in (50, 95)]
    return [f"{step.found['opened']:.1f}", f"{step.peak:.0f}", *(f"{value:.1f}" for value in times)]


def bare(size: int) -> list[object]:
    """Search a matrix of one size without Chroma; return a row of the table."""
    step = alone("benchmarks.scale_index", "--step", "matrix", "--sizes", size)
    return [f"{size:,}", "exact, no Chroma", "", "", "", "", *searched(step), ""]


def shared(found: Sequence[Sequence[str]], truth: Sequence[Sequence[str]]) -> float:
    """Return the mean share of the true passages that were found."""
    return float(np.mean([len(set(ours) & set(true)) / len(true) for ours, true in zip(found, truth, strict=True)]))


HEADS = (
    "passages", "mode", "build s (CPU s)", "CPU ms a passage at the end", "build peak MB", "disk MB", "open s",
    "search peak MB", "one query p50 ms", "p95 ms", "32 queries p50 ms", "p95 ms", "recall@5 of exact",
)  # fmt: skip


def perform(step: str, folder: Path, size: int) -> dict[str, object]:
    """Do one step of a measurement, as a process of its own."""
    if step == "matrix":
        return matrix(size)
    return build(folder) if step == "build" else search(folder, step)


def main() -> None:
    """Measure every size, or be one step of it."""
    parser = parser_of(__doc__)
    parser.add_argument("--sizes", nargs="+", type=int, default=[10_000, 100_000], help="numbers of passages")
    parser.add_argument("--modes", nargs="*", default=["exact", "hnsw", "bm25"], choices=MODES)
    parser.add_argument("--folder", type=Path, help="where the stores are kept; default: nowhere")
    parser.add_argument("--matrix", action="store_true", help="search random matrices, and build nothing")
    parser.add_argument("--step", help="used by the program itself")
    asked = parser.parse_args()
    if asked.step is not None:
        print(json.dumps(perform(asked.step, asked.folder, asked.sizes[0])))
        return
    if asked.matrix:
        print(table(HEADS, [bare(size) for size in asked.sizes]))
        return
    with kept(asked.folder) as place:
        rows = [row for size in asked.sizes for row in measured(place / str(size), size, asked.modes)]
    print(table(HEADS, rows))


if __name__ == "__main__":
    main()
