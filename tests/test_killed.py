"""Training runs that die by real signals, and go on: the adapter is, byte by byte, that of a run that was never killed.

Each run is a process. Where it kills itself, it is by SIGKILL at a chosen call: nothing of ours runs afterwards.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from graphs.ledger import is_sealed
from tests.ppo_child import child, command, train
from tests.ppo_toy import start_adapter
from tests.toy_model import toy_module, toy_tokenizer
from training.checkpoint import FRESH, LATEST, PREVIOUS, read_state
from training.rollout import segment_file

PATIENCE = 240.0
"""Seconds after which a process that should have ended counts as stuck."""


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return start_adapter(tmp_path_factory.mktemp("start") / "adapter")


def lived(target: Callable[..., None], *arguments: Any) -> int:
    """Run a process to its end and return its exit status; negative = the signal that killed it."""
    process = child(target, *arguments)
    process.join(PATIENCE)
    assert process.exitcode is not None, "the process is stuck"
    return process.exitcode


def left(folder: Path) -> dict[str, bytes]:
    """Return what a finished run leaves that was learned: the adapter, its checkpoint, and the last policy."""
    files = [folder / "adapter" / "adapter_model.safetensors", *(folder / LATEST).rglob("*.safetensors")]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_killed_at_every_stage_the_resumed_run_ends_with_the_same_bytes(tmp_path: Path, start: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert lived(train, str(whole), str(start), None) == 0

    def die(where: str) -> None:
        assert lived(train, str(killed), str(start), where) == -signal.SIGKILL, where

    die("collect:3")  # the third of six runs is being written
    assert segment_file(killed, 0).is_file() and not is_sealed(segment_file(killed, 0))
    die("update:3")  # two of four optimiser steps are done
    assert is_sealed(segment_file(killed, 0)) and read_state(killed / LATEST).iteration == 0
    segment = segment_file(killed, 0).read_bytes()
    die("weights:2")  # the new checkpoint has its adapter and heads, not its optimiser
    assert (killed / FRESH / "heads.safetensors").is_file() and not (killed / FRESH / "optimizer.safetensors").exists()
    die("swap:1")  # the old checkpoint has moved away, the new one has not moved in
    assert not (killed / LATEST).exists() and read_state(killed / PREVIOUS).iteration == 0
    die("collect:5")  # of the second iteration: the first one's segment was replayed, not collected
    assert segment_file(killed, 0).read_bytes() == segment and read_state(killed / LATEST).iteration == 1
    assert lived(train, str(killed), str(start), None) == 0
    assert left(killed) == left(whole) and len(left(whole)) == 4
    assert read_state(killed / LATEST).iteration == 2 and not (killed / FRESH).exists()


@pytest.mark.slow
def test_killed_at_random_moments_the_resumed_run_ends_with_the_same_bytes(tmp_path: Path, start: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert lived(time.sleep, 0.0) == 0  # the server is warm
    began = time.monotonic()
    assert lived(train, str(whole), str(start), None, 6) == 0
    spent, draw, deaths = time.monotonic() - began, random.Random(0), 0
    for _ in range(12):
        process = child(train, str(killed), str(start), None, 6)
        process.join(draw.uniform(0.05, 0.4) * spent if deaths < 10 else PATIENCE)
        if process.exitcode == 0:
            break
        process.kill()
        process.join(PATIENCE)
        deaths += process.exitcode == -signal.SIGKILL
    assert deaths >= 3 and process.exitcode == 0, (deaths, process.exitcode)
    assert left(killed) == left(whole)


# ---- Ctrl-C


@pytest.fixture
def ready(tmp_path: Path) -> Iterator[dict[str, str]]:
    """What a command needs: a model, questions, and an environment of its own."""
    toy_module().save_pretrained(tmp_path / "toy")
    toy_tokenizer().save_pretrained(tmp_path / "toy")
    rows = [{"id": f"q{i}", "question": f"Is it right number {i}?", "answers": ["yes"]} for i in range(6)]
    (tmp_path / "my.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    yield {"JADE_HOME": str(tmp_path / "home"), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow' / 'ml.db'}"}


def arguments(folder: Path, iterations: int) -> list[str]:
    """Return the command line of a short training run of anybody's graph."""
    options = {
        "output": folder / "run", "model": folder / "toy", "graph": "examples.own_graph:graph",
        "data": folder / "my.jsonl", "score": "tests.ppo_toy:graded", "iterations": iterations, "questions": 2,
        "runs": 2, "first_layer": 1, "rank": 4, "lr": 1e-3, "critic_warmup": 0, "eval_every": 0, "traces": 0,
        "threads": 1, "dtype": "fp32", "minibatches": 1,
    }  # fmt: skip
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def test_ctrl_c_ends_after_the_current_update_with_a_checkpoint_and_resumes(
    tmp_path: Path, ready: dict[str, str]
) -> None:
    log = tmp_path / "log"
    process = child(command, arguments(tmp_path, 500), ready, str(log))
    wait_for(segment_file(tmp_path / "run", 1), process)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join(PATIENCE)
    assert process.exitcode == 0, log.read_text()
    assert "ending after the current update; press Ctrl-C again to end at once" in log.read_text()
    assert "Traceback" not in log.read_text()
    done = read_state(tmp_path / "run" / LATEST).iteration
    assert 2 <= done < 500 and is_sealed(segment_file(tmp_path / "run", done - 1))
    assert json.loads((tmp_path / "run" / "adapter" / "jade.json").read_text())["version"] == done
    assert lived(command, arguments(tmp_path, done + 1), ready, str(log)) == 0, log.read_text()
    assert read_state(tmp_path / "run" / LATEST).iteration == done + 1
    assert json.loads((tmp_path / "run" / "adapter" / "jade.json").read_text())["version"] == done + 1


def wait_for(file: Path, process: Any) -> None:
    """Wait until a file appears."""
    end = time.monotonic() + PATIENCE
    while not file.exists():
        assert process.is_alive() and time.monotonic() < end, f"{file.name} did not appear"
        time.sleep(0.01)
