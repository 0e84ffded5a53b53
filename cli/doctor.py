"""`jade doctor`: is everything there that JADE needs, and if not, what to do."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from cli.terminal import clean, show, show_json

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Check versions, model, index, ledger, disk and machine; say how to mend each finding."""
    from cli.checks import findings

    found = list(findings())
    failed = [finding for finding in found if finding.status == "fail"]
    if as_json:
        show_json({"ok": not failed, "findings": [asdict(finding) for finding in found]})
    else:
        for finding in found:
            line = Text(f"{finding.status:4}  ", style=_STYLES[finding.status])
            show(line.append(f"{finding.name}: {clean(finding.found)}", style="default"))
            if finding.mend:
                show(f"      → {clean(finding.mend)}")
        warned = sum(finding.status == "warn" for finding in found)
        show(f"{len(found)} checks: {len(failed)} failed, {warned} warnings")
    if failed:
        raise typer.Exit(1)
