"""Ask every system every question that has no record yet, tell how far it is, and join records with gold answers."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.bench import Bench
from evaluation.dataset import Example
from evaluation.planner import PlannerView, plan_probabilities
from evaluation.readiness import Asked
from evaluation.records import Record, RecordStore, interrupted, record_of
from evaluation.results import Block
from evaluation.served import ServedModel
from evaluation.systems import System
from graphs.trajectory import Trajectory

_log = logging.getLogger("jade.evaluate")
EVERY_SECONDS = 15.0
"""Between two lines of progress."""


@dataclass(frozen=True)
class Task:
    """What one system still has to answer of one set with one seed."""

    system: System
    asked: Asked
    digest: str
    seed: int
    examples: Sequence[Example]


class Progress:
    """How many runs are done, how fast they come, and when they will all be there."""

    def __init__(self, total: int, known: int) -> None:
        """Start the clock.

        Args:
            total: Runs to make.
            known: Runs that earlier invocations made.
        """
        self.total, self.done = total, 0
        self._began = self._told = time.monotonic()
        if known:
            _log.info("%d runs are in the records already; %d are left", known, total)

    def step(self, task: Task) -> None:
        """Count one run; tell now and then."""
        self.done += 1
        now = time.monotonic()
        if self.done < self.total and now - self._told < EVERY_SECONDS:
            return
        self._told = now
        rate = self.done / max(1e-9, now - self._began)
        left = (self.total - self.done) / rate / 60
        _log.info(
            "%d/%d  %s on %s  %.1f questions/min  %.1f min left",
            self.done, self.total, task.system.label, task.asked.name, rate * 60, left,
        )  # fmt: skip


def tasks_of(bench: Bench, store: RecordStore, systems: Sequence[System], sets: Sequence[Asked]) -> list[Task]:
    """Return what has no record yet, set by set; finished tasks are there with no examples."""
    config, tasks = bench.config, []
    for asked in sets:
        for system in systems:
            digest = bench.digest(system, asked)
            for seed in range(config.seed, config.seed + config.seeds):
                known = [store.get(system.label, asked.name, digest, item.id, seed) for item in asked.examples]
                pairs = zip(asked.examples, known, strict=True)
                left = [item for item, found in pairs if not _answered(found, item, bench.handed(system, asked, item))]
                tasks.append(Task(system, asked, digest, seed, left))
    return tasks


def _answered(found: Record | None, example: Example, handed: str) -> bool:
    """Return whether a record answers a question as it is asked now."""
    if found is None or found.failed:
        return False
    return found.question == example.question and found.handed == handed


def answer(
    bench: Bench,
    store: RecordStore,
    systems: Sequence[System],
    sets: Sequence[Asked],
    share: tuple[int, int] = (0, 1),
) -> list[Task]:
    """Answer what has no record yet, and return all tasks.

    Args:
        bench: Where systems are asked.
        store: Where records are looked up and added.
        systems: Who is asked.
        sets: What is asked.
        share: (rank, number of ranks): of each task only every so many-th question is asked here. Who begins takes
            turns, so that small tasks are spread evenly.

    Raises:
        ConfigError: A record cannot be written, or an adapter does not fit.
        KeyboardInterrupt: Asked to stop; what ended is in the records.
    """
    tasks = tasks_of(bench, store, systems, sets)
    rank, ranks = share
    places = [((rank + turn) % ranks, ranks) for turn in range(len(tasks))]
    mine = sum(len(task.examples[place::ranks]) for task, (place, _) in zip(tasks, places, strict=True))
    known = sum(len(task.asked.examples) - len(task.examples) for task in tasks)
    progress = Progress(mine, known)
    for task, place in zip(tasks, places, strict=True):
        if task.examples[place[0] :: ranks]:
            _run(bench, store, task, progress, place)
    return tasks


def _run(bench: Bench, store: RecordStore, task: Task, progress: Progress, share: tuple[int, int]) -> None:
    heard: list[Record] = []
    handed = {item.id: bench.handed(task.system, task.asked, item) for item in task.examples}

    def keep(run: Trajectory) -> None:
        if interrupted(run):
            return
        came_with = handed.get(run.question_id or "", "")
        heard.append(record_of(run, task.system.label, task.asked.name, task.digest, came_with))
        store.add(heard[-1])
        progress.step(task)

    rank, ranks = share
    try:
        bench.ask(task.system, task.asked, task.examples, task.seed, keep, share=share)
    except Exception:
        if len(heard) < len(task.examples[rank::ranks]) or not all(record.failed for record in heard):
            raise  # no run's own failure: those are in the records
    if ranks == 1:
        warn_if_all_failed(store, task)


def warn_if_all_failed(store: RecordStore, task: Task) -> None:
    """Say so where not one run of a task has an answer, which looks like a bad system and mostly is a bad set-up.

    Args:
        store: With the records of all ranks.
        task: As it was asked.
    """
    found = [store.get(task.system.label, task.asked.name, task.digest, item.id, task.seed) for item in task.examples]
    failed = [record for record in found if record is not None and record.failed]
    if failed and len(failed) == len(found):
        _log.warning("%s on %s: every run failed: %s", task.system.label, task.asked.name, failed[0].error)


def planner_views(bench: Bench, systems: Sequence[System], sets: Sequence[Asked]) -> list[PlannerView]:
    """Return the exact plan probabilities of every system whose planner decides, for the first questions of each set.

    Raises:
        ConfigError: An adapter does not fit.
    """
    config, views = bench.config, []
    for system in systems:
        if system.kind != "planned" or not config.plan_questions:
            continue
        planner, adapter = bench.speaker(system, "planner")
        if isinstance(planner, ServedModel):  # a server forces no tokens
            continue
        for asked in sets:
            examples = asked.examples[: config.plan_questions]
            texts = [example.question for example in examples]
            found = plan_probabilities(
                planner, adapter, system.prompts, texts, bench.options(system), config.temperature or 1.0
            )
            by_question = {example.id: row for example, row in zip(examples, found, strict=True)}
            views.append(PlannerView(system.label, asked.name, by_question))
    return views


def blocks_of(store: RecordStore, tasks: Sequence[Task], top_k: int) -> list[Block]:
    """Join the records with their questions, every system on every set; seeds of a question together.

    Args:
        store: With all records.
        tasks: As they were asked.
        top_k: Passages a search.
    """
    grouped: dict[tuple[str, str], list[Task]] = {}
    for task in tasks:
        grouped.setdefault((task.system.label, task.asked.name), []).append(task)
    blocks = []
    for (system, name), mine in grouped.items():
        examples = mine[0].asked.examples
        records = []
        for example in examples:
            found = [store.get(system, name, task.digest, example.id, task.seed) for task in mine]
            records.append([record for record in found if record is not None])
        blocks.append(Block(system, name, examples, records, top_k))
    return blocks
