"""What a client is told instead of an answer: one shape for every door, that of OpenAI's error objects.

Nothing of the server's inside is told: a failure that the client cannot mend is named by its run and stands in the
server's log.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from agents.errors import ConfigError, PromptError
from graphs.options import Options

KINDS: Mapping[str, tuple[int, str]] = {
    "invalid": (422, "invalid_request_error"),
    "unauthorized": (401, "authentication_error"),
    "not_found": (404, "invalid_request_error"),
    "too_large": (413, "invalid_request_error"),
    "too_slow": (408, "invalid_request_error"),
    "busy": (429, "rate_limit_error"),
    "draining": (503, "server_error"),
    "timeout": (504, "server_error"),
    "gone": (499, "server_error"),
    "failed": (500, "server_error"),
}
"""Code → (HTTP status, OpenAI's type); the codes are the outcomes that the metrics count, beside "answered"."""
OPENAI = "/v1/"
"""Paths below here speak OpenAI's dialect, in which an invalid request has status 400."""


class Fault(BaseModel):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None = None
    code: str


class FaultBody(BaseModel):
    """The body of every response that is no answer."""

    error: Fault


class Problem(Exception):
    """Why a request gets no answer.

    Attributes:
        code: One of `KINDS`.
        message: One or two sentences for the client.
        headers: Sent along, such as Retry-After.
        status: HTTP status.
        param: The part of the request that is wrong, where one is.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        headers: Mapping[str, str] | None = None,
        status: int | None = None,
        param: str | None = None,
    ) -> None:
        """Take the status from `KINDS` unless another is given."""
        super().__init__(message)
        self.code, self.message, self.param = code, message, param
        self.headers = dict(headers or {})
        self.status = status or KINDS[code][0]

    def body(self) -> dict[str, Any]:
        """Return OpenAI's error object."""
        kind = KINDS[self.code][1]
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class AsciiJSON(JSONResponse):
    """JSON in ASCII: a lone surrogate that a client sent and an error quotes cannot break the response."""

    def render(self, content: Any) -> bytes:
        """Return the encoded body."""
        return json.dumps(content, separators=(",", ":")).encode("ascii")


def respond(problem: Problem, scope: Scope) -> AsciiJSON:
    """Return the response to a request, and note its outcome for the metrics."""
    note_outcome(scope, problem.code)
    openai = str(scope.get("path", "")).startswith(OPENAI)
    status = 400 if problem.status == 422 and openai else problem.status
    return AsciiJSON(problem.body(), status_code=status, headers=problem.headers)


async def refuse(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request that goes no further."""
    await respond(problem, scope)(scope, receive, send)


def note_outcome(scope: Scope, code: str) -> None:
    """Remember how a request ended; the counting middleware reads it."""
    scope.setdefault("state", {})["outcome"] = code


def documented() -> dict[int | str, dict[str, Any]]:
    """Return what /openapi.json says of the responses that are no answer."""
    statuses = {status: code for code, (status, _) in KINDS.items() if code != "gone"}
    return {
        status: {"model": FaultBody, "description": code.replace("_", " ")}
        for status, code in {400: "invalid", 403: "unauthorized", **statuses}.items()
    }


def as_problem(error: BaseException, run: str | None = None) -> Problem:
    """Return what a client is told about an error of its run."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, TimeoutError):
        return Problem("timeout", f"{error or 'it took too long'}; ask something smaller, or set budgets")
    if isinstance(error, ConfigError | PromptError):
        return Problem("invalid", str(error))
    if isinstance(error, asyncio.CancelledError):
        return Problem("draining", "the server stops")
    named = f"; run {run}" if run else ""
    return Problem("failed", f"the run failed, and the server's log says why{named}")


def as_invalid(error: RequestValidationError) -> Problem:
    """Return what is wrong with a body, by name."""
    problems = error.errors()
    return Problem("invalid", "; ".join(map(_explain, problems)), param=_place(problems[0]) or None)


def _place(problem: Mapping[str, Any]) -> str:
    return ".".join(str(part) for part in problem["loc"][1:])


def _explain(problem: Mapping[str, Any]) -> str:
    """Return one fault in words: what was given, and what is allowed."""
    name = _place(problem)
    if problem["type"] == "json_invalid":
        return f"the body is not JSON: {problem.get('ctx', {}).get('error', 'malformed')} at character {name}"
    if not name:
        return "the body is missing or no JSON object: send one, with Content-Type: application/json"
    if problem["type"] == "missing":
        return f"{name} is missing"
    if problem["type"] == "extra_forbidden":
        return f"unknown option {name!r}; allowed: {', '.join(Options.model_fields)}"
    last = str(problem["loc"][-1])
    hint = f". {Options.model_fields[last].description}" if last in Options.model_fields else ""
    return f"{name}={problem.get('input')!r:.80}: {problem['msg']}{hint}"
