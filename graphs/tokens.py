"""The final answer, streamed as it grows: custom stream events `{"token": text}`, from however deep they come.

LangGraph drops the custom events of subgraphs unless asked for `subgraphs`; so it is asked for them, and all else
that subgraphs stream is dropped here.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from langgraph.config import get_stream_writer

from agents.role import unquote

TOKEN = "token"


def token_events(stop: str | None) -> Callable[[str], None]:
    """Return a listener that writes the text inside the role's tag to the custom stream as it grows.

    The batcher's thread calls it, so it carries the node's context along; a reader who went away must not harm
    the other rows of a batch.

    Args:
        stop: The role's closing tag, or None where all text is the answer.
    """
    write, context = get_stream_writer(), contextvars.copy_context()
    opening = stop.replace("</", "<") if stop else ""
    sent = 0

    def listen(text: str) -> None:
        nonlocal sent
        start = text.find(opening)
        if start < 0:
            return
        inner = text[start + len(opening) :]
        if stop:
            inner = unquote(inner.split("<", 1)[0])
        if len(inner) > sent:
            with suppress(RuntimeError):  # the reader's event loop is closed
                context.run(write, {TOKEN: inner[sent:]})
            sent = len(inner)

    return listen


def stream_modes(kwargs: Mapping[str, Any]) -> Sequence[str]:
    """Return the stream modes among the keyword arguments of `stream`."""
    modes = kwargs.get("stream_mode") or ()
    return [modes] if isinstance(modes, str) else list(modes)


def with_tokens(kwargs: dict[str, Any]) -> tuple[Callable[[Any], list[Any]], dict[str, Any]]:
    """Let the final answer's tokens through as if the outermost graph had written them.

    Returns:
        A filter (a chunk → the chunks that the user gets), and the keyword arguments for LangGraph.
    """
    if "custom" not in stream_modes(kwargs) or kwargs.get("subgraphs"):
        return lambda chunk: [chunk], kwargs
    tagged, several = kwargs.get("version") == "v2", isinstance(kwargs["stream_mode"], list)

    def keep(chunk: Any) -> list[Any]:
        namespace, payload = (chunk["ns"], chunk["data"]) if tagged else (chunk[0], chunk[-1])
        if namespace and not (isinstance(payload, dict) and payload.keys() == {TOKEN}):
            return []
        if tagged:
            return [{**chunk, "ns": ()}]
        return [tuple(chunk[1:]) if several else payload]

    return keep, {**kwargs, "subgraphs": True}
