"""Is training going wrong? Four named alarms over what each iteration measured. Pure functions on numbers.

nan: a loss, gradient or metric is not a number. entropy: the policy has stopped exploring. topology: one workflow
shape has taken over. reward_without_accuracy: what is optimised rises (reward, and formats) while token F1 against the
gold answers falls, on the sampled or on the held-out questions: costs, formats or a score of one's own are gamed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance

TOPOLOGY = "rollout/topology/"
OBJECTIVE, F1 = "rollout/objective", "rollout/f1"
WATCHED = ("update/entropy", OBJECTIVE, F1)
"""Metrics that the alarms remember, beside the topology shares."""
HELD_OUT, HELD_OUT_LOW = "held-out f1", "held-out f1, low"
"""What is remembered of evaluations: mean token F1 of the sets, and the lower ends of its intervals; each iteration has
those of the last evaluation before it."""
ALARMS = ("nan", "entropy", "topology", "reward_without_accuracy")
WINDOWED = frozenset({"topology", "reward_without_accuracy"})
"""Alarms that ring when what they ring for has lasted a whole window."""


@dataclass(frozen=True)
class AlarmLimits:
    """When an alarm rings."""

    entropy: float
    """Below this share of the first iteration's entropy."""
    topology: float
    """At or above this share of runs, for a whole window."""
    gap: float
    """What is optimised up, and token F1 down, by this between two windows."""
    window: int
    """Iterations of a window."""


def remember(history: dict[str, list[float]], metrics: Mapping[str, float], window: int) -> None:
    """Append what the alarms need; each list keeps its first value and the last two windows."""
    watched = [name for name in metrics if name in WATCHED or name.startswith(TOPOLOGY)]
    known = [name for name in history if name.startswith(TOPOLOGY)]
    seen = max((len(values) for name, values in history.items() if name not in (HELD_OUT, HELD_OUT_LOW)), default=0)
    for name in dict.fromkeys([*watched, *known]):
        values = history.setdefault(name, [0.0] * seen if name.startswith(TOPOLOGY) else [])
        values.append(float(metrics.get(name, 0.0)))
        history[name] = values[:1] + values[1:][-2 * window :]
    for name in (HELD_OUT, HELD_OUT_LOW):
        if last := history.get(name):
            history[name] = last[:1] + [*last[1:], last[-1]][-2 * window :]


def remember_evaluation(history: dict[str, list[float]], metrics: Mapping[str, float]) -> None:
    """Put what held-out questions say now in the place of what the last iteration knew of them.

    Args:
        history: As `remember` left it, or empty before the first iteration.
        metrics: As `training.heldout.evaluate` returned them.
    """
    for name, end in ((HELD_OUT, "/f1"), (HELD_OUT_LOW, "/f1/low")):
        found = [value for key, value in metrics.items() if key.startswith("eval/") and key.endswith(end)]
        if found:
            history[name] = [*history.get(name, ())[:-1], fmean(found)]


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
    """Return what happened when what is optimised rose and F1 fell between the last two windows.

    A fall counts where it is more than chance explains: on sampled questions, which change, more than two standard
    errors of the difference; on held-out ones, which stay, a mean below the interval of the one before.
    """
    rise = _change(history.get(OBJECTIVE, ()), limits.window)
    if rise is None or rise.mean < limits.gap:
        return None
    said = f"what is optimised {rise.mean:+.3f} over {limits.window} iterations"
    fall = _change(history.get(F1, ()), limits.window)
    if fall is not None and fall.mean <= -max(limits.gap, 2 * fall.error):
        return f"{said}, while token F1 {fall.mean:+.3f}"
    known, low = history.get(HELD_OUT, ()), history.get(HELD_OUT_LOW, ())
    if len(known) < limits.window + 2 or len(low) != len(known):
        return None
    then = -2 - limits.window  # measured before the last window began
    if known[-1] - known[then] <= -limits.gap and known[-1] < low[then]:
        return f"{said}, while held-out token F1 {known[-1] - known[then]:+.3f}"
    return None


@dataclass(frozen=True)
class _Change:
    mean: float
    error: float
    """Standard error of `mean`, from the spread within the windows; 0 where they have one iteration."""


def _change(values: Sequence[float], window: int) -> _Change | None:
    """Return how far the mean of the last window is above that of the one before; None before there are two."""
    before, after = values[-2 * window : -window], values[-window:]
    if len(before) < window:
        return None
    spread = variance(before) + variance(after) if window > 1 else 0.0
    return _Change(fmean(after) - fmean(before), math.sqrt(spread / window))
