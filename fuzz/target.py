"""What a fuzzing target is: a check of arbitrary bytes, with seeds and words that lead to its depths."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module


class Broken(AssertionError):
    """Something that must hold for every input does not hold for this one."""


def hold(condition: object, what: str) -> None:
    """Insist on an invariant, also where assertions are switched off.

    Raises:
        Broken: It does not hold.
    """
    if not condition:
        raise Broken(what)


@dataclass(frozen=True)
class Target:
    """One reader and what must hold for it, whatever it reads."""

    name: str
    promise: str
    """What holds for every input."""
    check: Callable[[bytes], None]
    """Reads the bytes; declared errors are part of the promise, anything else comes out as a fault."""
    seeds: Callable[[], Iterable[bytes]]
    """Inputs that reach far, for mutation to begin with."""
    words: tuple[str, ...] = ()
    """Pieces that mutation may put in whole."""
    longest: int = 512
    """Most bytes of an input."""
    runs: int = 100_000
    """Inputs of `python -m fuzz all`; together above ten million."""


MODULES = ("roles", "plans", "constraints", "ledgers", "configurations", "asking", "documents")
"""The modules of this folder that have a `TARGETS`; each is loaded when it is needed."""


def load_targets() -> dict[str, Target]:
    """Import every module of targets, with what it checks, and return name → target."""
    targets: tuple[Target, ...] = ()
    for module in MODULES:
        targets += import_module(f"fuzz.{module}").TARGETS
    return {target.name: target for target in targets}
