"""The harness that counts faults leaves nothing behind: no server that never came up, no job, no folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from faults.__main__ import workplace
from faults.chroma import ChromaServer
from faults.running import running
from faults.tracking import MlflowServer

ROOT = Path(__file__).resolve().parent.parent


def processes_of(folder: Path) -> list[psutil.Process]:
    """Return the living processes whose command lines name a folder."""
    lines = {process: process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])}
    return [process for process, words in lines.items() if any(str(folder) in word for word in words)]


@pytest.mark.parametrize("make", [ChromaServer, MlflowServer])
def test_a_server_that_does_not_come_up_is_ended(
    make: type[ChromaServer | MlflowServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faults.ports.PATIENCE", 0.0)
    alone = make(tmp_path / "alone")
    alone.kill()  # never started
    with pytest.raises(TimeoutError, match="is not served"):
        alone.start()
    assert processes_of(tmp_path), "somebody has to end it"
    alone.kill()
    alone.kill()
    assert processes_of(tmp_path) == []
    with pytest.raises(TimeoutError, match="is not served"), running(make(tmp_path / "guarded")):
        pytest.fail("it cannot be up")
    assert processes_of(tmp_path) == []


def test_a_server_that_is_stopped_says_nothing_goes_on_and_can_be_ended(tmp_path: Path) -> None:
    with running(ChromaServer(tmp_path)) as server:
        page = f"{server.address}/api/v2/heartbeat"
        server.stop()
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(page, timeout=0.3, trust_env=False)
        server.go_on()
        assert httpx.get(page, timeout=20, trust_env=False).is_success
        server.stop()
    assert processes_of(tmp_path) == []


def test_the_folder_to_keep_is_kept_and_another_is_gone_even_after_a_failure(tmp_path: Path) -> None:
    made: list[Path] = []
    for keep in (None, tmp_path):
        with pytest.raises(RuntimeError, match="could not be made"), workplace(keep) as folder:
            (folder / "start.log").write_text("why")
            made.append(folder)
            raise RuntimeError("the toy model could not be made")
    assert not made[0].exists() and made[1] == tmp_path and (tmp_path / "start.log").is_file()


def test_a_stopped_harness_leaves_neither_job_nor_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "faults", "process", "--steps", "100000"]
    harness = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)})
    jobs: list[psutil.Process] = []
    until = time.monotonic() + 60
    while not jobs and harness.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
        children = psutil.Process(harness.pid).children(recursive=True)
        jobs = [child for child in children if child.ppid() != harness.pid]  # the fork server's
    assert jobs and [*tmp_path.glob("jade-faults-*")], "it is at work"
    harness.send_signal(signal.SIGTERM)
    assert harness.wait(60) == 128 + signal.SIGTERM
    assert psutil.wait_procs(jobs, timeout=10)[1] == []
    assert [*tmp_path.glob("jade-faults-*")] == []
