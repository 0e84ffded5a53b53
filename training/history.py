"""The metrics of every iteration in a file beside the checkpoint: for the plots, and for who has no tracking store.

One JSON line an iteration. An iteration that is done again after a kill adds a second line, and the later one counts.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path

FILE = "metrics.jsonl"
Rows = list[tuple[int, dict[str, float]]]
"""(iteration, its metrics), in order."""
_log = logging.getLogger("jade.ppo")


def add_metrics(output: Path, step: int, metrics: Mapping[str, float]) -> None:
    """Append the metrics of an iteration; a full disk costs the line and a warning, never the training run.

    Args:
        output: Folder of the training run.
        step: Iterations done; 0 = before the first.
        metrics: Tracked name → number; what is not a number is left out.
    """
    numbers = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
    line = json.dumps({"step": step, **numbers}) + "\n"
    path = output / FILE
    try:
        output.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            size = file.tell()
            if size:  # a torn line must not swallow this one
                file.seek(size - 1)
                line = line if file.read(1) == b"\n" else "\n" + line
            file.write(line.encode())
    except OSError as error:
        _log.warning("the metrics of iteration %d are not in %s: %s", step, path, error)


def read_metrics(output: Path) -> Rows:
    """Return the metrics of all iterations of a training run in order; lines that cannot be read are skipped."""
    rows: dict[int, dict[str, float]] = {}
    path = output / FILE
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            data = json.loads(line)
            step = int(data.pop("step"))
            rows[step] = {name: float(value) for name, value in data.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return sorted(rows.items())
