"""Bytes as material: numbers, choices, texts and whole values are taken from their front, the same ones each time.

Without bytes left everything is 0, empty or the first choice, so that every input means something.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")
_NUMBERS = (0, 1, -1, 2, 64, 65, 2**31, 2**63, 2**64, -(2**63), 10**30, 10**400)
_FLOATS = (0.0, -0.0, 0.5, 1.0, 5.0, 1e-320, 1e308, float("inf"), float("-inf"), float("nan"))


class Material:
    """One input, used up from the front."""

    def __init__(self, data: bytes) -> None:
        """Keep the bytes."""
        self._data, self._place = data, 0

    def byte(self) -> int:
        """Return the next byte; 0 at the end."""
        if self._place >= len(self._data):
            return 0
        self._place += 1
        return self._data[self._place - 1]

    def below(self, most: int) -> int:
        """Return a number from 0 to `most` − 1, of at most 256."""
        return self.byte() % most

    def pick(self, choices: Sequence[T]) -> T:
        """Return one of at most 256 choices."""
        return choices[self.below(len(choices))]

    def rest(self) -> bytes:
        """Return all that is left."""
        rest, self._place = self._data[self._place :], len(self._data)
        return rest

    def text(self) -> str:
        """Return all that is left as text; bytes that are no UTF-8 become lone surrogates."""
        return self.rest().decode("utf-8", "surrogateescape")

    def word(self) -> str:
        """Return a text of at most 31 bytes."""
        size = self.below(32)
        piece = self._data[self._place : self._place + size]
        self._place += len(piece)
        return piece.decode("utf-8", "surrogateescape")

    def value(self, depth: int = 2) -> Any:
        """Return anything that a caller from Python may pass: what JSON has, and a little that it has not."""
        kind = self.below(9 if depth else 6)
        if kind == 6:
            return [self.value(depth - 1) for _ in range(self.below(4))]
        if kind == 7:
            return {self.word(): self.value(depth - 1) for _ in range(self.below(4))}
        if kind == 8:
            return (self.word().encode("utf-8", "surrogateescape"), self.value(depth - 1))
        simple = (self.word, lambda: None, lambda: bool(self.below(2)), self.byte)
        if kind < len(simple):
            return simple[kind]()
        return self.pick(_NUMBERS) if kind == 4 else self.pick(_FLOATS)
