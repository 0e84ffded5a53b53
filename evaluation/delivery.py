"""A tracked run that outlives outages of its store: what cannot be sent waits on disk and is sent later, in order.

A store that refuses an operation (a bad name, a deleted run) is not an outage: the operation is dropped with a
warning, since a metric must not stop hours of training; only the opening of a run is refused with an error, before
anything has been spent. Knows nothing of MLflow: `evaluation.tracking` brings the store.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from agents.errors import ConfigError
from evaluation.glossary import check_metrics
from evaluation.spool import Operation, Spool
from evaluation.traces import Decode, RunCredit, trace_of
from graphs.trajectory import Trajectory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RETRY_SECONDS = 30.0
"""After a failed delivery the store is left alone for so long; twice as long after each further one."""
LONGEST_PAUSE = 600.0
"""The pause grows no further than this (seconds)."""


class RefusedError(Exception):
    """The store answered, and will never take this operation."""


class Store(Protocol):
    """Where operations go. Anything raised but `RefusedError` counts as an outage."""

    uri: str
    patient: bool
    """Whether a slow answer is worth waiting for: at the start and the end of a run, when the wait delays nothing."""

    def open(self, operation: Operation) -> str:
        """Create or resume a run and return its id; with "again", the run that an earlier try may have made."""

    def apply(self, run_id: str, operation: Operation, files: Path | None) -> None:
        """Carry out one operation of an open run; doing it twice changes nothing."""


class TrackedRun:
    """One run in the tracking store, which may be away.

    Where nobody answers at its address, a method returns at once. A store that takes requests and says nothing holds
    up one method for as long as the store's patience lasts (MLflow: 5 s), and then again only after a pause of
    30 s, 60 s, … up to ten minutes; opening and closing wait longer.
    """

    def __init__(self, store: Store, spool: Spool, retry_seconds: float = RETRY_SECONDS) -> None:
        """Wrap a store; nothing is sent yet."""
        self._store = store
        self._spool = spool
        self._retry_seconds = self._pause = retry_seconds
        self._failed_at: float | None = None
        self._opened: str | None = spool.header.get("run_id")

    @property
    def run_id(self) -> str | None:
        """Return the run's id in the store; None while the store has not yet answered at all."""
        return self._opened

    @property
    def waiting(self) -> int:
        """Return how many operations wait for the store."""
        return self._spool.pending

    def open(self, experiment: str, name: str | None, tags: Mapping[str, Any], resume: str | None = None) -> None:
        """Create the run, or resume one by id.

        Raises:
            ConfigError: The store refuses: no such run, a deleted experiment, an impossible address.
        """
        operation = {
            "op": "open",
            "experiment": experiment,
            "name": name,
            "tags": {key: str(value) for key, value in tags.items()},
            "run_id": resume,
            "time": _now(),
            "key": uuid.uuid4().hex,
        }
        try:
            self._opened = self._store.open(operation)
        except RefusedError as error:
            raise ConfigError(f"tracking store {self._store.uri}: {error}") from None
        except Exception as error:
            self._opened = resume
            self._outage(error)
            self._keep({**operation, "again": True}, None)
        self._store.patient = False

    def log_params(self, config: Mapping[str, Any]) -> None:
        """Log a configuration, nested mappings flattened to dotted names. On resuming, first values stay."""
        self._send({"op": "params", "values": flatten(config)})

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags of the run."""
        self._send({"op": "tags", "values": {key: str(value) for key, value in tags.items()}})

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers at a step (an iteration, or an update).

        Raises:
            ConfigError: A name that is not in `evaluation.glossary.METRICS`.
        """
        check_metrics(values)
        numbers = {name: _number(value) for name, value in values.items()}
        self._send({"op": "metrics", "values": numbers, "step": step, "time": _now()})

    def log_artifact_folder(self, folder: Path, path: str = "") -> None:
        """Upload everything in a folder, as the artifact folder `path`.

        Raises:
            ConfigError: No such folder, or an impossible artifact path.
        """
        if not folder.is_dir():
            raise ConfigError(f"artifact folder {folder} does not exist")
        self._send({"op": "files", "path": _inside(path) if path else ""}, folder)

    def log_text(self, text: str, name: str) -> None:
        """Store a text as the artifact `name`, such as "report.md"."""
        self._log_file(name, lambda path: path.write_text(text, encoding="utf-8"))

    def log_figure(self, figure: Figure, name: str) -> None:
        """Store a matplotlib figure as the artifact `name`, such as "plots/learning.png"."""
        self._log_file(name, lambda path: figure.savefig(path, bbox_inches="tight"))

    def log_table(self, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        """Store rows as the table artifact `name`, which must end in .json to show in the UI."""
        keys = list(dict.fromkeys(key for row in rows for key in row))
        columns = {key: [_cell(row.get(key)) for row in rows] for key in keys}
        self._send({"op": "table", "name": _inside(name), "columns": columns})

    def export_traces(
        self,
        trajectories: Sequence[Trajectory],
        credit: Mapping[str, RunCredit] | None = None,
        decode: Decode | None = None,
    ) -> None:
        """Show recorded executions in the trace view: one span per call, with its credit.

        Args:
            trajectories: Runs to show; about 20 an iteration are plenty.
            credit: Run id → reward and credit.
            decode: Token ids → text; shows prompts as well.
        """
        found = credit or {}
        traces = [trace_of(trajectory, found.get(trajectory.run), decode) for trajectory in trajectories]
        if traces:
            self._send({"op": "traces", "traces": traces})

    def flush(self) -> bool:
        """Try to deliver everything that waits, now; return whether nothing waits any more."""
        try:
            while (oldest := self._spool.first()) is not None:
                try:
                    self._deliver(oldest.operation, oldest.files)
                except RefusedError as error:
                    what = oldest.operation["op"]
                    warnings.warn(f"tracking: dropped {what}: {error}", RuntimeWarning, stacklevel=2)
                self._spool.drop(oldest)
        except Exception as error:
            self._outage(error)
            return False
        self._failed_at, self._pause = None, self._retry_seconds
        return True

    def close(self, status: str) -> None:
        """End the run as "FINISHED", "FAILED" or "KILLED"; what still waits is left to the next tracked run."""
        self._failed_at = None if self._failed_at is None else -math.inf  # one last try, however recent
        self._store.patient = True
        try:
            self._send({"op": "end", "status": status, "time": _now()})
            if self.waiting:
                warnings.warn(
                    f"tracking: {self.waiting} operation(s) wait in {self._spool.folder}; the next tracked run that "
                    "reaches the store delivers them",
                    RuntimeWarning,
                    stacklevel=3,
                )
        finally:
            self._spool.release()

    def _log_file(self, name: str, write: Callable[[Path], object]) -> None:
        target = PurePosixPath(_inside(name))
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder) / target.name)
            parent = "" if str(target.parent) == "." else str(target.parent)
            self._send({"op": "files", "path": parent}, Path(folder))

    def _send(self, operation: Operation, files: Path | None = None) -> None:
        if not self._ready():
            self._keep(operation, files)
            return
        try:
            self._deliver(operation, files)
        except RefusedError as error:
            warnings.warn(f"tracking: dropped {operation['op']}: {error}", RuntimeWarning, stacklevel=3)
        except Exception as error:
            self._outage(error)
            self._keep(operation, files)

    def _ready(self) -> bool:
        """Return whether an operation may go straight to the store: nothing waits before it."""
        if self._failed_at is not None and time.monotonic() - self._failed_at < self._pause:
            return False
        return self.flush()

    def _deliver(self, operation: Operation, files: Path | None) -> None:
        if operation["op"] == "open":
            self._opened = self._store.open(operation)
            self._spool.describe(uri=self._store.uri, run_id=self._opened)
            return
        if self._opened is None:
            raise RefusedError("its run was never opened")
        self._store.apply(self._opened, operation, files)

    def _keep(self, operation: Operation, files: Path | None) -> None:
        try:
            if not self._spool.pending:
                self._spool.hold()
                self._spool.describe(uri=self._store.uri, run_id=self._opened)
            self._spool.add(operation, files)
        except OSError as error:
            warnings.warn(
                f"tracking: lost {operation['op']}: {self._spool.folder} cannot be written ({error})",
                RuntimeWarning,
                stacklevel=4,
            )

    def _outage(self, error: Exception) -> None:
        if self._failed_at is None:
            warnings.warn(
                f"tracking store {self._store.uri} does not answer ({_short(error)}); going on, and keeping "
                f"everything in {self._spool.folder} until it does",
                RuntimeWarning,
                stacklevel=4,
            )
        else:
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        self._failed_at = time.monotonic()


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings as dotted names with text values, such as {"ppo.clip": "0.2"}."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = value if isinstance(value, str) else json.dumps(value, default=str)
    return flat


def _inside(path: str) -> str:
    parts = PurePosixPath(path)
    if not path or parts.is_absolute() or ".." in parts.parts:
        raise ConfigError(f"artifact path {path!r}: give a relative path without '..', such as 'plots/f1.png'")
    return str(parts)


def _number(value: float) -> float | str:
    """Return a number that JSON can hold; MLflow takes "nan" and "inf" as texts' float values."""
    number = float(value)
    return number if math.isfinite(number) else str(number)


def _cell(value: Any) -> Any:
    """Return a table's value as JSON can hold it."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _now() -> int:
    return int(time.time() * 1000)
