"""What a line of the ledger is, how one is encoded, and how the lines of files and folders are streamed.

A line is `{"event": …, "run": …, "at": …, …}` in this key order, so that searching reads headers only.
Whatever bytes a file holds, reading it raises nothing but `LedgerError`, for a file that never was a ledger.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from agents.errors import LedgerError

Event = Literal["open", "pause", "close", "feedback", "seal"]
OnProblem = Callable[["Problem"], None]
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What reading the fields of a corrupt line may raise."""
_log = logging.getLogger("jade.ledger")
_START = b'{"event":"'
_HEADER = re.compile(rb'\{"event":"([a-z]+)","run":"([^"\\]*)","at":"([^"\\]*)"')


@dataclass(frozen=True)
class Problem:
    """A line that could not be read; the rest of the ledger is unaffected."""

    file: Path
    line: int
    """Counted from 1; 0 means the file as a whole."""
    why: str

    def __str__(self) -> str:
        """Return "file:line: why"."""
        return f"{self.file}:{self.line}: {self.why}" if self.line else f"{self.file}: {self.why}"


def log_problem(problem: Problem) -> None:
    """Report a problem in the log, where the caller has no better place for it."""
    _log.warning("%s", problem)


def encode_line(event: Event, run: str, data: Mapping[str, Any]) -> bytes:
    """Return one line, newline included; `data` follows the header and cannot replace it.

    Raises:
        TypeError: Something in `data` is not JSON.
        ValueError: A run id that a header cannot hold, or data that refers to itself.
    """
    if not re.fullmatch(r"[\w.:@+/-]*", run, re.ASCII):
        raise ValueError(f"run id {run!r}: allowed are ASCII letters, digits and _ . : @ + / -")
    at = datetime.now(UTC).isoformat(timespec="microseconds")
    record = {"event": event, "run": run, "at": at}
    record |= {key: value for key, value in data.items() if key not in record}
    return json.dumps(record, separators=(",", ":"), default=_plain).encode() + b"\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON: keep state and options plain")


class Line(NamedTuple):
    """One line with a readable header; its data are read by `read_data`."""

    file: Path
    number: int
    offset: int
    event: str
    run: str
    at: str
    """ISO 8601, UTC: when the line was written."""
    raw: bytes
    """The whole line, or empty: then it is read again from `offset` of the file."""


def read_lines(path: Path, on_problem: OnProblem) -> Iterator[Line]:
    """Stream the lines of a ledger; only their headers are read, so that searching is cheap.

    Raises:
        LedgerError: Nothing at `path`, or nothing there is a ledger file.
    """
    files = _files(path)
    native = [file for file in files if _is_ledger(file)]
    for file in files:
        if file not in native:
            why = "not a ledger file (no line starts with an event); move it out of the ledger's folder"
            on_problem(Problem(file, 0, why))
    if files and not native:
        raise LedgerError(
            f"{path} is not a ledger: no line of {files[0].name} starts with {_START.decode()}…; "
            "give a file or folder that JADE recorded, such as the one that `jade doctor` names"
        )
    for file in native:
        yield from _lines_of(file, on_problem)


def latest_line(path: Path, wanted: Callable[[Line], bool], *, quiet: bool = False) -> Line | None:
    """Return the line that was written last among those wanted, without its bytes; None when there is none.

    Args:
        path: A ledger file or folder.
        wanted: Whether a line counts.
        quiet: Say nothing of lines that cannot be read; else they are logged.

    Raises:
        LedgerError: No ledger at `path`.
    """
    last: Line | None = None
    for line in read_lines(path, (lambda problem: None) if quiet else log_problem):
        if (last is None or line.at >= last.at) and wanted(line):
            last = line._replace(raw=b"")
    return last


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        return sorted(path.glob("*.jsonl"))
    raise LedgerError(f"there is no ledger at {path}; ask a question first, or give the folder of one")


def _is_ledger(file: Path) -> bool:
    """Return whether the file looks like ours; an empty one and a torn first line do."""
    try:
        with file.open("rb") as stream:
            head = stream.read(1 << 16)
    except OSError as error:
        raise LedgerError(f"ledger file {file} cannot be read: {error}; change its permissions") from error
    return _START in head or _START.startswith(head)


def _lines_of(file: Path, on_problem: OnProblem) -> Iterator[Line]:
    offset = 0
    with file.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            start, offset = offset, offset + len(raw)
            if not raw.strip():
                continue
            header = _HEADER.match(raw)
            torn = not raw.endswith(b"\n") and not _is_json(raw)
            if torn or header is None:
                why = "torn line: the writer was cut off here" if torn else "corrupt line: no event header"
                on_problem(Problem(file, number, f"{why}; skipped"))
                continue
            event, run, at = (part.decode(errors="replace") for part in header.groups())
            yield Line(file, number, start, event, run, at, raw)


def _is_json(raw: bytes) -> bool:
    try:
        json.loads(raw)
    except (ValueError, RecursionError):
        return False
    return True


def read_data(line: Line) -> dict[str, Any]:
    """Return the object of a line.

    Raises:
        ValueError: It is not a JSON object; RecursionError where it is nested absurdly deep.
    """
    raw = line.raw
    if not raw:
        with line.file.open("rb") as stream:
            stream.seek(line.offset)
            raw = stream.readline()
    data = json.loads(raw)
    if not isinstance(data, dict):
        raise ValueError("not an object")
    return data
