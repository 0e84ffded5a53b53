"""Run one step of a benchmark in a process of its own, so that its peak memory is its own."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MB = 1e6
_INSIDE = """
import atexit, re, runpy, sys

def tell(file):
    with open("/proc/self/status") as status, open(file, "w") as stream:
        stream.write(re.search("VmHWM:\\s*(\\d+) kB", status.read())[1])

atexit.register(tell, sys.argv.pop(1))
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
"""Runs a module and says at its end what its memory was at most. What `wait4` says of that begins at the parent's."""


@dataclass(frozen=True)
class Step:
    """What a process did."""

    found: Any
    """What it printed on its last line, as JSON; None for a command that prints something else."""
    seconds: float
    """From its start to its end, imports included."""
    cpu: float
    """Seconds of all its threads: what counts where the machine is shared."""
    peak: float
    """Peak resident memory in MB."""


def alone(module: str, *arguments: object, environment: dict[str, str] | None = None) -> Step:
    """Run `python -m module arguments…` and wait for it.

    Args:
        module: Such as "benchmarks.scale_index".
        *arguments: Words of its command line.
        environment: Variables that are added to this process's own.

    Raises:
        SystemExit: It failed; with the end of what it said.
    """
    began = time.perf_counter()
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as wrong, tempfile.NamedTemporaryFile() as peak:
        words = [sys.executable, "-c", _INSIDE, peak.name, module, *map(str, arguments)]
        process = subprocess.Popen(words, stdout=said, stderr=wrong, env={**os.environ, **(environment or {})})
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        if process.returncode:
            wrong.seek(0)
            raise SystemExit(f"{' '.join(words[4:])} ended with {process.returncode}:\n{wrong.read()[-3000:].decode()}")
        said.seek(0)
        lines = said.read().decode().strip().splitlines()
        kilobytes = int(peak.read())
    return Step(_json(lines[-1]) if lines else None, seconds, used.ru_utime + used.ru_stime, kilobytes * 1024 / MB)


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def megabytes(folder: Path) -> float:
    """Return what the files below a folder take on disk, in MB."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file()) / MB


@contextmanager
def kept(folder: Path | None) -> Iterator[Path]:
    """Yield the folder in which what is measured is kept; without one a scratch folder, removed at the end."""
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="jade-scale-", ignore_cleanup_errors=True) as scratch:
        yield Path(scratch)


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help is a module's docstring."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
