"""What every experiment is made of: arms that run in processes of their own, and are never run twice.

An arm is a name, a seed and options; what it yields is one line of the experiment's results.jsonl. Started again, an
experiment runs the arms that have no line yet: after Ctrl-C, a crash, or with more seeds.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from hashlib import blake2b
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from agents.errors import JadeError

_log = logging.getLogger("jade.experiments")
Row = dict[str, Any]
"""One line of results.jsonl: "key", "arm", "seed", "options", and what the job returned."""


@dataclass(frozen=True)
class Arm:
    """One training run (or anything else that takes a while) of an experiment."""

    name: str
    """What it is called in tables; arms of one name differ in their seeds alone."""
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict)
    """What the job is told; JSON values."""


Job = Callable[[Arm], Mapping[str, Any]]
"""Runs an arm and returns JSON values; must be importable by name in another process."""


def seeded(named: Mapping[str, Mapping[str, Any]], seeds: int) -> list[Arm]:
    """Return every named arm with every seed; the first seed of all comes first, so that a half-done table has all."""
    return [Arm(name, seed, options) for seed in range(seeds) for name, options in named.items()]


class Results:
    """The lines of an experiment's results so far."""

    def __init__(self, file: Path, setting: Mapping[str, Any] | None = None) -> None:
        """Name the file; nothing is created yet.

        Args:
            file: JSON lines; made with its folder at the first result.
            setting: What all arms share and no arm's options say; lines of another setting do not count.
        """
        self.file, self.setting = file, dict(setting or {})

    def key(self, arm: Arm) -> str:
        """Return what tells an arm under this setting from all others."""
        told = json.dumps([arm.name, arm.seed, dict(arm.options), self.setting], sort_keys=True)
        return blake2b(told.encode(), digest_size=8).hexdigest()

    def read(self) -> dict[str, Row]:
        """Return the rows by key; a torn line costs its arm, which is run again."""
        rows: dict[str, Row] = {}
        for line in self.file.read_text(encoding="utf-8").splitlines() if self.file.is_file() else ():
            try:
                row = json.loads(line)
                rows[str(row["key"])] = row
            except (ValueError, KeyError, TypeError):
                _log.warning("%s has a line that cannot be read; its arm is run again", self.file)
        return rows

    def add(self, arm: Arm, found: Mapping[str, Any]) -> Row:
        """Write the line of an arm to disk, and return it as it will be read."""
        named = {"key": self.key(arm), "arm": arm.name, "seed": arm.seed, "options": dict(arm.options)}
        line = json.dumps({**found, **named, "setting": self.setting}, ensure_ascii=False)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a+b") as file:
            size = file.tell()
            if size:  # a torn line must not swallow this one
                file.seek(size - 1)
                file.write(b"" if file.read(1) == b"\n" else b"\n")
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        row: Row = json.loads(line)
        return row


def run_arms(
    arms: Sequence[Arm],
    results: Results,
    make_job: Callable[[], Job],
    *,
    processes: int = 1,
    on_row: Callable[[Row], None] | None = None,
) -> list[Row]:
    """Run the arms that have no result yet, each in a process of its own, and return all rows in the arms' order.

    An arm that fails costs itself only, even where it takes its process along: it is logged, has no row, and is tried
    again by the next call.

    Args:
        arms: The arms.
        results: Where lines are read and written.
        make_job: Called once, and only if anything is left to run; prepares what the arms share.
        processes: How many at once.
        on_row: Called with each new row.
    """
    known = results.read()
    left = {key: arm for arm in arms if (key := results.key(arm)) not in known}
    if left:
        _log.info("%d of %d arms are left to run", len(left), len(arms))
        for arm, found in _finished(list(left.values()), make_job(), processes):
            row = results.add(arm, found)
            known[row["key"]] = row
            if on_row is not None:
                on_row(row)
    return [known[key] for arm in arms if (key := results.key(arm)) in known]


def _finished(arms: Sequence[Arm], job: Job, processes: int) -> Iterator[tuple[Arm, Mapping[str, Any]]]:
    """Yield arms with their results as they end."""
    began = time.monotonic()
    threads = ThreadPoolExecutor(min(processes, len(arms)))
    try:
        futures = {threads.submit(_apart, job, arm): arm for arm in arms}
        for done, future in enumerate(as_completed(futures), 1):
            arm, error = futures[future], future.exception()
            left = (time.monotonic() - began) / done * (len(arms) - done) / 60
            _log.info("%d/%d  %s, seed %d, %.0f min left", done, len(arms), arm.name, arm.seed, left)
            if error is None:
                yield arm, future.result()
            else:
                _log.error("%s, seed %d failed: %s: %s", arm.name, arm.seed, type(error).__name__, error)
    finally:
        threads.shutdown(cancel_futures=True)


def _apart(job: Job, arm: Arm) -> Mapping[str, Any]:
    """Return what the job yields for an arm in a process of its own: one that dies takes no other arm along.

    Raises:
        JadeError: The process ended without an answer.
        Exception: Whatever the job raised.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
        try:
            return pool.submit(job, arm).result()
        except BrokenProcessPool as error:
            raise JadeError("its process was killed, for want of memory perhaps") from error


def _end_with_parent() -> None:
    """End this process as soon as the one that started it has: an arm that nobody waits for would go on for hours.

    What it trains survives a kill at any moment, as all training does.
    """
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def by_arm(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return arm name → its rows, one a seed, in the order of their first occurrence."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(str(row["arm"]), []).append(row)
    return found
