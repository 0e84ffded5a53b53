"""The ledger reader against arbitrary files: first any bytes, then well-formed lines whose fields hold anything.

Nothing but `LedgerError` comes out. What is read has the types that it says, and written again it is read as itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from agents.call import Call
from agents.errors import LedgerError
from fuzz.material import Material
from fuzz.scratch import put
from fuzz.target import Target, hold
from graphs.ledger import find_run, is_sealed, read_ledger
from graphs.ledger_lines import Problem, encode_line
from graphs.trajectory import Retrieval, Trajectory

CALL = Call(
    "root/AG", "answer_generator", "root/AG", (), (1, 2), (3, 4), (-0.5, 0.0), (1, 0), 1.0, False,
    "<answer>yes</answer>", "yes", None, False,
)  # fmt: skip
RUN = Trajectory(
    run="r1", question="Who?", answer="me", outcome="ok", calls=(CALL,),
    retrievals=(Retrieval("root/R", "who", ("a", "b"), (0.5, 0.25), 0.1),), evidence=("a",),
    workflow={"path": "root", "question": "Who?", "plan": "R,AG", "children": []}, hops=({"question": "Who?"},),
)  # fmt: skip
WORDS = (
    *('{"event":"', '"close"', '"open"', '"pause"', '"seal"', '"feedback"', '","run":"', '","at":"', "\n", "},{", "[]"),
    *(f'"{name}":' for name in Trajectory.__dataclass_fields__),
    *(f'"{name}":' for name in Call.__dataclass_fields__),
    *('"ok"', '"crashed"', "null", "true", "NaN", "-Infinity", "1e999", "\\ud800", "1" * 40, "[[[[[[[[", '{"a":'),
)
_EVENTS = ("close", "open", "pause", "feedback", "seal", "opened")
_TOP, _CALL = tuple(Trajectory.__dataclass_fields__), tuple(Call.__dataclass_fields__)


def _check_bytes(data: bytes) -> None:
    file = put("ledger.jsonl", data)
    problems: list[Problem] = []
    try:
        trajectories = list(read_ledger(file, on_problem=problems.append))
    except LedgerError:
        hold(b'{"event":"' not in data, "a file with an event is a ledger")
        return
    hold(all(str(problem) for problem in problems), "every problem is worded")
    closes = sum(1 for line in data.split(b"\n") if line.startswith(b'{"event":"close","run":"'))
    hold(len(trajectories) + len(problems) >= min(1, closes), "a close line is read or reported")
    is_sealed(file)
    for wanted in (None, "r"):
        try:
            find_run(file, wanted, on_problem=problems.append)
        except LedgerError:
            continue
    for trajectory in trajectories:
        _check_types(trajectory)
        _check_written_again(trajectory)


def _check_types(run: Trajectory) -> None:
    """What is read has the types that the record declares, so that nothing breaks on it later."""
    hold(all(type(text) is str for text in (run.run, run.question, run.answer, run.started)), "texts are texts")
    hold(all(type(number) is int for number in (run.turns, run.seed)), "counts are whole numbers")
    hold(all(isinstance(one, dict) for one in (run.options, run.hashes, run.identity, run.seconds, *run.hops)), "maps")
    hold(run.workflow is None or isinstance(run.workflow, dict), "a workflow is a tree or nothing")
    hold(all(type(text) is str for text in (*run.evidence, *run.citations, *run.warnings)), "ids are texts")
    hold(all(type(text) is str for found in run.retrievals for text in (found.path, found.query, *found.ids)), "texts")
    for call in run.calls:
        texts = (call.id, call.role, call.path, call.text, *call.parents)
        hold(all(type(text) is str for text in texts), "a call's names are texts")
        hold(all(type(token) is int for token in (*call.prompt_ids, *call.response_ids, *call.mask)), "whole tokens")
        hold(all(type(number) in (int, float) for number in call.logprobs), "log-probabilities are numbers")
        hold(len(call.response_ids) == len(call.logprobs) == len(call.mask), "one log-probability and mask a token")
        hold(type(call.greedy) is bool and type(call.truncated) is bool, "flags are flags")


def _check_written_again(run: Trajectory) -> None:
    if not re.fullmatch(r"[\w.:@+/-]*", run.run, re.ASCII):
        return  # another program's id, which no writer of ours takes
    file = put("again.jsonl", encode_line("close", run.run, run.to_json()))
    problems: list[Problem] = []
    again = list(read_ledger(file, on_problem=problems.append))
    hold(not problems and len(again) == 1, f"what was read can be written: {problems}")
    hold(json.dumps(again[0].to_json()) == json.dumps(run.to_json()), "and is read as itself")


def _check_fields(data: bytes) -> None:
    """Lines of a run with some fields replaced by arbitrary values, in any order of events."""
    material, lines = Material(data), []
    for _ in range(1 + material.below(4)):
        event, record = material.pick(_EVENTS), RUN.to_json()
        for _ in range(material.below(4)):
            record[material.pick(_TOP)] = material.value()
        if material.below(2) and isinstance(record["calls"], list) and record["calls"]:
            record["calls"] = [{**CALL.to_json(), material.pick(_CALL): material.value()}]
        if not material.below(4):
            record.pop(material.pick(_TOP), None)
        header = {"event": event, "run": "r1", "at": "2026-01-01T00:00:00.000000+00:00"}
        lines.append(json.dumps({**header, **record}, separators=(",", ":"), default=str))
    _check_bytes("\n".join(lines).encode() + b"\n" * material.below(2))


def _seeds() -> Iterator[bytes]:
    whole = encode_line("close", "r1", RUN.to_json())
    opened = encode_line("open", "r1", {"question": "Who?", "seed": 3})
    yield whole
    yield opened
    yield opened + encode_line("pause", "r1", {"calls": [CALL.to_json()]}) + whole[:-30]
    yield opened + whole + encode_line("feedback", "r1", {"score": 1.0, "note": ""}) + encode_line("seal", "", {})
    small: dict[str, Any] = {"question": "", "answer": "", "outcome": "ok", "calls": []}
    yield encode_line("close", "r", small)
    yield b"\n\n" + encode_line("close", "r", small)[:-1]


def _field_seeds() -> Iterator[bytes]:
    for field in range(len(_TOP)):
        for kind in range(9):
            yield bytes([0, 0, 1, field, kind, 3, 7, 7, 7, 0, 0, 1])
    for field in range(len(_CALL)):
        yield bytes([1, 1, 0, 0, 1, 0, 0, 1, field, 6, 2, 1, 0, 1])


TARGETS = (
    Target(
        "ledger_bytes",
        "trajectories of the declared types that are read as themselves when written again, or a named problem",
        _check_bytes,
        _seeds,
        WORDS,
        2048,
        300_000,
    ),
    Target(
        "ledger_fields",
        "the same of well-formed lines whose fields hold anything",
        _check_fields,
        _field_seeds,
        longest=160,
        runs=300_000,
    ),
)
