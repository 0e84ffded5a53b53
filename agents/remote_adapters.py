"""The adapters that a server loaded through us: it forgets them when it is started anew, and is told again."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agents.adapters import content_hash
from agents.errors import ConfigError, ServerError
from agents.remote_ask import Asker
from agents.remote_http import Connection
from agents.remote_wire import Dialect

_log = logging.getLogger("jade.remote")


@dataclass(frozen=True)
class Loaded:
    """One adapter that the server was told to load."""

    speaker: str
    """The server's name of it."""
    content: str
    """Hash of its weights and configuration."""
    folder: Path


class Adapters:
    """What one server loaded for one policy, by our names. Thread-safe."""

    def __init__(self, connection: Connection, asker: Asker, dialect: Callable[[], Dialect]) -> None:
        """Know of none.

        Args:
            connection: To the server.
            asker: Who asks it.
            dialect: Returns how it is spoken to.
        """
        self._connection, self._asker, self._dialect = connection, asker, dialect
        self._loading, self._restoring = threading.Lock(), asyncio.Lock()
        self._loaded: dict[str, Loaded] = {}

    @property
    def names(self) -> frozenset[str]:
        """Return our names of them."""
        return frozenset(self._loaded)

    def get(self, name: str | None) -> Loaded | None:
        """Return the adapter of a name; None where none was loaded under it."""
        return None if name is None else self._loaded.get(name)

    def load(self, name: str, folder: Path) -> None:
        """Have an adapter folder loaded under a name, and forget the one that had it.

        Raises:
            ConfigError: The folder is incomplete, or the server loads no adapters.
            ServerError: The server cannot be reached, or refuses.
        """
        dialect = self._dialect()
        with self._loading:
            before, content = self._loaded.get(name), content_hash(folder)
            speaker = self._asker.insist(
                f"loading the adapter {name!r}", lambda: dialect.load(self._connection, name, folder)
            )
            self._loaded = {**self._loaded, name: Loaded(speaker, content, folder)}
            if before is not None and before.speaker != speaker:
                with suppress(ServerError):  # it may have been started anew, and know nothing of what it had loaded
                    self._asker.insist(
                        f"unloading the adapter {name!r}", lambda: dialect.unload(self._connection, before.speaker)
                    )

    async def restore(self, name: str | None) -> bool:
        """Have an adapter loaded again; for one event loop, where those who miss it at the same time load it once.

        Returns:
            False where no such adapter was loaded through us.

        Raises:
            ServerError: Its folder holds another one by now, or the server refuses.
            Transient: The server may load it later.
        """
        async with self._restoring:
            one = self.get(name)
            if name is None or one is None:
                return False
            if await asyncio.to_thread(_content, one.folder) != one.content:
                raise ServerError(
                    f"the server at {self._connection.address} has forgotten the adapter {name!r}, and {one.folder} no "
                    "longer holds it; call load_adapter with the one that shall speak"
                )
            if await self._dialect().load(self._connection, name, one.folder) != one.speaker:
                raise ServerError(f"{one.folder} was overwritten while the adapter {name!r} was loaded again")
            _log.warning("%s had forgotten the adapter %r: loaded it again", self._connection.address, name)
        return True


def _content(folder: Path) -> str:
    try:
        return content_hash(folder)
    except ConfigError:
        return ""
