"""OpenAI's chat completions, so that any chat client can ask JADE.

The last user message is the question. Earlier turns and system messages are left out: a run answers one question
that stands for itself, as in training, and old answers in it would also become search words. How many messages were
left out stands in the response, beside run, workflow and citations, under `jade`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from graphs.options import Options
from serving.answers import Completion, Model, Models, or_events
from serving.desk import Desk
from serving.job import Job, watched
from serving.problems import AsciiJSON, Problem
from serving.sse import EventStream, encode_event

MOST_NEW_TOKENS = 2048
"""What `max_tokens` is cut to: chat clients like to ask for more than any role may say."""
DONE = b"data: [DONE]\n\n"
Result = Mapping[str, Any]
_ROLES: dict[str, Any] = {"enum": ["user", "assistant", "system", "developer", "tool", "function"]}
"""Told by the schema, as the kinds of parts are, and not checked: what is no question is left out, whatever it is."""


class Part(BaseModel):
    """A piece of a message."""

    type: str = Field(json_schema_extra={"enum": ["text", "image_url", "input_audio", "file"]})
    text: str | None = None


class ChatMessage(BaseModel):
    """One turn."""

    role: str = Field(json_schema_extra=_ROLES)
    content: str | list[Part] | None = Field(None, json_schema_extra={"examples": ["Who wrote Dune?"]})

    def text(self) -> str:
        """Return the turn's text.

        Raises:
            Problem: It holds something that is no text.
        """
        if not isinstance(self.content, list):
            return self.content or ""
        others = sorted({part.type for part in self.content if part.type != "text"})
        if others:
            raise Problem(
                "invalid", f"the question holds {', '.join(others)}; only text can be asked", param="messages"
            )
        return "\n".join(part.text or "" for part in self.content)


_ASKED: dict[str, Any] = {
    "type": "object",
    "properties": {"role": {"const": "user"}, "content": {"type": "string", "pattern": r"\S"}},
    "required": ["role", "content"],
}
"""A message that asks; the schema tells that one is needed, and `ChatBody.question` says better which is missing."""


class StreamOptions(BaseModel):
    """What a stream tells beside the text."""

    include_usage: bool = False


class ChatBody(BaseModel):
    """A chat request; fields of OpenAI's that mean nothing here (top_p, tools, user, …) are ignored."""

    messages: list[ChatMessage] = Field(min_length=1, json_schema_extra={"contains": _ASKED})
    model: str | None = Field(None, description="Ignored: a server has one graph, whose name the response tells.")
    stream: bool = Field(False, strict=True)
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = Field(None, description="Only one answer is given.")
    temperature: float | None = Field(None, description="As in the options; empty = the server's own, greedy.")
    seed: int | None = None
    max_tokens: int | None = Field(None, ge=1, description="Cap on every role's own token budget.")
    max_completion_tokens: int | None = Field(None, ge=1, description="The same under its newer name.")
    jade: Options | None = Field(None, description="Any option of /ask, such as workflow or max_retrievals.")

    def question(self) -> str:
        """Return the last user message.

        Raises:
            Problem: There is none, or it is no text.
        """
        asked = [message for message in self.messages if message.role == "user"]
        if not asked:
            raise Problem("invalid", "there is no message of role 'user', whose text is the question", param="messages")
        return asked[-1].text()

    def options(self) -> dict[str, Any]:
        """Return the options that the client named, in JADE's words."""
        tokens = self.max_completion_tokens or self.max_tokens
        given = {
            "temperature": self.temperature,
            "seed": self.seed,
            "max_new_tokens": None if tokens is None else min(tokens, MOST_NEW_TOKENS),
        }
        named = {name: value for name, value in given.items() if value is not None}
        return {**named, **(self.jade.model_dump(exclude_unset=True) if self.jade else {})}


def chat_routes(desk: Desk) -> APIRouter:
    """Return the routes of the OpenAI-compatible face."""
    routes, name, since = APIRouter(prefix="/v1"), desk.config.name, int(time.time())
    model = {"id": name, "object": "model", "created": since, "owned_by": "jade"}

    @routes.get("/models", summary="List the one graph that is served", response_model=Models)
    async def models() -> Response:
        return AsciiJSON({"object": "list", "data": [model]})

    @routes.get("/models/{identifier:path}", summary="Describe it", response_model=Model)
    async def one_model(identifier: str) -> Response:
        if identifier != name:
            raise Problem("not_found", f"there is no model {identifier!r:.80}; there is {name!r}", param="model")
        return AsciiJSON(model)

    @routes.post("/chat/completions", summary="Ask as in a chat", responses=or_events(Completion))
    async def chat(body: ChatBody, request: Request) -> Response:
        """Answer the last user message; the others are ignored."""
        job = desk.accept(body.question(), body.options(), stream=body.stream)
        head = {"id": f"chatcmpl-{job.run}", "created": int(time.time()), "model": name}
        ignored = len(body.messages) - 1
        async with watched(job, request.receive):
            if not body.stream:
                return AsciiJSON(_completion(await job.result(), head, ignored))
            await job.begun()
        usage = body.stream_options is not None and body.stream_options.include_usage
        return EventStream(job, _chunks(job, head, ignored, usage))

    return routes


def _completion(result: Result, head: Result, ignored: int) -> dict[str, Any]:
    """Return a whole chat completion."""
    message = {"role": "assistant", "content": result["answer"], "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(result)}
    return {
        **head,
        "object": "chat.completion",
        "choices": [choice],
        "usage": _usage(result),
        "jade": _own(result, ignored),
    }


async def _chunks(job: Job, head: Result, ignored: int, usage: bool) -> AsyncIterator[bytes]:
    """Yield a chat completion in chunks: the role, the answer's tokens, how it ended, and usage where it is wanted."""

    def chunk(choices: Sequence[Mapping[str, Any]], **more: Any) -> bytes:
        return encode_event({**head, "object": "chat.completion.chunk", "choices": choices, **more})

    def delta(text: Mapping[str, Any], finish: str | None = None, **more: Any) -> bytes:
        return chunk([{"index": 0, "delta": text, "logprobs": None, "finish_reason": finish}], **more)

    yield delta({"role": "assistant", "content": ""})
    said = ""
    async for name, data in job.events():
        if name == "token":
            piece = data if said else data.lstrip()
            said += piece
            if piece:
                yield delta({"content": piece})
        elif name == "result":
            rest = unsaid(said, data["answer"])
            if rest:
                yield delta({"content": rest})
            yield delta({}, _finish(data), jade=_own(data, ignored))
            if usage:
                yield chunk([], usage=_usage(data))
            yield DONE


def unsaid(said: str, answer: str) -> str:
    """Return what is still to be sent of an answer after its tokens were streamed.

    A graph that streams nothing leaves the whole answer; one whose answer is not what it streamed (a fallback cut it)
    leaves nothing, since what was sent cannot be taken back: `jade.answer` of the last chunk has it then.
    """
    if answer.startswith(said):
        return answer[len(said) :]
    return ""


def _finish(result: Result) -> str:
    return "length" if result["outcome"] == "truncated" else "stop"


def _usage(result: Result) -> dict[str, int]:
    """Return the tokens of all calls of the run, the planner's and the executors' alike."""
    prompt, generated = result["prompt_tokens"], result["generated_tokens"]
    return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}


def _own(result: Result, ignored: int) -> dict[str, Any]:
    """Return what OpenAI has no field for; clients ignore what they do not know."""
    keys = ("answer", "run", "workflow", "hops", "evidence", "citations", "turns", "retrievals", "model_calls")
    return {**{key: result[key] for key in keys if key in result}, "ignored_messages": ignored}
