"""Whether the fields of a recorded object have the types that they were written with: a corrupt line must not pass.

JSON that was damaged, or written by another program, may hold anything. What is let in here would break far away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

Check = Callable[[Any], bool]


def text(value: Any) -> bool:
    """Return whether it is a text."""
    return isinstance(value, str)


def whole(value: Any) -> bool:
    """Return whether it is a whole number, which true and false are not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def number(value: Any) -> bool:
    """Return whether it is a real number; NaN and infinities are."""
    return isinstance(value, Real) and not isinstance(value, bool)


def flag(value: Any) -> bool:
    """Return whether it is true or false."""
    return isinstance(value, bool)


def mapping(value: Any) -> bool:
    """Return whether it is a JSON object."""
    return isinstance(value, Mapping)


def or_none(check: Check) -> Check:
    """Return a check that also lets None pass."""
    return _named(lambda value: value is None or check(value), f"{check.__name__} or nothing")


def many(check: Check) -> Check:
    """Return a check of a list; one element of each type stands for all of that type, since token lists are long."""

    def passes(value: Any) -> bool:
        if not isinstance(value, list | tuple):
            return False
        return all(map(check, {type(item): item for item in value}.values()))

    return _named(passes, f"list of {check.__name__}s")


def _named(check: Check, name: str) -> Check:
    check.__name__ = name
    return check


def check_fields(what: str, data: Mapping[str, Any], checks: Mapping[str, Check]) -> None:
    """Check the fields that are there; a missing one is the reader's business.

    Raises:
        TypeError: A field has another type; the message names it, what it is and what is wanted.
    """
    for name, check in checks.items():
        if name in data and not check(data[name]):
            raise TypeError(f"{what}: {name} is {data[name]!r:.60}; wanted a {check.__name__}")
