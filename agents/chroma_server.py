"""A client of a Chroma server: chromadb's own, with a limit to the time of every answer and a name to every failure.

chromadb by itself waits for ever, and raises bare exceptions where something between it and Chroma answers.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import httpx
from chromadb.api.client import Client
from chromadb.api.fastapi import FastAPI
from chromadb.api.shared_system_client import SharedSystemClient
from chromadb.config import Settings

from agents.chroma_failures import told
from agents.chroma_place import ADDRESS, Server
from agents.errors import RetrieverError

FIRST_SECONDS = 10.0
"""Longest wait for a server's first answer: it has nothing to do for that one."""
CONNECT_SECONDS = 5.0
"""Longest wait for a connection."""
_SHOWN = 200
"""Characters shown of what somebody else than Chroma answered."""


def connect(server: Server) -> ServerClient:
    """Return a client of a server that has answered.

    Raises:
        RetrieverError: It does not, or not as Chroma does.
    """
    try:
        return ServerClient(server)
    except Exception as error:  # refused, timed out, another service, a proxy that wants a token
        why = told(error) if isinstance(error, httpx.HTTPError) else error
        raise RetrieverError(
            f"no Chroma server can be used at {server} ({why}); start one: chroma run --path FOLDER --port "
            f"{server.port}, or correct {ADDRESS} (unset: the index in JADE's home)"
        ) from error


class ServerClient(Client):
    """chromadb's client of a server, whose answers have `Server.seconds` to come, each piece of them."""

    def __init__(self, server: Server) -> None:
        """Connect and ask who one is, which shows that Chroma is there and takes the token.

        chromadb's constructor is left out: it asks the server before anybody could set a limit.

        Raises:
            httpx.HTTPError: The server does not answer, or not as Chroma does.
        """
        settings = Settings(
            chroma_api_impl="chromadb.api.fastapi.FastAPI",
            chroma_server_host=server.host,
            chroma_server_http_port=server.port,
            chroma_server_ssl_enabled=server.ssl,
            chroma_server_headers=dict(server.headers),
            anonymized_telemetry=False,
        )
        SharedSystemClient.__init__(self, settings)
        self._server = api = self._system.instance(FastAPI)
        api._session.event_hooks = {"response": [_check]}
        try:
            api._session.timeout = _limits(min(server.seconds, FIRST_SECONDS))
            api.get_user_identity()
            api._session.timeout = _limits(server.seconds)
        except BaseException:
            api._session.close()
            SharedSystemClient._release_system(self._identifier)
            raise


def _limits(seconds: float) -> httpx.Timeout:
    return httpx.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))


def _check(response: httpx.Response) -> None:
    """Let pass what chromadb can read, and the one refusal that it names: what is asked for is not there.

    Raises:
        httpx.HTTPStatusError: Any other refusal, Chroma's own or somebody else's.
        httpx.DecodingError: An answer that is no JSON.
    """
    if response.is_success:
        kind = response.headers.get("content-type", "none")
        if "json" not in kind:
            raise httpx.DecodingError(f"an answer of content type {kind}", request=response.request)
        return
    text = response.read().decode(errors="replace")
    said: Any = None
    with suppress(ValueError):
        said = json.loads(text)
    if isinstance(said, dict) and "error" in said:
        if said["error"] == "NotFoundError":
            return
        text = ": ".join(str(said[key]) for key in ("error", "message") if said.get(key))
    shown = " ".join(text.split())[:_SHOWN]
    reason = f"{response.status_code} {response.reason_phrase}{', ' * bool(shown)}{shown}"
    raise httpx.HTTPStatusError(reason, request=response.request, response=response)
