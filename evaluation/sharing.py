"""An evaluation on many processes: each asks its share into records of its own, and rank 0 puts them together.

Of each task (a system, a set, a seed) a rank asks every n-th question that has no record yet. Until all are done, what
it heard stands in `records.rank0of2.jsonl`; rank 0 then adds it to `records.jsonl`, and reports. What a job that died
left behind is added when the next one begins, whatever their numbers of ranks: nothing that was answered is lost, and
nothing is asked twice. The ranks meet when they begin and when all are done, so shares need not be equal.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from agents.errors import SetupError
from evaluation.asking import Task, answer, blocks_of, warn_if_all_failed
from evaluation.bench import Bench
from evaluation.ranks import Ranks
from evaluation.readiness import Asked
from evaluation.records import RecordStore, only_writer
from evaluation.results import Block
from evaluation.shared_folder import check_folder
from evaluation.systems import System

_log = logging.getLogger("jade.evaluate")


def ask_everything(bench: Bench, systems: Sequence[System], sets: Sequence[Asked], ranks: Ranks) -> list[Block] | None:
    """Ask what has no record yet; return every system on every set on rank 0, and None on the others.

    Args:
        bench: Where systems are asked; its records go into the configured output folder.
        systems: Who is asked.
        sets: What is asked.
        ranks: The processes that share the questions.

    Raises:
        ConfigError: The ranks were started with different options, models or folders; the folder cannot be written,
            or another evaluation writes there.
        SetupError: Another rank is gone; what was answered is in the records.
        KeyboardInterrupt: Asked to stop; what ended is in the records.
    """
    folder = Path(bench.config.output).expanduser()
    _agree(bench, systems, sets, ranks)
    with ExitStack() as held:
        ranks.first(lambda: _begin(folder, held))
        store = RecordStore(folder, ranks.suffix)
        try:
            tasks = answer(bench, store, systems, sets, (ranks.rank, ranks.size))
        finally:
            store.close()
        ranks.gather("done")
        if not ranks.leads:
            return None
        if ranks.size > 1:
            store = put_together(folder)
            _check_whole(store, tasks)
            for task in tasks:
                warn_if_all_failed(store, task)
        return blocks_of(store, tasks, bench.config.top_k)


def _begin(folder: Path, held: ExitStack) -> None:
    """Let nobody else write into the folder for as long as `held` lasts, and tidy it."""
    held.enter_context(only_writer(folder))
    put_together(folder)


def _check_whole(store: RecordStore, tasks: Sequence[Task]) -> None:
    """Refuse to report on fewer questions than were asked: a shared disk may show other machines' files late.

    Raises:
        SetupError: Answers of other ranks are not there.
    """
    missing = sum(
        store.get(task.system.label, task.asked.name, task.digest, example.id, task.seed) is None
        for task in tasks
        for example in task.asked.examples
    )
    if missing:
        raise SetupError(
            f"{missing} answers are not in {store.file}: what other ranks wrote cannot be seen yet; run the same "
            "command again, which adds them and asks nothing twice"
        )


def put_together(folder: Path) -> RecordStore:
    """Add the records that ranks left in files of their own to the folder's, and return those.

    Raises:
        ConfigError: A file is not made of records, or the folder cannot be written.
    """
    store = RecordStore(folder)
    try:
        for file in sorted(folder.glob("records.rank*of*.jsonl")):
            added = store.add_from(file)
            file.unlink()
            _log.info("%s: %d records added to %s", file.name, added, store.file.name)
    finally:
        store.close()
    return store


def _agree(bench: Bench, systems: Sequence[System], sets: Sequence[Asked], ranks: Ranks) -> None:
    """Check that all ranks ask alike.

    Raises:
        ConfigError: They do not; the message names the ranks that differ.
    """
    if ranks.size == 1:
        return
    options = {name: value for name, value in bench.config.__dict__.items() if name not in ("device", "threads")}
    ranks.alike("the options", options, "start the same command on every machine")
    formats = [model.identity["dtype"] for model in (bench.shared, bench.other) if model is not None]
    ranks.alike("number formats", formats, "give the same --dtype everywhere, and not auto")
    asked = [[item.id for item in each.examples] for each in sets]
    ranks.alike("the questions", asked, "give every machine the same data")
    digests = [bench.digest(system, each) for each in sets for system in systems]
    ranks.alike("models, adapters or indexes", digests, "give every machine the same ones")
    check_folder(Path(bench.config.output).expanduser(), ranks)
