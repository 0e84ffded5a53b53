"""A control experiment: outcomes that have nothing to do with their questions, from which nothing may be learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from graphs.trajectory import Trajectory
from training.reward import TrajectoryReward


def permuted(
    runs: Sequence[Trajectory], paid: Mapping[str, TrajectoryReward], seed: int
) -> dict[str, TrajectoryReward]:
    """Give the runs of each question the outcomes of another question's runs; format penalties stay where they are."""
    groups: dict[str, list[str]] = {}
    for run in runs:
        if run.run in paid:
            groups.setdefault(run.question_id or run.question, []).append(run.run)
    names = list(groups)
    generator = np.random.default_rng([seed])
    order = [int(place) for place in generator.permutation(len(names))]
    found: dict[str, TrajectoryReward] = {}
    for position, place in enumerate(order):  # along the cycle: every question gets another one's
        donors = groups[names[order[(position + 1) % len(order)]]]
        for index, name in enumerate(groups[names[place]]):
            found[name] = replace(paid[donors[index % len(donors)]], format=paid[name].format)
    return found
