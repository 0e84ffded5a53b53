"""What a server is told when it starts: where it listens, how much it takes on, and who may ask."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agents.errors import ConfigError

KEY_VARIABLE = "JADE_API_KEY"
SHORTEST_KEY = 16
_MAKE_ONE = "make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
_BOUNDS = {
    "port": (0, 65535),
    "capacity": (1, 1024),
    "queue": (0, 100_000),
    "timeout": (0.01, 86_400),
    "max_body": (1024, 64 * 1024 * 1024),
}


@dataclass(frozen=True)
class ServeConfig:
    """Options of a server; impossible ones are refused by name.

    Raises:
        ConfigError: A number is out of range, a key is too weak, or other machines could ask without a key.
    """

    host: str = "127.0.0.1"
    """Address to listen on; any but a loopback address needs keys."""
    port: int = 8000
    """0 = any free one."""
    capacity: int = 4
    """Most questions that run at once; they share batches of the model."""
    queue: int = 16
    """Most questions that wait for their turn; beyond them 429."""
    timeout: float = 120.0
    """Seconds from a question's arrival, waiting included, after which its run is cancelled."""
    max_body: int = 1024 * 1024
    """Most bytes of a request's body."""
    keys: tuple[str, ...] = field(default=(), repr=False)
    """API keys, each of which opens the door; empty = nobody is asked for one."""
    name: str = "jade"
    """What the OpenAI-compatible face calls the graph."""

    def __post_init__(self) -> None:
        """Check everything before any model loads."""
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise ConfigError(f"{name}={value}; allowed: {low:g} to {high:g}")
        for key in self.keys:
            if len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
                raise ConfigError(
                    f"an API key of {len(key)} characters cannot be used: at least {SHORTEST_KEY} printable ASCII "
                    f"characters without blanks are needed; {_MAKE_ONE}"
                )
        if not self.keys and not is_loopback(self.host):
            raise ConfigError(
                f"host={self.host!r} lets other machines ask, and there is no API key: give --api-key-file FILE (one "
                f"key a line) or set {KEY_VARIABLE}, or listen on 127.0.0.1; {_MAKE_ONE}"
            )


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_keys(file: Path | None, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the API keys of a file (one a line, # starts a comment line) and of the environment.

    Raises:
        ConfigError: The file cannot be read, or holds no key.
    """
    keys = [environment[KEY_VARIABLE].strip()] if environment.get(KEY_VARIABLE, "").strip() else []
    if file is not None:
        try:
            lines = file.expanduser().read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the API keys in {file} cannot be read ({error}); give a text file") from error
        found = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        if not found:
            raise ConfigError(f"{file} holds no API key; write one a line; {_MAKE_ONE}")
        keys += found
    return tuple(dict.fromkeys(keys))
