"""The one door through which a node speaks: render, sample, parse, fall back, record.

`act` is all that a graph needs to become trainable. It is the only place in the program that catches
`FormatError`; what the violation costs is decided later, in `training.reward`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from langchain_core.runnables import RunnableConfig

from agents.call import Call, Completion, Policy, Prompt, Request
from agents.errors import FormatError, PromptError
from agents.role import Inputs, Prompts, Role
from agents.routed import speaker_of
from graphs.run import Run, current_run
from graphs.tokens import token_events
from graphs.tracker import Place, node_path

V = TypeVar("V")


@dataclass(frozen=True)
class Spoken:
    """What a node learns from one call."""

    value: Any
    """The parsed value, or the fallback's."""
    call: str
    """Id of the call in the run's journal."""
    valid: bool
    """Whether the response obeyed the role's grammar."""
    dropped: int
    """Whole documents dropped so that the prompt fits."""


def act(role: Role[V], inputs: Inputs, config: RunnableConfig, *, path: str | None = None) -> V:
    """Let `role` speak and return the parsed value (or its fallback's); blocking.

    Args:
        role: Who speaks.
        inputs: What the role sees, as its `user` function expects it.
        config: The node's own config, which LangGraph passes to nodes that declare it.
        path: Stable name of this call's place; derived from the graph when absent.

    Raises:
        ConfigError: Called outside a recorded graph, or in an async node while runs are collected.
        PromptError: The prompt cannot be made to fit the context.
    """
    value: V = speak(role, inputs, config, path=path).value
    return value


async def aact(role: Role[V], inputs: Inputs, config: RunnableConfig, *, path: str | None = None) -> V:
    """Let `role` speak without blocking the event loop; see `act`."""
    value: V = (await aspeak(role, inputs, config, path=path)).value
    return value


def speak(
    role: Role[Any], inputs: Inputs, config: RunnableConfig, *, path: str | None = None, final: bool = False
) -> Spoken:
    """Do what `act` does and return the call's id and validity as well.

    Args:
        role: Who speaks.
        inputs: What the role sees.
        config: The node's own config.
        path: Stable name of this call's place.
        final: Whether this is the answer that the user waits for; streams it as {"token": text} events.
    """
    current_run(config).refuse_to_block("act", "aact")
    pending = _prepare(role, inputs, config, path, final)
    future = pending.run.recorder.batcher.submit(pending.run.id, pending.request)
    spoken = _settle(pending, future.result())
    pending.run.checkpoint()
    return spoken


async def aspeak(
    role: Role[Any], inputs: Inputs, config: RunnableConfig, *, path: str | None = None, final: bool = False
) -> Spoken:
    """Do what `speak` does without blocking the event loop."""
    pending = _prepare(role, inputs, config, path, final)
    future = pending.run.recorder.batcher.submit(pending.run.id, pending.request)
    spoken = _settle(pending, await asyncio.wrap_future(future))
    if pending.run.thread is not None:
        await asyncio.to_thread(pending.run.checkpoint)
    return spoken


@dataclass(frozen=True)
class _Pending:
    """A call that was asked for and not answered yet."""

    run: Run
    role: Role[Any]
    inputs: Inputs
    request: Request
    path: str
    identifier: str
    place: Place
    dropped: int
    asked: float


def _prepare(role: Role[Any], inputs: Inputs, config: RunnableConfig, path: str | None, final: bool) -> _Pending:
    run = current_run(config)
    place = run.tracker.place(config)
    path = path or node_path(place)
    index = run.journal.begin(path, place)
    options, policy = run.options, speaker_of(run.recorder.batcher.policy, role.name)
    budget = min(role.max_new_tokens, options.max_new_tokens or role.max_new_tokens)
    prompt, inputs, dropped = fit(role, inputs, run.recorder.prompts, policy, budget)
    if dropped:
        run.warn(f"{path}: {dropped} document(s) dropped from the tail so that the prompt fits")
    request = Request(
        key=(options.seed, run.question, path, index),
        role=role.name,
        prompt=prompt,
        max_new_tokens=budget,
        temperature=options.tau,
        stop=role.stop,
        constraint=role.constraint(inputs) if options.decoding == "constrained" else None,
        adapter=run.recorder.adapter_of(role.name),
        on_text=token_events(role.stop) if final and run.streaming else None,
    )
    identifier = path if index == 0 else f"{path}#{index}"
    return _Pending(run, role, inputs, request, path, identifier, place, dropped, time.perf_counter())


def fit(role: Role[Any], inputs: Inputs, prompts: Prompts, policy: Policy, budget: int) -> tuple[Prompt, Inputs, int]:
    """Render a prompt that leaves `budget` tokens of context, dropping whole documents from the tail.

    Returns:
        The prompt, the inputs that it shows, and how many documents were dropped.

    Raises:
        PromptError: It does not fit even without documents.
    """
    limit, dropped = policy.context_length - budget, 0
    while True:
        prompt = policy.encode(role.messages(inputs, prompts))
        if len(prompt.ids) <= limit:
            return prompt, inputs, dropped
        smaller = role.shrink(inputs)
        if smaller is None:
            raise PromptError(
                f"the prompt of role {role.name} has {len(prompt.ids)} tokens and no document left to drop; "
                f"the context of {policy.context_length} tokens leaves {limit} beside an answer of {budget}; "
                "shorten the question"
            )
        inputs, dropped = smaller, dropped + 1


def _settle(pending: _Pending, completion: Completion) -> Spoken:
    """Parse the response, fall back where it is invalid, and write the call into the journal."""
    role, run, request = pending.role, pending.run, pending.request
    error: str | None = None
    try:
        if completion.truncated:
            raise FormatError("truncated", completion.text)
        value = role.parse(completion.text, pending.inputs)
    except FormatError as problem:
        error = problem.reason
        value = role.fallback(pending.inputs, completion.text)
    waited = time.perf_counter() - pending.asked - completion.prefill_seconds - completion.decode_seconds
    call = Call(
        id=pending.identifier,
        role=role.name,
        path=pending.path,
        parents=(),
        prompt_ids=request.prompt.ids,
        response_ids=completion.response_ids,
        logprobs=completion.logprobs,
        mask=completion.mask,
        temperature=request.temperature or 1.0,
        greedy=request.temperature == 0.0,
        text=completion.text,
        value=to_json(value),
        format_error=error,
        truncated=completion.truncated,
        constraint=request.constraint,
        adapter=request.adapter,
        dropped_documents=pending.dropped,
        head=request.prompt.head,
        batch=completion.batch,
        seconds={
            "wait": round(max(0.0, waited), 6),
            "prefill": round(completion.prefill_seconds, 6),
            "decode": round(completion.decode_seconds, 6),
        },
    )
    run.spoke(role)
    run.journal.add(call, pending.place)
    return Spoken(value, pending.identifier, error is None, pending.dropped)


def to_json(value: Any) -> Any:
    """Return `value` as plain JSON: containers recursively, anything unknown as its string."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_json(item) for item in value]
    return str(value)
