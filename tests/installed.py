"""What jade-rag[dev] consists of, from the metadata of what is installed: its closure, versions and licences."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT_PACKAGE = "jade-rag"
Wanted = tuple[str, frozenset[str]]
"""(package name, its extras)."""


def _requirements(found: Distribution, extras: Iterable[str]) -> Iterator[Requirement]:
    """Yield what a distribution needs here, with some of its extras."""
    for line in found.requires or ():
        needed = Requirement(line)
        marks = [{"extra": extra} for extra in ("", *extras)]
        if needed.marker is None or any(needed.marker.evaluate(mark) for mark in marks):
            yield needed


@cache
def closure() -> dict[str, Distribution]:
    """Return canonical name → distribution of everything that jade-rag[dev] needs here, itself left out.

    Raises:
        PackageNotFoundError: Something needed is not installed.
    """
    queue: list[Wanted] = [(ROOT_PACKAGE, frozenset({"dev"}))]
    seen: set[Wanted] = set()
    found: dict[str, Distribution] = {}
    while queue:
        name, extras = queue.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found[name] = distribution(name)
        queue += [
            (canonicalize_name(needed.name), frozenset(needed.extras)) for needed in _requirements(found[name], extras)
        ]
    del found[ROOT_PACKAGE]
    return found


def unmet(distributions: Iterable[Distribution]) -> list[str]:
    """Return the requirements of distributions that what is installed does not meet, as `pip check` does."""
    wrong = []
    for one in distributions:
        for needed in _requirements(one, ()):
            try:
                version = distribution(needed.name).version
            except PackageNotFoundError:
                wrong.append(f"{one.name} needs {needed}, which is not installed")
                continue
            if not needed.specifier.contains(version, prereleases=True):
                wrong.append(f"{one.name} needs {needed}, and {version} is installed")
    return wrong


def licence(one: Distribution) -> str:
    """Return what a distribution says of its licence: the SPDX expression, else classifiers, else its first line."""
    metadata = one.metadata
    if expression := metadata.get("License-Expression"):
        return str(expression)
    classifiers = [
        line.split("::")[-1].strip() for line in metadata.get_all("Classifier") or () if "License ::" in line
    ]
    named = [line for line in classifiers if line != "OSI Approved"]
    return " OR ".join(named) or (metadata.get("License") or "").strip().split("\n")[0]


def parts(expression: str) -> list[list[str]]:
    """Return the alternatives of a licence, each as the licences that hold together: "A AND (B OR C)" = A, B, C.

    A group in brackets is read as if all of it were required, which is too strict and never too lenient.
    """
    if not re.search(r" AND | OR |, Apache", expression):
        return [[expression]]
    grouped = "(" in expression and " AND " in expression
    alternatives = [expression] if grouped else re.split(r"\s+OR\s+|,\s+(?=Apache)", expression)
    return [[word.strip("() ") for word in re.split(r"\s+AND\s+|\s+OR\s+", one)] for one in alternatives]
