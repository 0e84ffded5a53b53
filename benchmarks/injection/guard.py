"""What a process does to files, networks and other programs while it handles hostile text, heard by an audit hook.

Reading installed code is allowed, and anything below the folders that the guard is given. All else is written down:
opened or listed files, connections, look-ups of names, started programs, and code that is made of the text.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

MARK = "PWNED"
"""A word that stands in hostile texts and nowhere in code."""
_PATHS = ("open", "os.", "shutil.", "glob.", "pathlib.", "tempfile.", "sqlite3.connect", "ctypes.dlopen", "mmap.")
_NEVER = (
    "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "pty.spawn",
    "socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.sendto",
    "urllib.Request", "http.client.connect", "ftplib.connect", "smtplib.connect", "webbrowser.open",
)  # fmt: skip
_CODE = (".py", ".pyc", ".so", ".pth", "__pycache__")
_QUIET = ("/dev/null", "/dev/urandom", "/proc/self/", "/proc/cpuinfo", "/proc/meminfo", "/sys/")
_ROOTS = tuple({os.path.realpath(place) for place in (sys.prefix, sys.base_prefix, Path(__file__).parents[2])})
_SEARCHED = frozenset(map(os.path.realpath, sys.path))
"""Where imports look."""
_active: list[Guard] = []
_hooked = False


class Guard:
    """A context in which forbidden deeds are written down, whichever thread does them."""

    def __init__(self, *folders: str | Path) -> None:
        """Allow reading and writing below `folders`."""
        self.folders = tuple(os.path.realpath(folder) for folder in folders)
        self.deeds: list[str] = []

    def __enter__(self) -> Guard:
        """Begin to listen; a hook once added stays, so there is one for all guards."""
        global _hooked
        if not _hooked:
            sys.addaudithook(_hear)
            _hooked = True
        _active.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening."""
        _active.remove(self)

    def note(self, event: str, given: Sequence[Any]) -> None:
        """Write an event down unless it is allowed."""
        if event == "os.symlink":
            given = (os.path.dirname(os.fsdecode(given[1])),)  # making a link touches no target
        if event.startswith(_NEVER):
            self.deeds.append(f"{event} {given[:2]!r:.120}")
        elif event in ("compile", "exec"):
            if MARK in str(given[0]):
                self.deeds.append(f"{event} of the text")
        elif event.startswith(_PATHS):
            writes = event not in ("os.listdir", "os.scandir") and (event != "open" or _writes(given))
            for item in given[:2] if event != "open" else given[:1]:
                if isinstance(item, str | bytes | os.PathLike) and not self._allowed(os.fsdecode(item), writes, event):
                    self.deeds.append(f"{event} {os.fsdecode(item)!r:.120}")

    def _allowed(self, path: str, writes: bool, event: str) -> bool:
        if path == "" or (not path.startswith("/") and event not in ("open", "sqlite3.connect")):
            return True  # a mode, a pattern, a name relative to an open folder
        full = os.path.realpath(path)  # through a link, too, it is the target that is reached
        if any(full == folder or full.startswith(f"{folder}/") for folder in self.folders):
            return True
        if full.startswith(_QUIET) or (full in _SEARCHED and not writes):
            return True
        inside = any(full == root or full.startswith(f"{root}/") for root in _ROOTS)
        listing = event in ("os.listdir", "os.scandir")
        code = full.endswith(_CODE) or "site-packages" in full
        return inside and (listing or "__pycache__" in full or (code and not writes))


def _writes(given: Sequence[Any]) -> bool:
    mode, flags = (given[1] if len(given) > 1 else None), (given[2] if len(given) > 2 else 0)
    if isinstance(mode, str):
        return any(sign in mode for sign in "wax+")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _hear(event: str, given: tuple[Any, ...]) -> None:
    for guard in tuple(_active):
        guard.note(event, given)
