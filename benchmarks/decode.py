"""Milliseconds a call of the decode engine against a plain loop over transformers' growing cache.

400 prompt + 32 new tokens, on the embedded model; `--head` of the prompt tokens are a shared static head. On a busy
machine give `--threads 1`: CPU seconds are then counted instead of wall seconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from transformers.cache_utils import DynamicCache

from agents.call import Prompt, Request
from agents.model import SharedModel

PROMPT, NEW = 400, 32


def plain(model: SharedModel, rows: int, clock: Callable[[], float]) -> float:
    """Return the seconds of the plain loop: concatenating cache, growing mask, no shared head."""
    ids = torch.randint(20, 49_000, (rows, PROMPT))
    mask, cache = torch.ones_like(ids), DynamicCache()
    start = clock()
    with torch.inference_mode():
        for _ in range(NEW):
            output = model.module(
                input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1
            )
            ids = torch.multinomial(output.logits[:, -1].float().softmax(-1), 1)
            mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
    return clock() - start


def engine(model: SharedModel, rows: int, head: int, clock: Callable[[], float]) -> tuple[float, int]:
    """Return seconds and generated tokens of the engine, its head cache and buffers warm."""
    shared = tuple(range(100, 100 + head))

    def requests(first: int, new: int) -> list[Request]:
        tails = torch.randint(20, 49_000, (rows, PROMPT - head)).tolist()
        return [
            Request((first + i,), "benchmark", Prompt(shared + tuple(tail), head), new, 1.0)
            for i, tail in enumerate(tails)
        ]

    model.sample(requests(1000, 1))
    timed = requests(0, NEW)
    start = clock()
    completions = model.sample(timed)
    return clock() - start, sum(len(completion.response_ids) for completion in completions)


def main() -> None:
    """Print one line a batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--head", type=int, default=200)
    options = parser.parse_args()
    clock = time.process_time if options.threads == 1 else time.perf_counter
    model = SharedModel.load(dtype=options.dtype, threads=options.threads, progress=print)
    for rows in options.rows:
        before = plain(model, rows, clock) / rows * 1e3
        seconds, tokens = engine(model, rows, options.head, clock)
        after = seconds / rows * 1e3
        print(
            f"rows {rows:3d}: plain {before:6.0f} ms a call, engine {after:6.0f} ms ({before / after:.2f} times; "
            f"{tokens} of {rows * NEW} tokens, the rest ended early)"
        )


if __name__ == "__main__":
    main()
