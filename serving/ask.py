"""`POST /ask`: a question with any option that `graph.invoke` has; the whole result, or its making as events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from graphs.options import Options
from graphs.question import MAX_QUESTION_CHARACTERS
from serving.answers import Answer, or_events
from serving.desk import Desk
from serving.job import Job, watched
from serving.problems import AsciiJSON
from serving.sse import EventStream, encode_event

_QUESTION: dict[str, Any] = {"minLength": 1, "maxLength": MAX_QUESTION_CHARACTERS, "pattern": r"\S"}
"""Told, not checked, by the schema: the graph's own check says better what is wrong."""


class AskBody(Options):
    """A question, and what it may cost."""

    question: str = Field(strict=True, description="What you want to know.", json_schema_extra=_QUESTION)
    stream: bool = Field(False, strict=True, description="Server-sent events instead of one JSON object.")


def ask_routes(desk: Desk) -> APIRouter:
    """Return the routes of JADE's own face."""
    routes = APIRouter()

    @routes.post("/ask", summary="Ask a question", responses=or_events(Answer))
    async def ask(body: AskBody, request: Request) -> Response:
        """Answer with `answer`, `evidence`, `citations`, `workflow`, `hops`, costs and the run's id in the ledger.

        With `stream`, the events are `run`, `update` (what a node changed), `token` (a piece of the answer), and
        `result` or `error` last.
        """
        given = body.model_dump(exclude_unset=True, exclude={"question", "stream"})
        job = desk.accept(body.question, given, stream=body.stream)
        async with watched(job, request.receive):
            if not body.stream:
                return AsciiJSON(await job.result())
            await job.begun()
        return EventStream(job, _events(job), "error")

    return routes


async def _events(job: Job) -> AsyncIterator[bytes]:
    """Yield a job's events, encoded; a bare value stands in an object under the event's name."""
    async for name, data in job.events():
        yield encode_event(data if isinstance(data, dict) else {name: data}, name)
