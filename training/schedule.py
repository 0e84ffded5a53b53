"""Learning-rate schedules as pure functions of the step, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math
from typing import Literal

Shape = Literal["constant", "linear", "cosine"]


def rate(step: int, total: int, warmup: int = 0, shape: Shape = "constant", floor: float = 0.0) -> float:
    """Return the factor on the peak learning rate at one optimiser step.

    Args:
        step: Steps already made, from 0.
        total: Steps of the whole run, warm-up included; beyond it the last value holds.
        warmup: Steps of linear warm-up: step 0 has 1/warmup, step `warmup` − 1 has 1.
        shape: What follows the warm-up: 1 throughout, or a linear or half-cosine descent to `floor` at `total`.
        floor: Factor at the end, in [0, 1].

    Raises:
        ValueError: An unknown shape, a negative step, or a floor outside [0, 1].
    """
    if shape not in ("constant", "linear", "cosine") or step < 0 or not 0.0 <= floor <= 1.0:
        raise ValueError(f"shape={shape!r}, step={step}, floor={floor}: constant, linear or cosine; ≥ 0; in [0, 1]")
    if step < warmup:
        return (step + 1) / warmup
    if shape == "constant":
        return 1.0
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    left = 1 - done if shape == "linear" else (1 + math.cos(math.pi * done)) / 2
    return floor + (1 - floor) * left
