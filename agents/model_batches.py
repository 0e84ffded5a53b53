"""How requests are cut into micro-batches: by adapter, length and key alone, so that equal work is cut equally."""

from __future__ import annotations

import json
from collections.abc import Sequence

from agents.call import Request


def plan_batches(requests: Sequence[Request], rows: int, tokens: int) -> list[list[int]]:
    """Sort requests by (adapter, tail length, key) and cut them.

    Args:
        requests: Any requests; their order does not matter.
        rows: Most rows of a batch.
        tokens: Most slots (rows × longest prompt with its response budget) of a batch of more than one row.

    Returns:
        Places in `requests`; the requests of a batch share an adapter.
    """
    order = sorted(range(len(requests)), key=lambda place: _rank(requests[place]))
    batches: list[list[int]] = []
    longest = 0
    for place in order:
        request = requests[place]
        slots = len(request.prompt.ids) + request.max_new_tokens
        longest = max(longest, slots)
        if not batches or not _joins(batches[-1], requests, request, longest, rows, tokens):
            batches.append([])
            longest = slots
        batches[-1].append(place)
    return batches


def _joins(
    batch: Sequence[int], requests: Sequence[Request], request: Request, longest: int, rows: int, tokens: int
) -> bool:
    same = requests[batch[0]].adapter == request.adapter
    return same and len(batch) < rows and (len(batch) + 1) * longest <= tokens


def _rank(request: Request) -> tuple[str, int, str]:
    return request.adapter or "", len(request.prompt.ids) - request.prompt.head, json.dumps(request.key)
