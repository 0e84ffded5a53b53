"""What answers look like, for /openapi.json: they are described here, and made where they are known.

Nothing is checked against these models while serving; `python -m fuzz.http` compares what is answered with them.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from graphs.trajectory import Outcome


class Answer(BaseModel):
    """The whole result of a run; a graph adds what its state holds, such as evidence, citations, workflow, hops."""

    model_config = ConfigDict(extra="allow")

    answer: str
    outcome: Outcome
    run: str | None = Field(description="Id of the run in the ledger; null where nothing is recorded.")
    retrievals: int
    model_calls: int
    prompt_tokens: int
    generated_tokens: int
    warnings: list[str]
    seconds: dict[str, float] = Field(description='Wall seconds: "total" and its parts.')


class Alive(BaseModel):
    """It lives."""

    status: Literal["ok"]
    version: str


class Ready(BaseModel):
    """It takes questions."""

    status: Literal["ready"]
    running: int
    waiting: int


class Model(BaseModel):
    """OpenAI's description of a model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(BaseModel):
    """OpenAI's list of models."""

    object: Literal["list"]
    data: list[Model]


class Message(BaseModel):
    """The answer as a turn of a chat."""

    role: Literal["assistant"]
    content: str
    refusal: None


class Choice(BaseModel):
    """The one choice of a chat completion."""

    index: Literal[0]
    message: Message
    logprobs: None
    finish_reason: Literal["stop", "length"]


class Usage(BaseModel):
    """Tokens of all calls of the run."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(BaseModel):
    """OpenAI's chat completion; `jade` holds what it has no field for."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice] = Field(min_length=1, max_length=1)
    usage: Usage
    jade: dict[str, Any]


def or_events(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """Return what /openapi.json says of an answer that comes whole or as server-sent events."""
    return {
        200: {"model": model, "content": {"text/event-stream": {}}, "description": "the answer, whole or as events"}
    }
