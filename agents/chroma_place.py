"""Where the Chroma store is: a folder of this machine, or a Chroma server that several processes share.

    chroma run --path index --port 8000             starts a server (the command comes with chromadb)
    JADE_CHROMA=http://127.0.0.1:8000 jade ask …    every command then reads and builds there

A token in `JADE_CHROMA_TOKEN` travels with each request, for servers behind a proxy that asks for one. A server that
says nothing for `JADE_CHROMA_SECONDS` (60) is taken to be away.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from urllib.parse import urlsplit

from agents.errors import ConfigError
from agents.home import jade_home

ADDRESS, TOKEN, SECONDS = "JADE_CHROMA", "JADE_CHROMA_TOKEN", "JADE_CHROMA_SECONDS"
USUAL_SECONDS = 60.0
"""Enough for the largest block that is read or written at a time, on a busy server."""
STORE = "chroma.sqlite3"
"""The file that makes a folder a store."""


@dataclass(frozen=True)
class Server:
    """A Chroma server."""

    host: str
    port: int
    ssl: bool = False
    seconds: float = field(default=USUAL_SECONDS, compare=False)
    """Longest silence of the server while it is asked, in seconds; whoever waits that long is told that it is away."""

    def __str__(self) -> str:
        return f"http{'s' if self.ssl else ''}://{self.host}:{self.port}"

    @property
    def headers(self) -> Mapping[str, str]:
        """Return what a request carries beside its content: the token, where there is one."""
        token = os.environ.get(TOKEN)
        return {"X-Chroma-Token": token, "Authorization": f"Bearer {token}"} if token else {}


Place = Path | Server


def index_place(given: str | Path | Server | None = None) -> Place:
    """Return where the store is: what is given, else the server that `JADE_CHROMA` names, else index/ in JADE's home.

    Args:
        given: A folder, or a server as such or as "http://host:port".

    Raises:
        ConfigError: The address of a server cannot be read.
    """
    if isinstance(given, Server):
        return given
    if given is not None and not str(given).startswith(("http://", "https://")):
        return Path(given).expanduser()
    address = given if given is not None else os.environ.get(ADDRESS)
    return read_address(str(address)) if address else jade_home() / "index"


def read_address(address: str) -> Server:
    """Read "http://host:port" or "https://host:port".

    >>> str(read_address("http://127.0.0.1:8000"))
    'http://127.0.0.1:8000'

    Raises:
        ConfigError: It is something else, or `JADE_CHROMA_SECONDS` is no time.
    """
    wanted = f"wanted http://HOST:PORT or https://HOST:PORT, such as http://127.0.0.1:8000 (in {ADDRESS})"
    try:
        parts = urlsplit(address.strip())
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"the address of the Chroma server cannot be read ({error}); {wanted}") from None
    if parts.username or parts.password:
        raise ConfigError(f"an address with a password would end up in records and logs; give a token in {TOKEN}")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
        raise ConfigError(f"the address of the Chroma server is {address!r}; {wanted}")
    ssl = parts.scheme == "https"
    return Server(parts.hostname, port or (443 if ssl else 8000), ssl, _seconds())


def _seconds() -> float:
    given = os.environ.get(SECONDS) or str(USUAL_SECONDS)
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise ConfigError(f"{SECONDS} is {given!r}; give the longest silence of the Chroma server, in seconds above 0")
    return seconds


def has_store(place: Place) -> bool:
    """Say whether there is something to read; a server is asked when it is opened."""
    return isinstance(place, Server) or (place / STORE).is_file()


def lock_file(place: Place) -> Path:
    """Return the file that whoever builds here holds; for a server it keeps apart the builders of one machine."""
    if isinstance(place, Path):
        return place / "build.lock"
    name = blake2b(str(place).encode(), digest_size=8).hexdigest()
    return jade_home() / "locks" / f"chroma-{name}.lock"
