"""A training run in a process of its own that may be killed: forked from a warm server, so that it starts in no time.

Each way of dying is a real signal to a real process: nothing of ours runs after it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


class Untracked:
    """A tracked run that keeps nothing."""

    run_id = None

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


def at(owner: Any, name: str, place: int, wanted: Callable[..., bool] = lambda *args: True) -> None:
    """Kill this process when `owner.name` is called for the `place`-th time with arguments that are wanted."""
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def deadly(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += wanted(*args)
        if calls == place:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **options)

    setattr(owner, name, deadly)


def arm(death: str) -> None:
    """Say where this process dies, as "stage:place", counted from now on.

    collect = when a run is to be written to the ledger; update = at an optimiser step; weights = when a weight file
    of a checkpoint is to be written; swap = when a whole new checkpoint is to take its place.
    """
    from torch.optim import AdamW

    from graphs.ledger import LedgerWriter
    from training import checkpoint

    stage, _, place = death.partition(":")
    if stage == "swap":
        at(os, "replace", int(place), lambda source, target: Path(target).name == checkpoint.LATEST)
        return
    stages = {"collect": (LedgerWriter, "close"), "update": (AdamW, "step"), "weights": (checkpoint, "_save")}
    at(*stages[stage], int(place))


def train(folder: str, start: str, death: str | None, iterations: int = 2) -> None:
    """Begin or resume a run on the toy model, and run it to its end unless it dies before."""
    from tests.ppo_toy import toy_session
    from training.ppo import run

    os.environ["JADE_HOME"] = str(Path(folder) / "home")
    session = toy_session(Path(folder), start=Path(start), iterations=iterations)
    if death is not None:
        arm(death)
    sys.exit(run(session, Untracked()))  # type: ignore[arg-type]


def command(arguments: list[str], environment: dict[str, str], log: str) -> None:
    """Be `python -m training.ppo` with these arguments."""
    from training import ppo

    os.environ.update(environment)
    os.chdir(ROOT)
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the fork server ignores it
    sys.argv = ["ppo", *arguments]
    sys.exit(ppo.main())


def child(target: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """Start a function in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.ppo_toy", "training.ppo", "torch.optim", "peft", "mlflow"])
    process = context.Process(target=target, args=arguments)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([before] if before else [])])  # the server imports by it
    try:
        process.start()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    return process
