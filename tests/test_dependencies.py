"""What we install: every version is pinned, all fit together, and every licence is one that we may build on.

Known vulnerabilities need a service and are looked up by `./jade test` where one answers (docs/fuzzing.md).
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.installed import closure, licence, parts, unmet

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "MIT", "MIT License", "MIT-0", "MIT-CMU", "ISC License (ISCL)", "0BSD", "Zlib", "CC0-1.0", "BSL-1.0", "HPND",
    "BSD License", "BSD-2-Clause", "BSD-3-Clause", "3-Clause BSD License", "Python Software Foundation License",
    "Apache-2.0", "Apache Software License", "Apache License, Version 2.0", "Apache 2.0 License", "PSF-2.0",
    "Apache-2.0 WITH LLVM-exception", "CNRI-Python", "The Unlicense (Unlicense)",
    "MPL-2.0", "Mozilla Public License 2.0 (MPL 2.0)",
}  # fmt: skip
"""Permissive licences, and the MPL, which binds changes of its own files only."""
JUDGED = {
    "langgraph-api": (
        "Elastic-2.0",
        "the server of `langgraph dev`, a tool of development that nothing of ours imports",
    ),
    "langgraph-runtime-inmem": ("Elastic-2.0", "part of the same"),
    "huey": ("", "MIT by its LICENSE file; its metadata say nothing"),
    "skops": ("", "MIT by its LICENSE file; its metadata say nothing"),
}
"""Packages whose licence is not on the list → (what their metadata say, why they may be used all the same)."""


def pins() -> dict[str, str]:
    """Return canonical name → version of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    needed = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    assert all(len(one.specifier) == 1 and str(one.specifier).startswith("==") for one in needed)
    return {canonicalize_name(one.name): str(one.specifier)[2:] for one in needed}


def test_every_dependency_is_pinned_and_nothing_else() -> None:
    installed, pinned = set(closure()), set(pins())
    assert installed - pinned == set(), "needed and not in constraints.txt"
    assert {name for name in pinned - installed if not _elsewhere(name)} == set(), "pinned for nothing"


def _elsewhere(name: str) -> bool:
    """Return whether a pinned package is needed on other systems only: torch's own parts for a GPU."""
    return bool(re.match(r"nvidia-|triton|cuda-", name))


def test_what_is_installed_is_what_is_pinned() -> None:
    wanted = pins()
    other = {
        name: (one.version, wanted[name])
        for name, one in closure().items()
        if name in wanted and Version(one.version).public != Version(wanted[name]).public
    }
    assert other == {}, "run ./jade setup"


def test_what_is_installed_fits_together() -> None:
    assert unmet(closure().values()) == []


def test_every_licence_is_allowed() -> None:
    wrong = {
        name: licence(one)
        for name, one in closure().items()
        if not any(set(group) <= ALLOWED for group in parts(licence(one)))
    }
    unjudged = {name: said for name, said in wrong.items() if JUDGED.get(name, (None,))[0] != said}
    assert unjudged == {}, "judge these licences, and write down why, in JUDGED"
    assert set(JUDGED) - set(wrong) == set(), "judged for nothing"


@pytest.mark.parametrize(
    "expression, groups",
    [
        ("MIT", [["MIT"]]),
        ("Apache-2.0 OR MIT", [["Apache-2.0"], ["MIT"]]),
        ("BSD-3-Clause AND Zlib", [["BSD-3-Clause", "Zlib"]]),
        ("MPL-2.0 AND (Apache-2.0 OR GPL-3.0)", [["MPL-2.0", "Apache-2.0", "GPL-3.0"]]),
        ("MIT License, Apache License, Version 2.0", [["MIT License"], ["Apache License, Version 2.0"]]),
    ],
)
def test_licences_are_taken_apart(expression: str, groups: list[list[str]]) -> None:
    assert parts(expression) == groups


def test_an_unmet_requirement_is_named() -> None:
    class Made:
        name, requires = "made", ("packaging<1", "no-such-package-of-ours", "numpy; python_version < '3'")

    assert unmet([Made()]) == [  # type: ignore[list-item]
        f"made needs packaging<1, and {closure()['packaging'].version} is installed",
        "made needs no-such-package-of-ours, which is not installed",
    ]
