"""Requests made from /openapi.json against a really started `jade serve`, by schemathesis: `python -m fuzz.http`.

schemathesis lives in an environment of its own (docs/fuzzing.md). Rounds with new seeds follow each other until enough
requests were made; the server answers from a toy graph, and must end by SIGTERM with exit code 0 afterwards.
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NOT_CHECKED = {
    "negative_data_rejection": "values are read leniently on purpose: clients send numbers as text",
    "positive_data_acceptance": "whether a plan fits its budgets is no matter of a schema; such a request gets 422",
}
"""Checks of schemathesis that do not apply, and why."""
MISSING = (
    "there is no schemathesis at {}. Make an environment for it, and name its command:\n"
    "  python3.11 -m venv fuzzing-http && fuzzing-http/bin/pip install schemathesis==4.32.5\n"
    "  .venv/bin/python -m fuzz.http --schemathesis fuzzing-http/bin/schemathesis\n"
)


@dataclass
class Totals:
    """What came of all rounds."""

    requests: int = 0
    rounds: int = 0
    seconds: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    """Requests with a 2xx answer by operation, as schemathesis counts them."""

    def add(self, report: dict[str, Any]) -> None:
        """Count one round's JSON report."""
        self.rounds += 1
        self.requests += report["test_cases"]["generated"]
        self.seconds += report["running_time"] or 0.0
        for group in report["failures"]:
            self.failures[f"{group['title']} ({', '.join(group['operations'])})"] += group["count"]
        for group in report["errors"]:
            self.errors[group["title"]] += group["count"]
        for operation, phases in report["valid_rates"].items():
            self.accepted[operation] += sum(rate["accepted"] for rate in phases.values())

    def lines(self) -> Iterator[str]:
        """Yield what a reader wants to know."""
        rate = self.requests / self.seconds if self.seconds else 0.0
        yield f"{self.requests:,} requests in {self.rounds} rounds, {self.seconds:,.0f} s ({rate:,.0f} a second)"
        for kind, found in (("failure", self.failures), ("error", self.errors)):
            yield from (f"{kind}: {what}: {count}" for what, count in found.items())
            yield f"{sum(found.values())} {kind}s"


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    found = argparse.ArgumentParser(prog="python -m fuzz.http", description=__doc__)
    found.add_argument("--requests", type=int, default=50_000, help="how many at least")
    found.add_argument("--schemathesis", default="schemathesis", help="its command")
    found.add_argument("--round", type=int, default=2000, help="most examples of an operation in one round")
    found.add_argument("--seed", type=int, default=1, help="of the first round")
    found.add_argument("--output", type=Path, help="folder that keeps schemathesis' reports and the server's log")
    return found


def executable(name: str) -> str | None:
    """Return a command such that it is found from any folder, or None where there is none.

    Links stay: a Python of a virtual environment knows its environment by the path that it is called by.
    """
    found = shutil.which(name)
    return None if found is None else str(Path(found).absolute())


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Start `jade serve` on a free port and give its address; stop it by SIGTERM.

    Raises:
        RuntimeError: It did not start, or did not end with exit code 0.
    """
    environment = {**os.environ, "JADE_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    command = [sys.executable, "-m", "cli.main", "serve", "--graph", "fuzz.served:make", "--port", "0"]
    log = folder / "server.log"
    with log.open("wb") as stream:
        process = subprocess.Popen([*command, "--queue", "64"], cwd=ROOT, env=environment, stderr=stream)
    try:
        yield _address(process, log)
        process.send_signal(signal.SIGTERM)
        if process.wait(60) != 0:
            raise RuntimeError(f"the server ended with {process.returncode}; see {log}")
    finally:
        process.kill()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    for _ in range(600):
        found = re.search(r"listens on (http://\S+)", log.read_text(encoding="utf-8", errors="replace"))
        if found:
            return found[1]
        if process.poll() is not None:
            break
        time.sleep(0.2)
    raise RuntimeError(f"the server did not start; see {log}")


def one_round(command: str, url: str, examples: int, seed: int, folder: Path) -> dict[str, Any]:
    """Let schemathesis ask, and return its report; what it prints goes to a file beside it.

    Raises:
        RuntimeError: It left no report.
    """
    report = folder / f"round-{seed}.json"
    words = [
        command, "run", f"{url}/openapi.json", "--checks", "all", "--exclude-checks", ",".join(NOT_CHECKED),
        "--phases", "examples,coverage,fuzzing", "--max-examples", str(examples), "--seed", str(seed),
        "--continue-on-failure", "--suppress-health-check", "all", "--request-timeout", "30", "--warnings", "off",
        "--report-json-path", str(report), "--no-color",
    ]  # fmt: skip
    report.unlink(missing_ok=True)
    with (folder / f"round-{seed}.txt").open("wb") as stream:
        subprocess.run(words, cwd=folder, stdout=stream, stderr=stream, check=False)
    if not report.is_file():
        raise RuntimeError(f"schemathesis left no report; see {stream.name}")
    found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask until enough was asked; return 0 if every check held, 1 if not, 2 without schemathesis."""
    given = parser().parse_args(arguments)
    command = executable(given.schemathesis)
    if command is None:
        sys.stderr.write(MISSING.format(given.schemathesis))
        return 2
    with tempfile.TemporaryDirectory(prefix="jade-http-") as passing:
        folder = (given.output or Path(passing)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        totals = Totals()
        with served(folder) as url:
            while totals.requests < given.requests:
                before = totals.requests
                totals.add(one_round(command, url, given.round, given.seed + totals.rounds, folder))
                print(f"round {totals.rounds}: {totals.requests - before:,} requests", flush=True)
                if totals.requests == before:
                    break
        tracebacks = (folder / "server.log").read_text(encoding="utf-8", errors="replace").count("Traceback")
    print("\n".join(totals.lines()))
    print(f"{tracebacks} tracebacks in the server's log")
    return int(bool(totals.failures or totals.errors or tracebacks or totals.requests < given.requests))


if __name__ == "__main__":
    sys.exit(main())
