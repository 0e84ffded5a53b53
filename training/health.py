"""Is training going wrong? Four named alarms over what each iteration measured. Pure functions on numbers.

nan: a loss, gradient or metric is not a number. entropy: the policy has stopped exploring. topology: one workflow
shape has taken over. reward_without_accuracy: the reward rises while the score falls (costs or formats are gamed).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TOPOLOGY = "rollout/topology/"
WATCHED = ("update/entropy", "rollout/reward", "rollout/score")
"""Metrics that the alarms remember, beside the topology shares."""
ALARMS = ("nan", "entropy", "topology", "reward_without_accuracy")


@dataclass(frozen=True)
class AlarmLimits:
    """When an alarm rings."""

    entropy: float
    """Below this share of the first iteration's entropy."""
    topology: float
    """At or above this share of runs, for a whole window."""
    gap: float
    """Reward up and score down by this between two windows."""
    window: int
    """Iterations of a window."""


def remember(history: dict[str, list[float]], metrics: Mapping[str, float], window: int) -> None:
    """Append what the alarms need; each list keeps its first value and the last two windows."""
    watched = [name for name in metrics if name in WATCHED or name.startswith(TOPOLOGY)]
    known = [name for name in history if name.startswith(TOPOLOGY)]
    seen = max((len(values) for values in history.values()), default=0)
    for name in dict.fromkeys([*watched, *known]):
        values = history.setdefault(name, [0.0] * seen if name.startswith(TOPOLOGY) else [])
        values.append(float(metrics.get(name, 0.0)))
        history[name] = values[:1] + values[1:][-2 * window :]


def alarms(
    metrics: Mapping[str, float], finite: bool, history: Mapping[str, Sequence[float]], limits: AlarmLimits
) -> dict[str, str]:
    """Return the alarms that ring: name → what was seen.

    Args:
        metrics: Of this iteration.
        finite: Whether the update's losses and gradients were numbers.
        history: As `remember` left it, this iteration included.
        limits: When an alarm rings.
    """
    found: dict[str, str] = {}
    undefined = ("update/explained_variance", "update/explained_variance_format")
    bad = [name for name, value in metrics.items() if not math.isfinite(value) and name not in undefined]
    if not finite or bad:
        found["nan"] = f"not a number: {', '.join(bad) or 'a gradient'}"
    entropy = history.get("update/entropy", ())
    if len(entropy) > 1 and entropy[-1] < limits.entropy * entropy[0]:
        found["entropy"] = f"entropy {entropy[-1]:.4f} nat a token, {entropy[0]:.4f} at first"
    topology = _taken_over(history, limits)
    if topology is not None:
        found["topology"] = f"{topology} has at least {limits.topology:.0%} of the runs"
    gamed = _gamed(history, limits)
    if gamed is not None:
        found["reward_without_accuracy"] = gamed
    return found


def collapsing(history: Mapping[str, Sequence[float]], limit: float) -> bool:
    """Return whether one topology had at least `limit` of the last iteration's runs, and less of the first one's."""
    shares = [values for name, values in history.items() if name.startswith(TOPOLOGY) and len(values) > 1]
    return any(values[0] < limit <= values[-1] for values in shares)


def _taken_over(history: Mapping[str, Sequence[float]], limits: AlarmLimits) -> str | None:
    """Return the topology that has taken over, if others were in use when training began."""
    for name, values in history.items():
        if not name.startswith(TOPOLOGY) or len(values) <= limits.window:
            continue
        if values[0] < limits.topology and min(values[-limits.window :]) >= limits.topology:
            return name.removeprefix(TOPOLOGY)
    return None


def _gamed(history: Mapping[str, Sequence[float]], limits: AlarmLimits) -> str | None:
    """Return what happened when reward rose and score fell between the last two windows."""
    changes = []
    for name in ("rollout/reward", "rollout/score"):
        values = list(history.get(name, ()))[-2 * limits.window :]
        if len(values) < 2 * limits.window:
            return None
        before, after = values[: limits.window], values[limits.window :]
        changes.append((sum(after) - sum(before)) / limits.window)
    reward, score = changes
    if reward >= limits.gap and score <= -limits.gap:
        return f"reward {reward:+.3f} while score {score:+.3f} over {limits.window} iterations"
    return None
