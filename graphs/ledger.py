"""The ledger of recorded executions: append-only JSON Lines, whole line by whole line, read as a stream.

Events: "open" when a run starts, "pause" when it stops at a breakpoint (its calls so far), "close" when it
ends (its trajectory), "feedback" (a score given later), "seal" (a finished segment). Open without close reads
as crashed (DESIGN §6). Gold answers and rewards never stand here.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from agents.errors import LedgerError
from agents.home import jade_home
from graphs.ledger_lines import (
    UNREADABLE,
    Event,
    Line,
    OnProblem,
    Problem,
    encode_line,
    log_problem,
    read_data,
    read_lines,
)
from graphs.trajectory import Outcome, Trajectory

_log = logging.getLogger("jade.ledger")


class LedgerWriter:
    """Append lines to one file of a folder; thread-safe; never raises while a run is being recorded.

    A line is one `write` on an append-only descriptor. What cannot be written (full or read-only disk) is
    returned as a warning and logged once; the next line tries again, on a new line where a torn one was left.
    """

    def __init__(self, folder: Path, segment: str | None = None) -> None:
        """Name the folder; nothing is created before the first line.

        Args:
            folder: The ledger's folder.
            segment: File name without ".jsonl" to append to; None = a new file of this process.
        """
        self.folder = Path(folder)
        self._segment = segment
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._process = 0
        self._torn = False
        self._failed: str | None = None
        self._logged = False
        self.file: Path | None = None
        """The file in use; None before the first line."""

    def open(self, run: str, data: Mapping[str, Any]) -> str | None:
        """Record that a run starts; `data` holds question, options, hashes and the like.

        Returns:
            A warning for the user when the line could not be written, else None; so do all writing methods.
        """
        return self._write("open", run, data)

    def pause(self, run: str, data: Mapping[str, Any]) -> str | None:
        """Record an interrupted run; `data["calls"]` are the `Call.to_json` objects so far."""
        return self._write("pause", run, data)

    def close(self, trajectory: Trajectory) -> str | None:
        """Record how a run ended."""
        return self._write("close", trajectory.run, trajectory.to_json())

    def feedback(self, run: str, score: float, note: str = "") -> str | None:
        """Record a score given to a finished run."""
        return self._write("feedback", run, {"score": score, "note": note})

    def seal(self) -> None:
        """End the file with a "seal" line and force it to disk: the first commit of a training iteration.

        Raises:
            LedgerError: This or any earlier line of the file could not be written.
        """
        warning = self._write("seal", "", {})
        with self._lock:
            if self._failed or warning:
                raise LedgerError(f"the segment cannot be sealed: {self._failed or warning}; then run it again")
            try:
                assert self._descriptor is not None
                os.fsync(self._descriptor)
                _sync_folder(self.folder)
            except OSError as error:
                raise LedgerError(f"the segment {self.file} cannot be forced to disk: {error}") from error
            self._release()

    def _write(self, event: Event, run: str, data: Mapping[str, Any]) -> str | None:
        with self._lock:
            try:
                self._append(encode_line(event, run, data))
            except (OSError, TypeError, ValueError, RecursionError) as error:
                place = self.file or self.folder
                remedy = "; make room, or choose another folder" if isinstance(error, OSError) else ""
                self._failed = f"the run was not recorded in {place}: {error}{remedy}"
                if not self._logged:
                    _log.warning("%s", self._failed)
                self._logged = True
                return self._failed
            self._logged = False
            return None

    def _append(self, line: bytes) -> None:
        """Write one line with one system call.

        Raises:
            OSError: Nothing or only a part of it could be written.
        """
        descriptor = self._ready()
        if self._torn:
            line = b"\n" + line
        written = os.write(descriptor, line)
        if written:
            self._torn = written < len(line)
        if written < len(line):
            raise OSError(f"only {written} of {len(line)} bytes fit; is the disk full?")

    def _ready(self) -> int:
        """Return a descriptor of this process's own file that still stands in the folder."""
        if self._descriptor is not None and self._process == os.getpid():
            if os.fstat(self._descriptor).st_nlink:
                return self._descriptor
            self._release()  # somebody removed the file: start again rather than write to nowhere
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"{self._segment or _file_stem()}.jsonl"
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(file, flags, 0o600)
        self._process, self.file = os.getpid(), file
        size = os.fstat(self._descriptor).st_size
        self._torn = size > 0 and os.pread(self._descriptor, 1, size - 1) != b"\n"
        return self._descriptor

    def _release(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None and self._process == os.getpid():
            os.close(descriptor)

    def __del__(self) -> None:
        try:  # noqa: SIM105 - at interpreter exit even `suppress` may be gone
            self._release()
        except Exception:
            pass


def ledger_folder() -> Path:
    """Return the folder that runs are recorded in unless told otherwise: ledger/ in JADE's home."""
    return jade_home() / "ledger"


def _file_stem() -> str:
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{os.getpid()}-{secrets.token_hex(4)}"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_ledger(path: Path, *, on_problem: OnProblem = log_problem) -> Iterator[Trajectory]:
    """Stream the trajectories of a ledger file, or of all files of a folder in the order of their names.

    Memory stays flat: only the places of runs still open are kept. Runs without a close line come last, with
    outcome "crashed" and the calls of their last pause. A line that cannot be read is reported and skipped.

    Raises:
        LedgerError: Nothing at `path`, or nothing there is a ledger file.
    """
    pending: dict[str, list[Line]] = {}
    closed_first: set[str] = set()
    for line in read_lines(Path(path), on_problem):
        if line.event == "close":
            if pending.pop(line.run, None) is None:
                closed_first.add(line.run)
            trajectory = _trajectory([line], on_problem)
            if trajectory is not None:
                yield trajectory
        elif line.event in ("open", "pause") and line.run not in closed_first:
            _keep(pending.setdefault(line.run, []), line)
    for lines in pending.values():
        trajectory = _trajectory(lines, on_problem)
        if trajectory is not None:
            yield trajectory


def _keep(lines: list[Line], line: Line) -> None:
    """Keep the first line and the latest pause of an open run, without their bytes."""
    if not lines or line.event == "pause":
        lines[1:] = [line._replace(raw=b"")]


def _trajectory(lines: list[Line], on_problem: OnProblem) -> Trajectory | None:
    """Read a close line, or the lines of a run without one as a crashed run. None = reported and skipped."""
    last = lines[-1]
    try:
        if last.event == "close":
            data = read_data(last)
        else:
            paused = last.event == "pause"
            why = "stopped at a breakpoint, not resumed" if paused else "no close line: it died or still runs"
            data = {"question": "", "answer": "", "calls": [], "started": lines[0].at}
            for line in lines:
                data |= read_data(line)
            data |= {"outcome": "crashed", "error": why}
        if data["outcome"] not in get_args(Outcome):
            raise ValueError(f"outcome {data['outcome']!r} is none of {', '.join(get_args(Outcome))}")
        if data.get("run") != last.run:
            raise ValueError(f"run {data.get('run')!r:.60} below the header of another")
        return Trajectory.from_json(data)
    except UNREADABLE as error:
        on_problem(Problem(last.file, last.number, f"corrupt {last.event} line: {error!r:.200}; skipped"))
        return None


def find_run(path: Path, run: str | None, *, on_problem: OnProblem = log_problem) -> Trajectory:
    """Return the run whose id is `run` or, if only one does, starts with it; None = the latest run.

    Raises:
        LedgerError: No such run, several, or no ledger at `path`.
    """
    found: dict[str, list[Line]] = {}
    for line in read_lines(Path(path), on_problem):
        if line.event not in ("open", "pause", "close") or not line.run.startswith(run or ""):
            continue
        lines = found.setdefault(line.run, [])
        if line.event == "close":
            lines[:] = [line._replace(raw=b"")]
        elif not lines or lines[-1].event != "close":
            _keep(lines, line)
        if run is None and len(found) > 1:
            latest = max(reversed(found), key=lambda key: found[key][-1].at)
            found = {latest: found[latest]}
    if not found:
        given = f"no run starts with {run!r}" if run else "no run is recorded"
        raise LedgerError(f"{given} in {path}; `jade runs` lists the recorded ones")
    if run not in found and len(found) > 1:
        some = ", ".join(list(found)[:5])
        raise LedgerError(f"{len(found)} runs start with {run!r}: {some} …; give more of the id")
    problems: list[Problem] = []
    trajectory = _trajectory(found[run] if run in found else next(iter(found.values())), problems.append)
    if trajectory is None:
        raise LedgerError(f"{problems[0]}: the run cannot be read; every other line still can")
    return trajectory


def is_sealed(file: Path) -> bool:
    """Return whether the last line of a segment is its seal, that is, whether it may be replayed."""
    last = ""
    if file.is_file():
        for line in read_lines(file, lambda problem: None):
            last = line.event
    return last == "seal"
