"""How long one query and a batch of 32 take, embedding included, over a real corpus of 10,000 passages.

    python -m benchmarks.retrieval                   nq (10,015 passages), every mode; builds its index if need be
    python -m benchmarks.retrieval --dataset squad --modes exact --queries 100

Wanted on two CPU cores: p50 of a single query under 15 ms. The query cache is off. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from agents.corpora import DATASETS, read_supporting
from agents.embedder import open_embedder
from agents.errors import JadeError, RetrieverError
from agents.index import build_index
from agents.retriever import MODES, ChromaRetriever, open_retriever

BATCH = 32


def milliseconds(action: Callable[[], object]) -> float:
    """Return the wall-clock time of one call, in ms."""
    began = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - began)


def measure(retriever: ChromaRetriever, queries: list[str]) -> tuple[list[float], list[float]]:
    """Return the times (ms) of single queries and of batches of 32, after warming up."""
    retriever.warm()
    retriever.search(queries[:BATCH])
    singles = [milliseconds(lambda query=query: retriever.search([query])) for query in queries]  # type: ignore[misc]
    batches = [queries[start : start + BATCH] for start in range(0, len(queries) - BATCH + 1, BATCH)]
    return singles, [milliseconds(lambda batch=batch: retriever.search(batch)) for batch in batches]  # type: ignore[misc]


def main() -> None:
    """Print one row a mode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="nq", choices=DATASETS)
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--queries", type=int, default=256, help="dev questions used, at least 32")
    arguments = parser.parse_args()
    embedder = open_embedder(progress=print)
    try:
        open_retriever(arguments.dataset, embedder=embedder)
    except RetrieverError:
        build_index(dataset=arguments.dataset, embedder=embedder, progress=lambda *step: print(*step))
    queries = [question for question, _ in read_supporting(arguments.dataset)][: max(BATCH, arguments.queries)]
    print(f"{'mode':8}{'passages':>10}{'queries':>9}{'p50 ms':>9}{'p95 ms':>9}{'batch of 32: p50 ms':>22}{'p95 ms':>9}")
    for mode in arguments.modes:
        retriever = ChromaRetriever(collection=arguments.dataset, embedder=embedder, mode=mode, cache_size=0)
        singles, batches = measure(retriever, queries)
        numbers = [float(np.percentile(times, share)) for times in (singles, batches) for share in (50, 95)]
        print(
            f"{mode:8}{retriever.passages:10,}{len(singles):9}{numbers[0]:9.1f}{numbers[1]:9.1f}"
            f"{numbers[2]:22.1f}{numbers[3]:9.1f}"
        )


if __name__ == "__main__":
    try:
        main()
    except JadeError as error:
        raise SystemExit(f"error: {error}") from error
