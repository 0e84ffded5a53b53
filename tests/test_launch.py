"""Launched as a user would: by accelerate's own command, with the launch files that ship."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from agents.index import build_index
from evaluation.ranks import Ranks
from tests.scripted import PASSAGES
from tests.toy_model import toy_module, toy_tokenizer
from training.checkpoint import LATEST, read_state
from training.shares import segment_file

ROOT = Path(__file__).resolve().parent.parent


def test_the_launch_files_are_accelerates_own(tmp_path: Path) -> None:
    kinds = {
        name: load_config_from_file(str(ROOT / f"configs/accelerate-{name}.yaml")) for name in ("cpu", "gpu", "fsdp")
    }
    assert kinds["cpu"].distributed_type == kinds["gpu"].distributed_type == "MULTI_GPU"
    assert kinds["fsdp"].distributed_type == "FSDP" and kinds["fsdp"].fsdp_config["fsdp_version"] == 2


@pytest.mark.slow
def test_accelerate_launch_runs_the_command_names_a_killed_rank_and_goes_on(tmp_path: Path) -> None:
    toy_module().save_pretrained(tmp_path / "toy")
    toy_tokenizer().save_pretrained(tmp_path / "toy")
    rows = [{"id": f"q{i}", "question": f"Is it right number {i}?", "answers": ["yes"]} for i in range(6)]
    (tmp_path / "my.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    log = tmp_path / "log"
    with log.open("w") as stream:
        job = launched(tmp_path, stream, iterations=500)
        wait_for(segment_file(tmp_path / "run", 1, Ranks(1, 2)), job)
        found = re.search(r"rank 1 \(process (\d+) on", log.read_text())
        assert found is not None, log.read_text()
        os.kill(int(found[1]), signal.SIGKILL)
        assert job.wait(120) != 0
    assert re.search(r"rank +: 1 .*\n +exitcode +: -9", log.read_text()), log.read_text()[-3000:]
    done = read_state(tmp_path / "run" / LATEST).iteration
    with log.open("w") as stream:
        assert launched(tmp_path, stream, iterations=done + 1).wait(600) == 0, log.read_text()[-3000:]
    assert read_state(tmp_path / "run" / LATEST).iteration == done + 1
    assert len(list((tmp_path / "run" / "ledger").glob("*of2.jsonl"))) == 2 * (done + 1)


@pytest.mark.slow
def test_accelerate_launch_shares_an_evaluation_out(tmp_path: Path) -> None:
    toy_module().save_pretrained(tmp_path / "toy")
    toy_tokenizer().save_pretrained(tmp_path / "toy")
    passages = [{"id": name, "title": title, "text": text} for name, title, text in PASSAGES]
    (tmp_path / "passages.jsonl").write_text("\n".join(map(json.dumps, passages)))
    rows = [{"id": f"q{i}", "question": f"How tall is mountain number {i}?", "answers": ["8611 m"]} for i in range(5)]
    (tmp_path / "my.jsonl").write_text("\n".join(map(json.dumps, rows)))
    build_index(tmp_path / "passages.jsonl", collection="mine", embedder="hash", folder=tmp_path / "home" / "index")
    options = {
        "output": tmp_path / "run", "model": tmp_path / "toy", "data": tmp_path / "my.jsonl", "index": "mine",
        "embedder": "hash", "sets": "[]", "systems": "['R,AG@none', 'AG@none']", "threads": 1, "dtype": "fp32",
        "resamples": 100, "experiment": "none", "max_new_tokens": 10, "lacking": "allow",
    }  # fmt: skip
    log = tmp_path / "log"
    with log.open("w") as stream:
        job = started("evaluation.evaluate", tmp_path, stream, options)
        assert job.wait(600) == 0, log.read_text()[-3000:]
    lines = [json.loads(line) for line in (tmp_path / "run" / "records.jsonl").read_text().splitlines()]
    assert len({(line["system"], line["id"]) for line in lines}) == len(lines) == 10
    assert len(list((tmp_path / "run" / "ledger" / "AG-none").glob("*of2.jsonl"))) == 2
    assert (tmp_path / "run" / "report.md").is_file() and log.read_text().count("R,AG@none") > 0
    assert "2 processes share the questions: rank 0 (process" in log.read_text()


def launched(folder: Path, stream: Any, **changes: Any) -> subprocess.Popen[bytes]:
    """Start a training run of anybody's graph on two processes."""
    options = {
        "output": folder / "run", "model": folder / "toy", "graph": "examples.own_graph:graph",
        "data": folder / "my.jsonl", "score": "tests.ppo_toy:graded", "questions": 3, "runs": 2, "first_layer": 1,
        "rank": 4, "critic_warmup": 0, "eval_every": 0, "traces": 1, "threads": 1, "dtype": "fp32", "minibatches": 1,
        **changes,
    }  # fmt: skip
    return started("training.ppo", folder, stream, options)


def started(module: str, folder: Path, stream: Any, options: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    """Start a command on two processes, as a user would."""
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    launch = ["-m", "accelerate.commands.launch", "--config_file", str(ROOT / "configs/accelerate-cpu.yaml")]
    command = [sys.executable, *launch, "--main_process_port", "0", "-m", module, *words]
    tracking = f"sqlite:///{folder / 'mlflow' / 'ml.db'}"
    environment = {**os.environ, "JADE_HOME": str(folder / "home"), "MLFLOW_TRACKING_URI": tracking}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=stream, stderr=subprocess.STDOUT)


def wait_for(file: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until a file appears."""
    end = time.monotonic() + 300
    while not file.exists():
        assert process.poll() is None and time.monotonic() < end, f"{file.name} did not appear"
        time.sleep(0.05)
