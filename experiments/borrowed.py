"""Arms that a neighbouring experiment has run already: the same options under another name are not run twice.

`no price` of the penalties, `as proven` of the sensitivities and `tree_gae, all` of the tiny world are one training
run.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.arms import Arm, Results

_log = logging.getLogger("jade.experiments")
_OWN = ("key", "arm", "seed", "options", "setting")
"""Fields of a row that name the arm; the others are what was found."""


def borrow(arms: Sequence[Arm], results: Results, whole: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> int:
    """Copy into an experiment's results what the experiments in the folders beside it found for the same arms.

    Args:
        arms: Those that are wanted.
        results: Where they are looked for first, and added.
        whole: An arm's options → all options, defaults filled in; arms are the same where these, the seed and the
            setting are.

    Returns:
        How many were taken over.
    """
    own, found = results.read(), _neighbours(results, whole)
    taken = [
        (arm, row)
        for arm in arms
        if results.key(arm) not in own and (row := found.get(_meaning(arm.seed, arm.options, whole))) is not None
    ]
    for arm, row in taken:
        results.add(arm, {name: value for name, value in row.items() if name not in _OWN})
    return len(taken)


def _neighbours(results: Results, whole: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    found = {}
    for file in sorted(results.file.parent.parent.glob("*/results.jsonl")):
        if file.parent == results.file.parent:
            continue
        for row in Results(file).read().values():
            try:
                if row["setting"] == results.setting:
                    found[_meaning(row["seed"], row["options"], whole)] = row
            except (KeyError, TypeError, ValueError):  # of an experiment of another kind
                _log.debug("%s has rows of another kind", file)
                break
    return found


def _meaning(seed: int, options: Mapping[str, Any], whole: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> str:
    return json.dumps([seed, whole(options)], sort_keys=True)
