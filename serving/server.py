"""uvicorn around the app, stopped gracefully: the first signal lets runs end, the second ends them."""

from __future__ import annotations

import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from agents.errors import ConfigError
from graphs.recorded import RecordedGraph
from serving.app import create_app
from serving.config import ServeConfig
from serving.desk import Desk
from serving.slow import MOST_HEAD, CutOff, HeadLimit

LAST_BYTES_SECONDS = 10
"""How long a client may take to send its request, or to read its answer, once nothing runs any more."""


class DrainingServer(uvicorn.Server):
    """A server that goes on listening while it stops, to answer 503 where others would refuse the connection.

    uvicorn itself closes its sockets at the first signal, and ends by raising that signal anew; this one lets what
    runs end, sends away what waits, and ends with exit code 0.
    """

    def __init__(self, config: uvicorn.Config, desk: Desk) -> None:
        """Serve the app that `desk` belongs to."""
        super().__init__(config)
        self.desk = desk
        self.asked = 0
        """How many signals have come."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Count the signals; the event loop acts on them."""
        self.asked += 1
        if self.asked > 2:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Return whether to end: asked to, and nothing runs any more."""
        if self.asked:
            (self.desk.abort if self.asked > 1 else self.desk.drain)()
        return (bool(self.asked) and self.desk.idle) or await super().on_tick(counter)


def make_server(graph: RecordedGraph, config: ServeConfig) -> DrainingServer:
    """Return a server that is not started yet; give `run` or `serve` the socket of `listen`."""
    app = create_app(graph, config)
    settings = uvicorn.Config(
        CutOff(app),
        lifespan="on",
        http=HeadLimit,
        ws="none",
        h11_max_incomplete_event_size=MOST_HEAD,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=LAST_BYTES_SECONDS,
    )
    return DrainingServer(settings, app.state.desk)


def listen(config: ServeConfig) -> socket.socket:
    """Return a socket that accepts connections from now on.

    Raises:
        ConfigError: The address is taken, foreign, or no address at all.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host, config.port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {config.host} port {config.port} ({error.strerror or error}); choose another --port "
            "(0 = any free one), or an address of this machine as --host"
        ) from error


def url_of(listener: socket.socket) -> str:
    """Return the address that clients use."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(graph: RecordedGraph, config: ServeConfig, on_ready: Callable[[str], None]) -> None:
    """Serve until a signal comes; return when everything that ran has ended and is recorded.

    Args:
        graph: What answers, with its model loaded.
        config: Where and how much.
        on_ready: Told the server's address once connections are accepted.

    Raises:
        ConfigError: It cannot listen there.
    """
    listener = listen(config)
    server = make_server(graph, config)
    on_ready(url_of(listener))
    server.run(sockets=[listener])
