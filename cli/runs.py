"""`jade runs`: list and filter the recorded runs, the latest first."""

from __future__ import annotations

import heapq
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agents.errors import ConfigError
from cli.terminal import note, show, show_json, warn, width

if TYPE_CHECKING:
    from graphs.ledger_lines import Problem
    from graphs.trajectory import Trajectory

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def runs(
    outcome: Annotated[list[str] | None, typer.Option(help="Only this outcome; may be given again.")] = None,
    question: Annotated[str, typer.Option(help="Only questions that contain this text.")] = "",
    workflow: Annotated[str, typer.Option(help="Only runs whose top plan is this, such as R,AG or QDS.")] = "",
    since: Annotated[str, typer.Option(help="Only runs started since a date, or 30m, 12h, 7d ago.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Show at most so many.")] = 20,
    ledger: Annotated[Path | None, typer.Option(help="Ledger folder or file; default: JADE's own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the recorded runs, the latest first."""
    from cli.render import runs_table
    from graphs.feedback import read_feedback
    from graphs.ledger import ledger_folder, read_ledger

    wanted = _Filter(outcome or [], question, workflow, since)
    path = ledger or ledger_folder()
    if ledger is None and not path.exists():
        rows: list[dict[str, Any]] = []
    else:
        problems: list[Problem] = []
        scores = read_feedback(path, on_problem=lambda problem: None)
        found = (row(run, scores.get(run.run)) for run in read_ledger(path, on_problem=problems.append) if wanted(run))
        rows = heapq.nlargest(limit, found, key=lambda item: str(item["started"]))
        _report(problems)
    if as_json:
        show_json(rows)
    elif rows:
        show(runs_table(rows, width()))
    else:
        note(f"no matching run in {path}")


class _Filter:
    """Which runs are wanted; everything given is checked before the ledger is read."""

    def __init__(self, outcomes: list[str], question: str, workflow: str, since: str) -> None:
        from typing import get_args

        from agents.workflow import BY_TEXT
        from graphs.trajectory import Outcome

        for name in outcomes:
            if name not in get_args(Outcome):
                raise ConfigError(f"--outcome {name}: allowed are {', '.join(get_args(Outcome))}")
        plan = workflow.replace(" ", "")
        if plan and plan not in BY_TEXT:
            raise ConfigError(f"--workflow {workflow}: allowed are {', '.join(BY_TEXT)}")
        self.outcomes, self.text, self.plan = outcomes, question.casefold(), plan
        self.since = parse_since(since) if since else None

    def __call__(self, run: Trajectory) -> bool:
        """Return whether the run is wanted."""
        return (
            (not self.outcomes or run.outcome in self.outcomes)
            and self.text in run.question.casefold()
            and (not self.plan or (run.workflow or {}).get("plan") == self.plan)
            and (self.since is None or _time(run.started) >= self.since)
        )


def parse_since(text: str, now: datetime | None = None) -> datetime:
    """Read "30m", "12h", "7d" (before now) or an ISO date or time (UTC unless it says otherwise).

    Raises:
        ConfigError: It is none of these.
    """
    ago = re.fullmatch(r"(\d{1,6})([mhd])", text)
    if ago:
        return (now or datetime.now(UTC)) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--since {text}: give a date (2026-01-31), a time, or 30m, 12h, 7d") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _time(started: str) -> datetime:
    try:
        moment = datetime.fromisoformat(started)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def row(run: Trajectory, score: float | None) -> dict[str, Any]:
    """Return what the listing tells of a run."""
    from cli.render import plan_text

    return {
        "run": run.run,
        "started": run.started,
        "outcome": run.outcome,
        "question": run.question,
        "workflow": plan_text(run.workflow),
        "answer": run.answer,
        "turns": run.turns,
        "retrievals": len(run.retrievals),
        "calls": len(run.calls),
        "tokens": sum(len(call.prompt_ids) + len(call.response_ids) for call in run.calls),
        "seconds": run.seconds.get("total", 0.0),
        "feedback": score,
    }


def _report(problems: list[Problem]) -> None:
    """Name the lines that could not be read, the first few in full."""
    for problem in problems[:3]:
        warn(str(problem))
    if len(problems) > 3:
        warn(f"and {len(problems) - 3} more such lines")
