"""The prefix cache: keys and values of the roles' static heads, least recently used dropped first (DESIGN §5)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

from agents.model_cache import HeadStates


class PrefixCache:
    """Keep head states up to a number of tokens. Not thread-safe; the model's lock covers it."""

    def __init__(self, tokens: int) -> None:
        """Set the budget.

        Args:
            tokens: Most head tokens kept at a time; 0 turns sharing off.
        """
        self.tokens = tokens
        self.hits = 0
        self.misses = 0
        self._kept: OrderedDict[Hashable, tuple[int, HeadStates]] = OrderedDict()

    def get(self, key: Hashable, length: int, make: Callable[[], HeadStates]) -> HeadStates:
        """Return the states under `key`, made by `make` when they are not there.

        Args:
            key: (adapter, its content hash, head tokens); device, dtype and template are the model's own.
            length: Head tokens, counted against the budget.
            make: Runs the head.
        """
        if key in self._kept:
            self.hits += 1
            self._kept.move_to_end(key)
            return self._kept[key][1]
        self.misses += 1
        states = make()
        self._kept[key] = (length, states)
        while len(self._kept) > 1 and sum(size for size, _ in self._kept.values()) > self.tokens:
            self._kept.popitem(last=False)
        return states

    def clear(self) -> None:
        """Drop everything: the weights have changed."""
        self._kept.clear()

    def __len__(self) -> int:
        return len(self._kept)
