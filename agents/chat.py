"""LangChain's face of the shared model: a chat model over any `Policy`, for graphs written against langchain-core.

Such calls are plain generations: they are not recorded. Roles speak through `graphs.act`.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import PrivateAttr

from agents.call import Completion, Message, Request
from agents.errors import ConfigError

_ROLES = {"human": "user", "ai": "assistant", "system": "system"}


class SharedChatModel(BaseChatModel):
    """A LangChain chat model that speaks through a policy.

    Attributes:
        policy: Anything that implements `agents.call.Policy`.
        temperature: τ; 0 = greedy.
        max_tokens: Budget of response tokens.
        adapter: Name of a loaded adapter; None = the base.
        seed: Key of all random numbers; equal seeds and equal call order give equal text.
    """

    policy: Any
    temperature: float = 0.0
    max_tokens: int = 256
    adapter: str | None = None
    seed: int = 0
    _calls: Iterator[int] = PrivateAttr(default_factory=itertools.count)

    @property
    def _llm_type(self) -> str:
        return "jade-shared-model"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {**self.policy.identity, "temperature": self.temperature, "max_tokens": self.max_tokens}

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        completion = self.policy.sample([self._request(messages, stop, kwargs)])[0]
        text, reason = _outcome(completion, completion.text, stop)
        message = AIMessage(content=text, response_metadata={"finish_reason": reason})
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        texts: queue.SimpleQueue[str | Completion | BaseException] = queue.SimpleQueue()
        request = self._request(messages, stop, kwargs, texts)
        threading.Thread(target=self._speak, args=(request, texts), daemon=True).start()
        sent = ""
        while True:
            item = texts.get()
            if isinstance(item, BaseException):
                raise item
            if isinstance(item, Completion):
                text, reason = _outcome(item, item.text, stop)
                metadata = {"finish_reason": reason}
                yield _chunk(text[len(sent) :], run_manager, metadata)
                return
            text = _sure(item, stop or [])
            if len(text) > len(sent):
                yield _chunk(text[len(sent) :], run_manager)
                sent = text

    def _speak(self, request: Request, texts: queue.SimpleQueue[str | Completion | BaseException]) -> None:
        try:
            texts.put(self.policy.sample([request])[0])
        except BaseException as error:  # handed to the reader, who raises it
            texts.put(error)

    def _request(
        self,
        messages: Sequence[BaseMessage],
        stop: Sequence[str] | None,
        options: dict[str, Any],
        texts: queue.SimpleQueue[Any] | None = None,
    ) -> Request:
        unknown = set(options) - {"temperature", "max_tokens", "adapter", "seed"}
        if unknown:
            raise ConfigError(
                f"unknown option {', '.join(sorted(unknown))}; allowed: temperature, max_tokens, adapter, seed, stop"
            )
        prompt = self.policy.encode([_turn(message) for message in messages])
        return Request(
            key=(options.get("seed", self.seed), "chat", "chat", next(self._calls)),
            role="chat",
            prompt=prompt,
            max_new_tokens=options.get("max_tokens", self.max_tokens),
            temperature=options.get("temperature", self.temperature),
            stop=stop[0] if stop and len(stop) == 1 else None,
            adapter=options.get("adapter", self.adapter),
            on_text=None if texts is None else texts.put,
        )


def _turn(message: BaseMessage) -> Message:
    if message.type not in _ROLES:
        raise ConfigError(f"a {message.type} message cannot be shown to this model; allowed: system, human, ai")
    if not isinstance(message.content, str):
        raise ConfigError("message content must be text; images and other parts cannot be shown to this model")
    return Message(role=_ROLES[message.type], content=message.content)


def _outcome(completion: Completion, text: str, stop: Sequence[str] | None) -> tuple[str, str]:
    """Return the text without the stop string, as LangChain wants it, and why it ended."""
    ends = [place for place in (text.find(word) for word in stop or ()) if place >= 0]
    reason = "length" if completion.truncated and not ends else "stop"
    return (text[: min(ends)] if ends else text), reason


def _sure(text: str, stop: Sequence[str]) -> str:
    """Return the part of a growing text that can no longer turn out to be (the start of) a stop string."""
    ends = [place for place in (text.find(word) for word in stop) if place >= 0]
    text = text[: min(ends)] if ends else text
    held = max((n for word in stop for n in range(1, len(word)) if text.endswith(word[:n])), default=0)
    return text[: len(text) - held]


def _chunk(
    text: str, run_manager: CallbackManagerForLLMRun | None, metadata: dict[str, Any] | None = None
) -> ChatGenerationChunk:
    chunk = ChatGenerationChunk(message=AIMessageChunk(content=text, response_metadata=metadata or {}))
    if run_manager is not None and text:
        run_manager.on_llm_new_token(text, chunk=chunk)
    return chunk
