"""Where output goes: results to stdout, notes and errors to stderr, everything foreign made harmless first."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

_CONTROL = re.compile(
    r"[\u0000-\u0008\u000b-\u001f\u007f-\u009f"  # controls, escape sequences' first bytes among them
    r"\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]"
    r"|[\ud800-\udfff]"  # lone surrogates: not encodable
)


def clean(text: str) -> str:
    """Return foreign text (questions, passages, model output) without control and invisible characters."""
    return _CONTROL.sub(" ", text)


def one_line(text: str, limit: int = 0) -> str:
    """Return `clean` text on one line, cut to `limit` characters with an ellipsis (0 = no limit)."""
    flat = " ".join(clean(text).split())
    return flat if not limit or len(flat) <= limit else flat[: limit - 1].rstrip() + "…"


def program() -> str:
    """Return how the user called us, for commands that we suggest: the launcher says "./jade"."""
    return os.environ.get("JADE_PROGRAM") or "jade"


def width() -> int:
    """Return how many characters a line of stdout holds."""
    return Console().width


def show(*renderables: RenderableType) -> None:
    """Print to stdout; strings are plain text, never markup."""
    console = Console(highlight=False, soft_wrap=False)
    for item in renderables:
        console.print(Text(item) if isinstance(item, str) else item)


def note(text: str) -> None:
    """Print a line to stderr: progress, warnings, hints."""
    Console(stderr=True, highlight=False).print(Text(clean(text), style="dim"), soft_wrap=True)


def warn(text: str) -> None:
    """Print a warning to stderr."""
    Console(stderr=True, highlight=False).print(Text(f"warning: {clean(text)}", style="yellow"), soft_wrap=True)


def show_json(value: Any, *, indent: int | None = 2) -> None:
    """Write JSON to stdout and nothing else."""
    sys.stdout.write(json.dumps(value, indent=indent, default=str) + "\n")
    sys.stdout.flush()


def show_error(message: str, *, as_json: bool) -> None:
    """Print an error: one message to stderr, or with --json an object on stdout."""
    if as_json:
        show_json({"error": message})
    else:
        Console(stderr=True, highlight=False).print(Text(f"jade: {clean(message)}", style="red"), soft_wrap=True)
