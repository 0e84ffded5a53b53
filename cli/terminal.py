"""Where output goes: results to stdout, notes and errors to stderr, everything foreign made harmless first."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.text import Text

_CONTROL = re.compile(
    r"[\u0000-\u0008\u000b-\u001f\u007f-\u009f"  # controls, escape sequences' first bytes among them
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164"
    r"\ufeff\uffa0\ufff0-\ufffb\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
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


@dataclass(frozen=True)
class _Harmless:
    """Anything that rich can draw, without foreign control characters: they would move the cursor, not the text."""

    item: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.item, options):
            yield segment if segment.control else Segment(clean(segment.text), segment.style)


def show(*renderables: RenderableType) -> None:
    """Print to stdout; strings are plain text, never markup, and whatever is printed is `clean`."""
    console = Console(highlight=False, soft_wrap=False)
    for item in renderables:
        console.print(_Harmless(Text(clean(item)) if isinstance(item, str) else item))


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
