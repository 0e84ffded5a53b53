"""The MLflow tracking server: killed, stalled or away while a job is tracked; what waited is delivered later."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from faults.books import books, same_weights
from faults.lives import PATIENCE, Pace, die_often, lived, start, waited, whole
from faults.ports import answers, free_port
from faults.rows import Plan, Row
from faults.running import running
from faults.toy import EXPERIMENT, TRACES, Job, examples_of, home_of, own, train
from training.history import read_metrics

DEATHS = 4
"""How often the job itself is killed while the server is away."""


class MlflowServer:
    """A real tracking server over a SQLite store."""

    def __init__(self, folder: Path) -> None:
        """Choose its port; it keeps everything in a folder."""
        self._folder, self.port = folder, free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it (again) and wait until it is healthy."""
        self._folder.mkdir(parents=True, exist_ok=True)
        command = [
            str(Path(sys.executable).with_name("mlflow")), "server", "--backend-store-uri",
            f"sqlite:///{self._folder}/tracking.db", "--artifacts-destination", str(self._folder / "artifacts"),
            "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
        ]  # fmt: skip
        with (self._folder / "server.log").open("ab") as log:
            quick = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # else it starts seven processes more
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=quick)
        answers(f"{self.address}/health")

    def kill(self) -> None:
        """Do kill -9 to it and its workers; nothing happens where it is dead."""
        if self._process is not None:
            with suppress(ProcessLookupError):  # they all ended by themselves
                self._signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def stall(self, seconds: float) -> None:
        """Stop it and its workers for a while."""
        self._signal(signal.SIGSTOP)
        time.sleep(seconds)
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)


@dataclass(frozen=True)
class Delivered:
    """What the server holds of a job in the end."""

    waited: int
    """Operations that waited on disk when the job had ended."""
    still: int
    """Operations that wait after the delivery."""
    numbers: int
    """(metric, step) pairs that the job measured."""
    missing: int
    """Of them, those that the server does not have, or with another value."""
    runs: int
    """Runs of the job's name: lives that died before their first checkpoint leave one each."""
    unfinished: int
    """1 = none of them ended as a run does that came to its end, with its options; else 0."""
    traces: int
    """Recorded runs that the server shows as traces."""
    untraced: int
    """Traces that should be there beside them."""

    @property
    def lost(self) -> int:
        """Return how much of what was tracked is not there, whatever it is."""
        return self.still + self.missing + self.unfinished + self.untraced

    def __str__(self) -> str:
        """Say what waited and what is there."""
        return (
            f"{self.waited} operations waited on disk, {self.still} wait after delivery; "
            f"{self.numbers - self.missing} of {self.numbers} numbers and {self.traces} of "
            f"{self.traces + self.untraced} traces are on the server, in {self.runs} run(s), "
            f"{'none' if self.unfinished else 'one'} of them finished"
        )


def deliver_to(job: Job, report: str) -> None:
    """Be the next tracked process: deliver what waits, and compare what the server has with what was measured."""
    own(job)
    from agents.adapters import tracking_client
    from evaluation.tracking import deliver

    assert job.store is not None
    spools = home_of(job) / "tracking"
    before = _waiting(spools)
    deliver(job.store, spools)
    client = tracking_client(job.store)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    found = compared(client, experiment.experiment_id, job, before, _waiting(spools))
    Path(report).write_text(json.dumps(asdict(found)), encoding="utf-8")


def compared(client: Any, experiment: str, job: Job, waited: int, still: int) -> Delivered:
    """Compare what a server holds of a job with what the job measured and recorded."""
    runs = client.search_runs([experiment], f"attributes.run_name = '{job.folder.name}'")
    measured = {(name, step): value for step, row in read_metrics(job.folder) for name, value in row.items()}
    held: dict[tuple[str, int], set[float]] = {}
    traced: set[str] = set()
    for run in runs:
        for name in run.data.metrics:
            for point in client.get_metric_history(run.info.run_id, name):
                held.setdefault((name, point.step), set()).add(point.value)
        traces = client.search_traces(
            locations=[experiment], run_id=run.info.run_id, include_spans=False, max_results=500
        )
        traced |= {str(trace.info.client_request_id) for trace in traces}
    missing = [key for key, value in measured.items() if value not in held.get(key, ())]
    ended = any(run.info.status == "FINISHED" and run.data.params.get("output") == job.output for run in runs)
    wanted = job.iterations * min(TRACES, job.batch)
    untraced = max(0, wanted - len(traced))
    return Delivered(waited, still, len(measured), len(missing), len(runs), int(not ended), len(traced), untraced)


def _waiting(spools: Path) -> int:
    return len(list(spools.glob("*/[0-9]*.json")))


def run(plan: Plan) -> Iterator[Row]:
    """Let the server fail in three ways, each during a tracked job of its own."""
    calm = Job(str(plan.folder / "untracked"), plan.start, plan.questions, plan.batch)
    longest, draw = whole(calm).seconds / 4, random.Random(plan.seed)
    server = MlflowServer(plan.folder / "mlflow")

    def killed(job: Job) -> int:
        process = start(train, job)
        times = _reaches(job, process, job.iterations // 3)
        server.kill()
        ends(process, job)
        server.start()
        return times

    def stalled(job: Job) -> int:
        process = start(train, job)
        times = _reaches(job, process, job.iterations // 3)
        server.stall(draw.uniform(2.0, 4.0))
        ends(process, job)
        return times

    def away(job: Job) -> int:
        server.kill()
        times = die_often(job, DEATHS, Pace(job, DEATHS, 4 * longest, plan.seed))  # opening the store takes seconds
        server.start()
        return 1 + times

    scenes: dict[str, tuple[str, Callable[[Job], int]]] = {
        "tracked-killed": ("kill -9 after a third of the job, up again after it", killed),
        "tracked-stalled": ("stopped for 2 to 4 s after a third of the job", stalled),
        "tracked-away": (f"away during the whole job, which is killed {DEATHS} times as well; up again after it", away),
    }
    with running(server):
        for name, (done, fault) in scenes.items():
            job = replace(calm, output=str(plan.folder / name), store=server.address)
            yield tracked(calm, job, "the MLflow server", done, fault)


def tracked(calm: Job, job: Job, part: str, done: str, fault: Callable[[Job], int]) -> Row:
    """Do a fault to a tracked job, deliver what waits then, and count.

    Args:
        calm: An untracked job of the same options that nothing happened to.
        job: The tracked one, not begun.
        part: What is disturbed.
        done: What is done to it.
        fault: Lives the job while it does that, and returns how often.

    Raises:
        RuntimeError: The job ended by itself, or what waited cannot be delivered.
    """
    began = time.monotonic()
    times = fault(job)
    report = Path(f"{job.output}.delivered.json")
    if lived(deliver_to, job, str(report)).status != 0:
        raise RuntimeError(f"what waited could not be delivered; see {job.output}.log")
    sent = Delivered(**json.loads(report.read_text(encoding="utf-8")))
    seconds = time.monotonic() - began
    found = books(job.folder / "ledger", examples_of(job.questions))
    same = same_weights(calm.folder, job.folder)
    return Row(part, done, times, found, same, seconds, lost=sent.lost, note=str(sent))


def _reaches(job: Job, process: ForkServerProcess, iteration: int) -> int:
    """Wait until a job has finished an iteration; return 1 if a fault meets it now, 0 where it has ended already."""
    until = time.monotonic() + PATIENCE
    while process.exitcode is None and time.monotonic() < until:
        if len(read_metrics(job.folder)) >= iteration:
            break
        time.sleep(0.05)
    return int(process.exitcode is None)


def ends(process: ForkServerProcess, job: Job) -> None:
    """Wait until a job has ended well.

    Raises:
        RuntimeError: It has not.
    """
    status = waited(process)
    if status != 0:
        raise RuntimeError(f"the job ended with {status}; see {job.output}.log")
