"""How atheris is driven: our packages are instrumented before targets are loaded, and libFuzzer's counts are read.

atheris is no dependency of JADE; it lives in an environment of its own (docs/fuzzing.md).
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzz.target import Target, load_targets

INSTRUMENTED = ("agents", "graphs", "evaluation", "training")
SLOWEST = 30
"""Seconds after which one input counts as a fault."""
_COVERED = re.compile(rb"cov: (\d+) ft: (\d+)")
_EXECUTED = re.compile(rb"stat::number_of_executed_units:\s*(\d+)")
MISSING = (
    "atheris is missing here. It needs an environment of its own beside .venv:\n"
    "  python3.11 -m venv fuzzing && fuzzing/bin/pip install atheris==3.0.0\n"
    '  echo "$PWD/.venv/lib/python3.11/site-packages" > fuzzing/lib/python3.11/site-packages/jade.pth\n'
    "  fuzzing/bin/python -m fuzz all\n"
    "(--replay FILE checks single inputs without it)\n"
)


@dataclass(frozen=True)
class Run:
    """How much, and where what was found is kept."""

    runs: int | None = None
    """Inputs; None = the target's own number."""
    seconds: int | None = None
    corpus: Path | None = None
    crashes: Path = Path("crashes")
    seed: int = 1


def _atheris() -> Any:
    """Return the module, or None where it is not installed."""
    try:
        import atheris
    except ImportError:
        return None
    return atheris


def fuzz(name: str, run: Run) -> int:
    """Fuzz one target in this process, which libFuzzer ends; return only where it cannot begin, with status 2."""
    atheris = _atheris()
    if atheris is None:
        sys.stderr.write(MISSING)
        return 2
    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        targets = load_targets()
    if name not in targets:
        sys.stderr.write(f"there is no target {name!r}; there are {', '.join(targets)}\n")
        return 2
    target = targets[name]
    with _folder(run.corpus, name) as corpus:
        atheris.Setup([sys.argv[0], *_arguments(target, run, corpus)], target.check)
        atheris.Fuzz()
    return 0


@contextmanager
def _folder(corpus: Path | None, name: str) -> Iterator[Path]:
    """Give the folder of one target's corpus; a passing one where none is kept."""
    if corpus is None:
        with tempfile.TemporaryDirectory(prefix="jade-corpus-") as passing:
            yield Path(passing)
        return
    (corpus / name).mkdir(parents=True, exist_ok=True)
    yield corpus / name


def _arguments(target: Target, run: Run, corpus: Path) -> list[str]:
    """Write seeds and dictionary, and return what libFuzzer is told."""
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed[: target.longest])
    run.crashes.mkdir(parents=True, exist_ok=True)
    arguments = [
        f"-runs={target.runs if run.runs is None else run.runs}",
        f"-max_len={target.longest}",
        f"-seed={run.seed}",
        f"-timeout={SLOWEST}",
        f"-artifact_prefix={run.crashes}/{target.name}-",
        "-print_final_stats=1",
    ]
    if run.seconds is not None:
        arguments.append(f"-max_total_time={run.seconds}")
    if target.words:
        file = run.crashes / f"{target.name}.words"
        file.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words), encoding="ascii")
        arguments.append(f"-dict={file}")
    return [*arguments, str(corpus)]


def _escaped(word: str) -> str:
    """Return a word as libFuzzer's dictionaries hold it."""
    return "".join(f"\\x{byte:02x}" for byte in word.encode("utf-8"))


@dataclass(frozen=True)
class Counted:
    """What came of one target."""

    name: str
    inputs: int
    seconds: float
    edges: int
    features: int
    status: int
    """Exit status; 0 = every promise was kept."""

    def row(self) -> str:
        """Return a row of the table."""
        rate = self.inputs / self.seconds if self.seconds else 0.0
        faults = "none" if self.status == 0 else f"exit {self.status}"
        return (
            f"| `{self.name}` | {self.inputs:,} | {self.seconds:,.0f} | {rate:,.0f} | {self.edges:,} | "
            f"{self.features:,} | {faults} |"
        )


def counted(name: str, status: int, seconds: float, log: bytes) -> Counted:
    """Read libFuzzer's output.

    Args:
        name: The target.
        status: Exit status of its process.
        seconds: Wall time, loading included.
        log: What it wrote to standard error.
    """
    covered, executed = _COVERED.findall(log), _EXECUTED.findall(log)
    edges, features = covered[-1] if covered else (0, 0)
    return Counted(name, int(executed[-1]) if executed else 0, seconds, int(edges), int(features), status)


def fuzz_all(run: Run) -> int:
    """Fuzz every target in a process of its own and print a table; return 1 if a promise was broken, else 0."""
    if _atheris() is None:
        sys.stderr.write(MISSING)
        return 2
    print("| target | inputs | seconds | inputs a second | edges | features | faults |")
    print("|---|---|---|---|---|---|---|", flush=True)
    done = []
    for name in load_targets():
        done.append(_child(name, run))
        print(done[-1].row(), flush=True)
    inputs, seconds = sum(one.inputs for one in done), sum(one.seconds for one in done)
    print(f"| all | {inputs:,} | {seconds:,.0f} | {inputs / seconds:,.0f} | | | |")
    return int(any(one.status for one in done))


def _child(name: str, run: Run) -> Counted:
    command = [sys.executable, "-m", "fuzz", name, "--crashes", str(run.crashes), "--seed", str(run.seed)]
    for option, value in (("--runs", run.runs), ("--seconds", run.seconds), ("--corpus", run.corpus)):
        command += [] if value is None else [option, str(value)]
    log = run.crashes / f"{name}.log"
    run.crashes.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with log.open("wb") as stream:
        status = subprocess.run(command, stdout=stream, stderr=stream, check=False).returncode
    return counted(name, status, time.monotonic() - began, log.read_bytes())
