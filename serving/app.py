"""The app: a recorded graph and its limits become HTTP routes, for uvicorn or any other ASGI server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from agents.errors import LedgerError
from graphs.app import code_version
from graphs.recorded import RecordedGraph
from serving.answers import Alive, Ready
from serving.ask import ask_routes
from serving.auth import KeyGuard
from serving.body import BodyLimit
from serving.chat import chat_routes
from serving.config import ServeConfig
from serving.desk import Desk, draining
from serving.hosts import LocalOnly
from serving.metrics import Counting, Metrics
from serving.problems import AsciiJSON, Problem, as_invalid, documented, respond

_log = logging.getLogger("jade.serving")


def create_app(graph: RecordedGraph, config: ServeConfig | None = None) -> FastAPI:
    """Return the service around a graph; its `Desk` is `app.state.desk`.

    Args:
        graph: What `load_graph` or `trainable` returned.
        config: Limits and keys; default: loopback, no key.
    """
    config, metrics = config or ServeConfig(), Metrics()
    desk = Desk(graph, config, metrics)
    app = FastAPI(
        title="JADE",
        version=code_version(),
        docs_url=None,  # the pages load scripts from elsewhere; /openapi.json says the same
        redoc_url=None,
        lifespan=_lifespan,
        middleware=[
            Middleware(Counting, metrics=metrics),
            Middleware(LocalOnly, wanted=not config.keys),
            Middleware(KeyGuard, keys=config.keys),
            Middleware(BodyLimit, limit=config.max_body),
        ],
    )
    app.state.desk = desk
    for routes in (ask_routes(desk), chat_routes(desk)):
        app.include_router(routes, responses=documented())
    _add_probes(app, desk)
    _add_handlers(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """At the end, end the ledger's file and force it to disk."""
    yield
    ledger = app.state.desk.graph.recorder.ledger
    if ledger is None or ledger.file is None:
        return
    try:
        await asyncio.to_thread(ledger.seal)
    except LedgerError as error:
        _log.error("%s", error)


def _add_probes(app: FastAPI, desk: Desk) -> None:
    """Add what machines ask: whether it lives, whether it takes questions, how it does."""

    @app.get("/health", summary="Does it live?", response_model=Alive, responses=documented())
    async def health() -> Response:
        return AsciiJSON({"status": "ok", "version": app.version})

    @app.get("/ready", summary="Does it take questions?", response_model=Ready, responses=documented())
    async def ready() -> Response:
        if desk.draining:
            raise draining()
        return AsciiJSON({"status": "ready", "running": desk.running, "waiting": desk.waiting})

    text = {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus' text format"}

    @app.get("/metrics", summary="Prometheus metrics", response_class=Response, responses={**documented(), 200: text})
    async def metrics() -> Response:
        return Response(desk.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _add_handlers(app: FastAPI) -> None:
    """Let every error have one shape, and none a traceback."""

    async def on_problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return respond(error, request.scope)

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return respond(as_invalid(error), request.scope)

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = "not_found" if error.status_code in (404, 405) else "invalid"
        problem = Problem(code, str(error.detail), headers=error.headers, status=error.status_code)
        return respond(problem, request.scope)

    async def on_bug(request: Request, error: Exception) -> Response:
        return respond(Problem("failed", "the server failed, and its log says why"), request.scope)

    handlers: dict[Any, Any] = {
        Problem: on_problem,
        RequestValidationError: on_invalid,
        HTTPException: on_http,
        Exception: on_bug,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
