"""Who samples what is recorded: the model that is trained, or an inference server that is handed each new version.

The server only samples. Old and reference log-probabilities, values and updates stay with the model here, and replay
parity says how far the server's log-probabilities are from them.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from agents.call import Policy
from agents.errors import ConfigError
from agents.model import SharedModel
from agents.model_text import TextSide
from training.adapter import START, TRAINED

if TYPE_CHECKING:
    from agents.remote import RemotePolicy
    from training.session import Session


def reach_server(server: str | None, shared: SharedModel) -> RemotePolicy | None:
    """Return the policy on the server that runs the model; None where none is named.

    Raises:
        ConfigError: The address cannot be used, or the server's log-probabilities are not those of its sampling.
        ServerError: It does not answer.
    """
    if server is None:
        return None
    from agents.remote import RemotePolicy
    from agents.remote_reach import reach

    remote = reach(RemotePolicy, server, TextSide.of(shared), shared.text_digest)
    logprobs = remote.identity["logprobs"]
    if logprobs != "exact":
        raise ConfigError(
            f"the server at {server} reports log-probabilities {logprobs}, which nothing can be trained on; start vLLM "
            "with --logprobs-mode processed_logprobs"
        )
    return remote


def speaker(session: Session) -> Policy:
    """Return who plays recorded and held-out runs; a server has the adapters that are in force then.

    Rank 0 has them loaded before the other ranks ask for them.

    Raises:
        ConfigError: The server loads no adapters while it runs.
        ServerError: It cannot be reached or refuses.
    """
    players, remote = session.players, session.server
    if remote is None:
        return players.shared
    folders = {TRAINED: session.store.path(session.state.version)}
    if session.config.adapter is not None:
        folders[START] = Path(session.config.adapter).expanduser()
    for name in sorted({name for name in players.adapters().values() if name is not None}):
        folder = folders[name]
        session.ranks.first(partial(remote.load_adapter, name, folder))
        if not session.ranks.leads:
            remote.load_adapter(name, folder)
    remote.adapter, remote.version = TRAINED, str(session.state.version)
    return remote
