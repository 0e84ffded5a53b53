"""What Prometheus is told: requests by outcome, what runs and waits, latency, tokens, retrievals.

Requests are counted where they enter, so that each is counted once however it ends; costs are counted from the
trajectories, so that a run which nobody waited for any more costs what it cost.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from graphs.trajectory import Trajectory

FACES = {"/ask": "ask", "/v1/chat/completions": "chat"}
"""Paths whose requests are counted → their label."""
ANSWERED = "answered"
BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300)
"""Upper bounds of the latency histogram in seconds."""


class Metrics:
    """One registry for one app."""

    def __init__(self) -> None:
        """Declare everything at zero."""
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter("jade_requests", "Requests by how they ended.", ["face", "outcome"], registry=registry)
        self._seconds = Histogram(
            "jade_request_seconds",
            "Seconds from arrival to the last byte of answered requests, waiting included.",
            ["face"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._runs = Counter("jade_runs", "Runs by recorded outcome.", ["outcome"], registry=registry)
        self._tokens = Counter("jade_tokens", "Tokens of all model calls.", ["kind"], registry=registry)
        self._calls = Counter("jade_model_calls", "Model calls by role.", ["role"], registry=registry)
        self._retrievals = Counter("jade_retrievals", "Executed retrievals.", registry=registry)
        self._running = Gauge("jade_in_flight", "Questions that run now.", registry=registry)
        self._waiting = Gauge("jade_queue_length", "Questions that wait for their turn.", registry=registry)
        for kind in ("prompt", "generated"):
            self._tokens.labels(kind)
        for face in FACES.values():
            self._requests.labels(face, ANSWERED)
            self._seconds.labels(face)

    def watch(self, running: Callable[[], float], waiting: Callable[[], float]) -> None:
        """Let the gauges ask for what runs and what waits whenever they are read."""
        self._running.set_function(running)
        self._waiting.set_function(waiting)

    def request(self, face: str, outcome: str, seconds: float) -> None:
        """Count a request that has ended."""
        self._requests.labels(face, outcome).inc()
        if outcome == ANSWERED:
            self._seconds.labels(face).observe(seconds)

    def run(self, trajectory: Trajectory) -> None:
        """Count what a run cost; any thread may call."""
        self._runs.labels(trajectory.outcome).inc()
        self._retrievals.inc(len(trajectory.retrievals))
        for call in trajectory.calls:
            self._calls.labels(call.role).inc()
            self._tokens.labels("prompt").inc(len(call.prompt_ids))
            self._tokens.labels("generated").inc(len(call.response_ids))

    def text(self) -> bytes:
        """Return Prometheus's text format."""
        return generate_latest(self.registry)


class Counting:
    """ASGI middleware that counts the requests of both faces, the refused ones included."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        """Wrap `app`."""
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and count it when it has ended."""
        if scope["type"] != "http" or scope["path"] not in FACES:
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        state = scope.setdefault("state", {})
        try:
            await self.app(scope, receive, noting)
        finally:
            outcome = state.get("outcome") or (ANSWERED if status == 200 else "failed")
            self.metrics.request(FACES[scope["path"]], outcome, time.perf_counter() - started)
