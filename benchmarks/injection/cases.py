"""The hostile cases: data in tests/injection/cases.jsonl, one a line; what is large is generated."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Door = Literal["question", "title", "text", "answer", "turn", "http", "file"]
DOORS: tuple[Door, ...] = get_args(Door)
CASES = Path(__file__).resolve().parents[2] / "tests" / "injection" / "cases.jsonl"


@dataclass(frozen=True)
class Case:
    """One attack."""

    id: str
    category: str
    enters: Door
    """The door that it was written for; it is tried at all of them."""
    tries: str
    """What it tries, in words."""
    text: str
    link: str = ""
    """For the door "file": what a symbolic link of that name points to; "" = an ordinary file."""


def load_cases(file: Path = CASES) -> list[Case]:
    """Read all cases.

    Raises:
        ValueError: A line without text, with an unknown door, or with the id of another.
    """
    cases = [_case(json.loads(line)) for line in file.read_text("utf-8").split("\n") if line]
    if len({case.id for case in cases}) < len(cases):
        raise ValueError(f"{file}: two cases have one id")
    return cases


def _case(row: dict[str, object]) -> Case:
    recipe = row.pop("generate", None)
    if isinstance(recipe, dict):
        row["text"] = f"{recipe['before']}{recipe['unit'] * recipe['times']}{recipe['after']}"
    case = Case(**row)  # type: ignore[arg-type]
    if case.enters not in DOORS or not case.text:
        raise ValueError(f"case {case.id}: no text, or no door {case.enters!r}; doors are {', '.join(DOORS)}")
    return case
