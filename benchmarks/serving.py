"""A load test of `jade serve` by locust: how many answers, how late, what is refused, lost or answered twice.

Starts a server of its own, lets 1, 4 and 16 clients ask it, and then ten times as many as may run at once; asks once
more to see that it recovers, and stops it by SIGTERM. Then the ledger is compared with what the clients got: every
answer must have exactly one record, and no refusal any. What stands after -- goes to `jade serve`.

    python -m venv bench-locust && bench-locust/bin/pip install locust==2.47.0
    python -m benchmarks.serving --locust bench-locust/bin/locust --seconds 60 -- --threads 2
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np

from evaluation.dataset import load_examples
from graphs.ledger import read_ledger

CLIENTS = Path(__file__).with_name("serving_clients.py")
ANSWERED, REFUSED, NO_RESPONSE = 200, 429, 0
OVERLOAD = 10
"""Clients of the last load, in multiples of what may run at once."""


@dataclass(frozen=True)
class Attempt:
    """One request of one client."""

    id: str
    status: int
    """HTTP status; 0 = no response came."""
    run: str | None
    began: float
    """Seconds since the epoch."""
    seconds: float


@dataclass(frozen=True)
class Row:
    """One load, summed up."""

    clients: int
    attempts: tuple[Attempt, ...]
    records: Mapping[str, Sequence[str]]
    """Attempt id → the runs that the ledger holds for it."""

    def of(self, status: int) -> list[Attempt]:
        """Return the attempts that ended so."""
        return [attempt for attempt in self.attempts if attempt.status == status]

    @property
    def wall(self) -> float:
        """Return the seconds from the first request to the last response."""
        ends = [attempt.began + attempt.seconds for attempt in self.attempts]
        return max(ends) - min(attempt.began for attempt in self.attempts)

    @property
    def lost(self) -> int:
        """Return how many got no response, or an answer whose run is not in the ledger."""
        unrecorded = [item for item in self.of(ANSWERED) if item.run not in self.records.get(item.id, ())]
        return len(self.of(NO_RESPONSE)) + len(unrecorded)

    @property
    def twice(self) -> int:
        """Return how many attempts ran more than once, ran though they were refused, or got another one's run."""
        runs = Counter(item.run for item in self.of(ANSWERED))
        often = sum(len(self.records.get(item.id, ())) > 1 for item in self.attempts)
        ghosts = sum(item.id in self.records for item in self.of(REFUSED))
        return often + ghosts + sum(count - 1 for count in runs.values())

    def line(self) -> str:
        """Return the row of the table."""
        answered, refused = self.of(ANSWERED), self.of(REFUSED)
        others = len(self.attempts) - len(answered) - len(refused) - len(self.of(NO_RESPONSE))
        late = [item.seconds for item in answered] or [float("nan")]
        p50, p95 = np.percentile(late, [50, 95])
        slowest = f"{max(item.seconds for item in refused):.2f}" if refused else "-"
        cells = [self.clients, len(answered), f"{60 * len(answered) / self.wall:.1f}", f"{p50:.2f}", f"{p95:.2f}"]
        cells += [len(refused), slowest, others, self.lost, self.twice]
        return f"| {' | '.join(map(str, cells))} |"


HEAD = (
    "| clients | answered | answers/min | p50 s | p95 s | refused | slowest refusal s | failed | lost | twice |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


def executable(name: str) -> str:
    """Return locust's command such that it is found from any folder.

    Links stay: a Python of a virtual environment knows its environment by the path that it is called by.

    Raises:
        FileNotFoundError: There is none.
    """
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"there is no locust at {name}; the first lines of {__file__} say how to get it")
    return str(Path(found).absolute())


def start(folder: Path, given: argparse.Namespace) -> tuple[subprocess.Popen[bytes], str]:
    """Start a server; return it with its address.

    Raises:
        RuntimeError: It ended before it listened.
    """
    limits = ["--port", "0", "--capacity", str(given.capacity), "--queue", str(given.queue)]
    command = [sys.executable, "-m", "cli.main", "serve", *limits, "--ledger", str(folder / "ledger"), *given.serve]
    log = folder / "server.log"
    with log.open("w") as file:
        process = subprocess.Popen(command, stderr=file, env={**os.environ, "COLUMNS": "400"})
    while process.poll() is None:
        found = re.search(r"listens on (http://\S+)", log.read_text("utf-8"))
        if found:
            return process, found[1]
        time.sleep(0.1)
    raise RuntimeError(f"the server did not start:\n{log.read_text('utf-8')}")


def load(clients: int, url: str, folder: Path, given: argparse.Namespace) -> tuple[Attempt, ...]:
    """Let so many clients ask for a while, and then wait for their last answers."""
    attempts = folder / f"attempts-{clients}.jsonl"
    environment = {
        **os.environ,
        "JADE_QUESTIONS": str(folder / "questions"),
        "JADE_ATTEMPTS": str(attempts),
        "JADE_OPTIONS": given.options,
        "JADE_LOAD": str(clients),
        "NO_PROXY": "127.0.0.1",
    }
    command = [given.locust, "-f", str(CLIENTS), "--headless", "--only-summary", "--host", url, "-u", str(clients)]
    command += ["-r", str(clients), "-t", f"{given.seconds}s", "--stop-timeout", "600", "--loglevel", "WARNING"]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    if not attempts.exists():
        raise RuntimeError(f"locust made no request:\n{done.stdout}\n{done.stderr}")
    return tuple(Attempt(**json.loads(line)) for line in attempts.read_text(encoding="utf-8").splitlines())


def recovery(url: str, question: str, options: str) -> str:
    """Ask once after the storm."""
    began = time.perf_counter()
    body = {**json.loads(options), "question": question, "question_id": "recovery"}
    response = httpx.post(f"{url}/ask", json=body, timeout=600, trust_env=False)
    return f"after the overload: status {response.status_code} in {time.perf_counter() - began:.2f} s"


def recorded(ledger: Path) -> dict[str, list[str]]:
    """Return attempt id → its runs in the ledger."""
    found: dict[str, list[str]] = {}
    for run in read_ledger(ledger):
        found.setdefault(str(run.question_id), []).append(run.run)
    return found


def measure(folder: Path, given: argparse.Namespace) -> None:
    """Run all loads and print the table."""
    questions = [e.question for e in load_examples(given.dataset, "dev", sample=200)]
    (folder / "questions").write_text("\n".join(" ".join(question.split()) for question in questions), "utf-8")
    process, url = start(folder, given)
    try:
        loads = [*given.clients, OVERLOAD * given.capacity]
        attempts = {clients: load(clients, url, folder, given) for clients in loads}
        recovered = recovery(url, questions[0], given.options)
        process.send_signal(signal.SIGTERM)
        ended = process.wait(600)
    finally:
        process.kill()
    records = recorded(folder / "ledger")
    print(f"capacity {given.capacity}, queue {given.queue}, {given.seconds} s a load, options {given.options}\n")
    print(HEAD)
    for clients, made in attempts.items():
        print(Row(clients, made, records).line())
    answered = sum(len(Row(clients, made, records).of(ANSWERED)) for clients, made in attempts.items())
    print(f"\n{recovered}; SIGTERM: exit code {ended}")
    print(
        f"{answered} answers to the clients, {sum(map(len, records.values())) - 1} runs in the ledger beside that one"
    )


def main() -> None:
    """Parse the options, then measure in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--locust", default="locust", help="locust's executable, in an environment of its own")
    parser.add_argument("--seconds", type=int, default=60, help="how long each load asks")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--capacity", type=int, default=4, help="most questions that run at once")
    parser.add_argument("--queue", type=int, default=16, help="most questions that wait")
    parser.add_argument("--dataset", default="hotpotqa", help="whose dev questions are asked")
    parser.add_argument(
        "--options", default="{}", help='options of every question as JSON, such as {"workflow":"R,AG"}'
    )
    parser.add_argument("serve", nargs="*", help="options of `jade serve`, after --")
    given = parser.parse_args()
    try:
        given.locust = executable(given.locust)
    except FileNotFoundError as error:
        parser.error(str(error))
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), given)


if __name__ == "__main__":
    main()
