"""Quick jobs for the machinery of experiments, importable from the processes that run them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from experiments.arms import Arm


def doubled(arm: Arm) -> dict[str, Any]:
    """Return twice an option, and say in a file that the arm was run; "bad" fails, "killed" ends its process."""
    with Path(arm.options["log"]).open("a") as file:
        file.write(f"{arm.name} {arm.seed} {os.getpid()}\n")
    if arm.name == "bad" and not Path(arm.options["log"]).with_suffix(".mended").exists():
        raise ValueError("no such number")
    if arm.name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does where memory is short
    value = 2 * arm.options["value"]
    curve = [[1, {"rollout/reward": value / 2}], [2, {"rollout/reward": value}]]
    return {"value": value, "curve": curve, "metrics": {"eval/tiny/f1": value}}


def waits(arm: Arm) -> dict[str, Any]:
    """Note the process, and wait for much longer than any test."""
    Path(arm.options["log"]).write_text(f"{os.getpid()}\n")
    time.sleep(600)
    return {}
