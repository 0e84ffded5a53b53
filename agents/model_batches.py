"""How requests are cut into micro-batches: by adapter, length and key alone, so that equal work is cut equally."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from agents.call import Request


def plan_batches(requests: Sequence[Request], rows: int, tokens: int, forward: float = math.inf) -> list[list[int]]:
    """Sort requests by (adapter, tail length, key) and cut them.

    Args:
        requests: Any requests; their order does not matter.
        rows: Most rows of a batch.
        tokens: Most slots (rows × longest prompt with its response budget) of a batch of more than one row.
        forward: What a decoding step costs beside its rows' slots, counted in slots. A long prompt widens every row of
            its batch; where that costs more than the steps of another batch, one for it and all that are longer, it
            begins one.

    Returns:
        Places in `requests`; the requests of a batch share an adapter.
    """
    order = sorted(range(len(requests)), key=lambda place: _rank(requests[place]))
    batches: list[list[int]] = []
    open_batch = _Open()
    for place, steps in zip(order, _steps([requests[place] for place in order]), strict=True):
        request = requests[place]
        if not batches or not open_batch.takes(request, rows, tokens, forward * steps):
            batches.append([])
            open_batch = _Open()
        batches[-1].append(place)
        open_batch.add(request)
    return batches


@dataclass
class _Open:
    """The batch that is being filled; its requests come in the order of their tails' lengths."""

    adapter: str | None = None
    count: int = 0
    longest: int = 0
    steps: int = 0
    """Σ of the rows' response budgets."""
    reach: int = 0
    """Σ of budget × tail."""

    def takes(self, request: Request, rows: int, tokens: int, another: float) -> bool:
        """Return whether a request may join; `another` is what beginning another batch costs, in slots."""
        longest = max(self.longest, _slots(request))
        fits = self.count < rows and (self.count + 1) * longest <= tokens
        widened = self.steps * _tail(request) - self.reach
        return fits and self.adapter == request.adapter and widened <= another

    def add(self, request: Request) -> None:
        """Count a request in."""
        self.adapter = request.adapter
        self.count += 1
        self.longest = max(self.longest, _slots(request))
        self.steps += request.max_new_tokens
        self.reach += request.max_new_tokens * _tail(request)


def _steps(requests: Sequence[Request]) -> list[int]:
    """Return, for each request, the steps of a batch that it begins: the longest budget from it on, of its adapter."""
    steps: list[int] = []
    adapter, longest = None, 0
    for request in reversed(requests):
        longest = max(longest if request.adapter == adapter else 0, request.max_new_tokens)
        adapter = request.adapter
        steps.append(longest)
    return steps[::-1]


def _slots(request: Request) -> int:
    return len(request.prompt.ids) + request.max_new_tokens


def _tail(request: Request) -> int:
    return len(request.prompt.ids) - request.prompt.head


def _rank(request: Request) -> tuple[str, int, str]:
    return request.adapter or "", _tail(request), json.dumps(request.key)
