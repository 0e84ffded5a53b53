"""`jade feedback RUN --score X`: give a recorded run a score, which training joins by run id (DESIGN §6)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from cli.terminal import show, show_json


def feedback(
    run: Annotated[str, typer.Argument(help="Run id, or enough of its beginning.", show_default=False)],
    score: Annotated[float, typer.Option(help="How good the answer was, from 0 to 1.", show_default=False)],
    note: Annotated[str, typer.Option(help="A remark kept beside the score.")] = "",
    ledger: Annotated[Path | None, typer.Option(help="Ledger folder; default: JADE's own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score a recorded run, so that training can learn from it without gold answers."""
    from agents.errors import ConfigError
    from graphs.feedback import append_feedback
    from graphs.ledger import find_run, ledger_folder

    if not (math.isfinite(score) and 0.0 <= score <= 1.0):
        raise ConfigError(f"--score {score}: give a number from 0 (wrong) to 1 (right)")
    folder = ledger or ledger_folder()
    if folder.is_file():
        raise ConfigError(f"--ledger {folder} is a file; give the folder that holds it, where the score is added")
    found = find_run(folder, run).run
    append_feedback(folder, found, score, note)
    if as_json:
        show_json({"run": found, "score": score, "note": note})
    else:
        show(f"run {found}: score {score:g} recorded")
