"""What is kept of every question: one JSON line of facts, appended as its run ends, so that an evaluation can go on.

A line belongs to a system, a set and a hash of what could change the answers (adapters, prompts, index, options, number
format, version). Scores are computed from the facts and the gold answers each time they are read, so they cannot be
stale.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from agents.errors import ConfigError
from agents.home import only_one
from evaluation.dataset import Example
from evaluation.metrics import ANSWER_METRICS, citation_precision, recall_at_k, score_answer, supporting_overlap
from graphs.trajectory import FAILED, Trajectory

_log = logging.getLogger("jade.evaluate")
RETRIEVAL_METRICS = ("recall_at_k", "recall_retrieved", "support_f1", "support_precision", "citation_precision")
"""Keys of what passages a run found, showed and cited; None where the gold passages are not known."""
COSTS = ("turns", "retrievals", "calls", "prompt_tokens", "generated_tokens", "tokens", "seconds")
"""Keys of what a run cost."""
METRICS = (*ANSWER_METRICS, *RETRIEVAL_METRICS, *COSTS)
_INTERRUPTED = ("CancelledError", "KeyboardInterrupt", "SystemExit")


@dataclass(frozen=True)
class Record:
    """The facts of one run, without gold answers and without scores."""

    system: str
    set: str
    hash: str
    """Of what could change the answers of the system on the set."""
    id: str
    """The question's id."""
    seed: int
    question: str
    answer: str
    outcome: str
    error: str | None = None
    plan: str = ""
    """What the planner chose for the question (or was forced); "" for graphs without plans."""
    workflow: Mapping[str, Any] | None = None
    hops: Sequence[Mapping[str, Any]] = ()
    retrieved: Sequence[Sequence[str]] = ()
    """Passage ids of each retrieval, best first."""
    evidence: Sequence[str] = ()
    """Ids of the passages shown to the answering role."""
    citations: Sequence[str] = ()
    turns: int = 1
    calls: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0
    """Model time: the run's shares of its batches' prefill and decoding."""
    roles: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Role → {"calls", "valid", "truncated"}."""
    budget_hit: bool = False
    warnings: Sequence[str] = ()
    run: str = ""
    """Id of the run in the ledger."""
    handed: str = ""
    """Digest of the passages that came with the question, which only the oracle's do."""

    @property
    def failed(self) -> bool:
        """Return whether the run has no answer; it scores 0, and is asked again next time."""
        return self.outcome in FAILED

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """Return what a line stands for; the last line of a key counts."""
        return self.system, self.set, self.hash, self.id, self.seed


def record_of(run: Trajectory, system: str, set_name: str, digest: str, handed: str = "") -> Record:
    """Return the facts of a finished run; `digest` and `handed` as in `Record`."""
    workflow = run.workflow or {}
    return Record(
        system=system,
        set=set_name,
        hash=digest,
        id=run.question_id or "",
        seed=run.seed,
        question=run.question,
        answer=run.answer,
        outcome=run.outcome,
        error=run.error,
        plan=str(workflow.get("planned") or workflow.get("plan") or ""),
        workflow=run.workflow,
        hops=run.hops,
        retrieved=[list(item.ids) for item in run.retrievals],
        evidence=list(run.evidence),
        citations=list(run.citations),
        turns=run.turns,
        calls=len(run.calls),
        prompt_tokens=sum(len(call.prompt_ids) for call in run.calls),
        generated_tokens=sum(len(call.response_ids) for call in run.calls),
        seconds=round(run.seconds.get("prefill", 0.0) + run.seconds.get("decode", 0.0), 6),
        roles=_roles(run),
        budget_hit=run.budget_hit,
        warnings=list(run.warnings),
        run=run.run if run.options.get("record", "on") != "off" else "",
        handed=handed,
    )


def _roles(run: Trajectory) -> dict[str, dict[str, int]]:
    found: dict[str, Counter[str]] = {}
    for call in run.calls:
        counts = found.setdefault(call.role, Counter(calls=0, valid=0, truncated=0))
        counts["calls"] += 1
        counts["valid"] += call.format_error is None
        counts["truncated"] += call.truncated
    return {role: dict(counts) for role, counts in found.items()}


def interrupted(run: Trajectory) -> bool:
    """Return whether a run ended only because the whole evaluation did."""
    return run.error is not None and run.error.startswith(_INTERRUPTED)


def scores_of(record: Record, example: Example, top_k: int = 5) -> dict[str, float | None]:
    """Return every metric of one run; a failed one scores 0, None stands for "cannot be known".

    recall_at_k: share of the gold passages among the first `top_k` distinct ones in the order retrieved, so that
    several searches get no more places than one. recall_retrieved: among all that the run retrieved (none: 0).
    support_*: the passages shown to the answering role against the gold ones. citation_precision: None without a
    citation.
    """
    nothing = dict.fromkeys(ANSWER_METRICS, 0.0)
    answer = nothing if record.failed else score_answer(record.answer, example.answers)
    gold = example.supporting
    found = list(dict.fromkeys(identifier for ids in record.retrieved for identifier in ids))
    shown = supporting_overlap(record.evidence, gold)
    return {
        **answer,
        "recall_at_k": recall_at_k(found, gold, top_k),
        "recall_retrieved": recall_at_k(found, gold, max(1, len(found))),
        "support_f1": None if shown is None else shown.f1,
        "support_precision": None if shown is None else shown.precision,
        "citation_precision": citation_precision(record.citations, gold),
        "turns": record.turns,
        "retrievals": len(record.retrieved),
        "calls": record.calls,
        "prompt_tokens": record.prompt_tokens,
        "generated_tokens": record.generated_tokens,
        "tokens": record.prompt_tokens + record.generated_tokens,
        "seconds": record.seconds,
    }


class RecordStore:
    """records.jsonl of an output folder: read once, then appended to, line by line."""

    def __init__(self, folder: Path, suffix: str = "") -> None:
        """Read what is there; a torn last line (a killed process) is skipped.

        Args:
            folder: The output folder.
            suffix: Such as ".rank0of2" for one of many processes: it reads the folder's records and adds to a file of
                its own, `records.rank0of2.jsonl`.

        Raises:
            ConfigError: The folder cannot be made, or holds a file that is not made of records.
        """
        self.file = folder / f"records{suffix}.jsonl"
        self._known: dict[tuple[str, str, str, str, int], Record] = {}
        self._stream: TextIO | None = None
        self._sound: int | None = None
        """Bytes before a torn last line, which is cut off before anything is appended."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"output folder {folder} cannot be made ({error}); give another --output") from None
        for file in dict.fromkeys((folder / "records.jsonl", self.file)):
            for record in self._read(file):
                self._known[record.key] = record

    def add_from(self, file: Path) -> int:
        """Append what another file holds and this one does not; return how many records those are.

        Raises:
            ConfigError: It is not made of records, or this file cannot be written.
        """
        fresh = [record for record in self._read(file) if self._known.get(record.key) != record]
        for record in fresh:
            self.add(record)
        return len(fresh)

    def add(self, record: Record) -> None:
        """Append a record and hand it to the system at once.

        Raises:
            ConfigError: The disk is full, or the file cannot be written.
        """
        line = json.dumps(asdict(record), ensure_ascii=False)
        try:
            if self._stream is None:
                if self._sound is not None:
                    os.truncate(self.file, self._sound)
                self._stream = self.file.open("a", encoding="utf-8")
            self._stream.write(line + "\n")
            self._stream.flush()
        except OSError as error:
            raise ConfigError(f"{self.file} cannot be written ({error}); free the disk and run it again") from None
        self._known[record.key] = record

    def get(self, system: str, set_name: str, digest: str, identifier: str, seed: int) -> Record | None:
        """Return the record of a run, or None."""
        return self._known.get((system, set_name, digest, identifier, seed))

    def finished(self, system: str, set_name: str, digest: str, identifier: str, seed: int) -> bool:
        """Return whether a question was answered; what failed is asked again."""
        record = self.get(system, set_name, digest, identifier, seed)
        return record is not None and not record.failed

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _read(self, file: Path) -> Iterator[Record]:
        if not file.is_file():
            return
        *lines, torn = file.read_bytes().split(b"\n")  # bytes: a text's own line ends may be others
        if torn:
            if file == self.file:
                self._sound = sum(len(line) + 1 for line in lines)
            _log.warning("%s: line %d is torn and dropped; its question is asked again", file, len(lines) + 1)
        for number, line in enumerate(lines, start=1):
            try:
                yield read_record(json.loads(line))
            except (ValueError, TypeError) as error:
                raise ConfigError(
                    f"{file}, line {number} is no record ({error}); remove the line, or give another --output"
                ) from None


def read_record(data: Mapping[str, Any]) -> Record:
    """Rebuild a record from its JSON object; unknown keys are ignored.

    Raises:
        TypeError: A required field is missing.
    """
    return Record(**{name: data[name] for name in Record.__dataclass_fields__ if name in data})


def only_writer(folder: Path) -> AbstractContextManager[None]:
    """Hold the output folder's lock file.

    Raises:
        ConfigError: Another evaluation writes there.
    """
    return only_one(
        folder / ".lock",
        ConfigError(f"another evaluation writes into {folder}; wait for it, or give another --output"),
    )
