"""Every case at every door: what it tried, what happened, and what is wrong with that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.injection.cases import Case
from benchmarks.injection.doors import file_faults, http_faults, served, shown_faults
from benchmarks.injection.families import families
from benchmarks.injection.guard import Guard
from benchmarks.injection.neighbours import House, store_faults
from benchmarks.injection.prompts import SELECTS, conversation_faults, prompt_faults
from graphs.trajectory import Trajectory

CHECKS = ("delimiters", "http", "files", "neighbour", "terminal", "reach")
_OTHERS = ("http", "files", "terminal")
_TOGETHER = 23
"""Hostile questions in one batch with the innocent one, where not each is to be tried by itself."""
THOROUGH = ("tags", "tokens", "unicode")
"""Categories whose cases depend on the family of the model."""


@dataclass
class Outcome:
    """What became of one case."""

    case: Case
    said: dict[str, str] = field(default_factory=dict)
    """Check → what happened."""
    faults: dict[str, list[str]] = field(default_factory=dict)
    """Check → what is wrong."""

    def put(self, check: str, said: str, faults: Sequence[str]) -> None:
        """Enter one check."""
        self.said[check] = said
        self.faults[check] = list(faults)

    def add(self, check: str, faults: Sequence[str]) -> None:
        """Enter more that is wrong."""
        self.faults.setdefault(check, []).extend(faults)

    @property
    def held(self) -> bool:
        """Return whether nothing is wrong."""
        return not any(self.faults.values())

    def line(self) -> str:
        """Return the case on one line: what it tried, and what happened."""
        wrong = [f"{check}: {fault}" for check, found in self.faults.items() for fault in found[:2]]
        told = "; ".join(self.said[check] for check in CHECKS if check in self.said)
        return f"{self.case.id} | {self.case.enters} | {self.case.tries} | {wrong or 'HELD'} | {told}"


def run_suite(
    cases: Sequence[Case], folder: Path, *, every: bool = True, on_done: Callable[[Outcome], None] | None = None
) -> list[Outcome]:
    """Try all cases.

    Args:
        cases: What to try.
        folder: Everything that is written goes below it.
        every: All cases at all doors, against all families and views, each in a batch of its own. Else in seconds:
            all in prompts and in batches; the other doors for those that they concern, and for others by turns; all
            families for those that depend on the family, and one by turns for others.
        on_done: Told of each case.
    """
    outcomes = [Outcome(case) for case in cases]
    plan = {outcome.case.id: _checks(outcome.case, place, every) for place, outcome in enumerate(outcomes)}
    house = House(folder / "house")
    _try_http([Outcome(cases[0])], folder / "warm")  # imports and templates are loaded before anybody listens
    prompt_faults("warm")
    _try_http([outcome for outcome in outcomes if "http" in plan[outcome.case.id]], folder / "served")
    wide = 1 if every else _TOGETHER
    for first in range(0, len(outcomes), wide):
        together = outcomes[first : first + wide]
        runs = _try_together(together, house, folder)
        for place, (outcome, run) in enumerate(zip(together, runs, strict=True), first):
            _try(outcome, run, _made(folder / "files"), _kinds(outcome.case, place, every), plan[outcome.case.id])
            if on_done is not None:
                on_done(outcome)
    _try_store([outcome for outcome in outcomes if "files" in plan[outcome.case.id]], _made(folder / "store"))
    outcomes[-1].add("neighbour", [*house.again(), *house.unread()])
    return outcomes


def _checks(case: Case, place: int, every: bool) -> tuple[str, ...]:
    """Return at which doors a case is tried."""
    if every:
        return CHECKS
    own = {"question": "http", "http": "http", "turn": "http", "file": "files", "title": "terminal"}
    concerned = "terminal" if case.category == "terminal" else own.get(case.enters, "")
    return ("delimiters", "neighbour", "reach", concerned, dict(enumerate(_OTHERS)).get(place % 6, ""))


def _kinds(case: Case, place: int, every: bool) -> tuple[Sequence[str], Sequence[str]]:
    """Return the families and views of a case's prompts."""
    names = list(families())
    if every:
        return names, SELECTS
    return names if case.category in THOROUGH else [names[place % len(names)]], SELECTS[:1]


def _try(
    outcome: Outcome,
    run: Trajectory,
    folder: Path,
    kinds: tuple[Sequence[str], Sequence[str]],
    checks: Sequence[str],
) -> None:
    case = outcome.case
    with Guard(folder.parent) as guard:
        made, faults = prompt_faults(case.text, *kinds)
        outcome.put("delimiters", f"{made} prompts", [*faults, *conversation_faults(case.text, kinds[0])])
        if "files" in checks:
            outcome.put("files", *file_faults(case, folder))
        if "terminal" in checks:
            outcome.put("terminal", "shown", shown_faults(case, run))
    outcome.add("reach", guard.deeds)


def _try_together(outcomes: Sequence[Outcome], house: House, folder: Path) -> list[Trajectory]:
    """Ask some cases in one batch with the innocent question, and return their runs."""
    with Guard(folder) as guard:
        guests = house.batch([outcome.case for outcome in outcomes])
    for outcome, guest in zip(outcomes, guests, strict=True):
        told = f"question refused ({guest.refused.split(';')[0][:60]!r})" if guest.refused else "question asked"
        outcome.put("neighbour", told, guest.faults)
        outcome.add("reach", guard.deeds)
    return [guest.run for guest in guests]


def _try_http(outcomes: Sequence[Outcome], folder: Path) -> None:
    async def ask() -> None:
        async with served(folder) as (toy, client):
            for outcome in outcomes:
                with Guard(folder) as guard:
                    outcome.put("http", *await http_faults(outcome.case, toy, client))
                outcome.add("reach", guard.deeds)

    asyncio.run(ask())


def _try_store(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Search one collection that holds all texts for each of them; what is wrong is entered with its case."""
    with Guard(folder) as guard:
        faults = store_faults([outcome.case for outcome in outcomes], folder)
    for outcome in outcomes:
        outcome.add("neighbour", [fault for name, fault in faults if name == outcome.case.id])
    outcomes[-1].add("neighbour", [fault for name, fault in faults if not name])
    outcomes[-1].add("reach", guard.deeds)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
