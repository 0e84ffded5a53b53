"""The declared roster: every role that JADE's own graphs use, and one digest over all that they may say.

A role of your own needs no entry here: give it to `act` directly. `role_digest` says what such a role stands for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from agents.answerer import GENERATOR, SUMMARISER
from agents.decomposer import MAX_ITEMS, MIN_ITEMS, PARALLEL_DECOMPOSER, SERIAL_DECOMPOSER
from agents.planner import PLANNER
from agents.rewriter import REWRITER
from agents.role import Inputs, Prompts, Role
from agents.selector import SELECTOR

ROLES: dict[str, Role[Any]] = {
    role.name: role
    for role in (
        PLANNER,
        SERIAL_DECOMPOSER,
        PARALLEL_DECOMPOSER,
        REWRITER,
        SELECTOR,
        GENERATOR,
        SUMMARISER,
    )
}
"""Role name → role."""

_PROBE: dict[str, Any] = {
    "question": "A <q>?",
    "main": "B?",
    "query": "c",
    "documents": [{"number": 0, "title": "d", "text": "e"}, {"number": 2, "title": "", "text": "f " * 200}],
    "answered": [{"question": "g?", "answer": "h"}],
    "hops": [{"question": "i?", "answer": "j"}, {"question": "k?", "answer": None, "skipped": "budget"}],
    "trace": [{"question": "l?", "answer": None}],
    "depth_left": 1,
    "turns_left": None,
    "retrievals_left": None,
    "max_hops": MAX_ITEMS,
}
"""One value for everything that a role may see."""


def _probes() -> Iterator[Inputs]:
    """Yield inputs that together show every text of every role: both views, all menus, all breadths."""
    yield _PROBE
    role_view = {key: value for key, value in _PROBE.items() if key != "trace"}
    for depth in (0, 1):
        for turns in (None, 1, 2):
            for retrievals in (None, 0):
                yield {**role_view, "depth_left": depth, "turns_left": turns, "retrievals_left": retrievals}
    for hops in range(MIN_ITEMS, MAX_ITEMS):
        yield {**role_view, "max_hops": hops, "documents": []}


def prompts_digest(prompts: Prompts) -> str:
    """Return a hash of everything that the roles may be told and may answer, for the `text` hash (DESIGN §6).

    It covers system and user turns (rendered on fixed inputs), constraints, stop tags and token budgets.
    """
    digest = hashlib.sha256()
    for name, role in sorted(ROLES.items()):
        digest.update(json.dumps([name, role.stop, role.max_new_tokens]).encode())
        for inputs in _probes():
            constraint = role.constraint(inputs)
            spoken = [role.messages(inputs, prompts), constraint.to_json() if constraint else None]
            digest.update(json.dumps(spoken, ensure_ascii=False).encode())
    return digest.hexdigest()


class _Anything(Mapping[str, Any]):
    """Inputs of an unknown role: every key is there, and holds a short text."""

    def __getitem__(self, key: str) -> str:
        return "x"

    def __contains__(self, key: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def role_digest(role: Role[Any], prompts: Prompts) -> str:
    """Return a hash of what one role is told and may answer: the part of `prompts_digest` that any role has.

    It covers name, system text, stop tag and token budget; user turn and constraint too, where they can be rendered
    on inputs that hold texts only. Python code behind them (a parser, a fallback) is not seen.
    """
    parts: list[Any] = [role.name, role.stop, role.max_new_tokens, prompts.text(role)]
    try:
        constraint = role.constraint(_Anything())
        parts += [role.messages(_Anything(), prompts), constraint.to_json() if constraint else None]
    except Exception:  # the role's own code, on inputs that it was not written for
        parts.append("user turn unknown")
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False, default=str).encode()).hexdigest()[:16]
