"""Ports of servers that the harness starts: a free one, and waiting until somebody answers there."""

from __future__ import annotations

import socket
import time

import httpx

PATIENCE = 120.0
"""Longest wait for a server, in seconds: a busy machine takes its time."""


def free_port() -> int:
    """Return a port of this machine that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> None:
    """Wait until something listens on a port.

    Raises:
        TimeoutError: Nothing does.
    """
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise TimeoutError(f"nothing listens on port {port}")


def answers(url: str) -> None:
    """Wait until a page is served.

    Raises:
        TimeoutError: It is not.
    """
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            httpx.get(url, timeout=2, trust_env=False).raise_for_status()
            return
        except httpx.HTTPError:
            time.sleep(0.05)
    raise TimeoutError(f"{url} is not served")
