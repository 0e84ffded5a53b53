"""Load what an evaluation asks with: the base model, a second one where systems speak of it, and the indexes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from evaluation.evaluate_config import EvalConfig
from evaluation.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from agents.model import SharedModel
    from agents.passage import Retriever
    from evaluation.readiness import Asked
    from evaluation.served import ServedModel

_log = logging.getLogger("jade.evaluate")


def load_model(config: EvalConfig) -> SharedModel | ServedModel:
    """Load the base model, or reach the server that runs it.

    Raises:
        ConfigError, SetupError: It cannot be loaded.
        ServerError: The server does not answer.
    """
    if config.server is None:
        return load_base(config, config.model)
    from agents.remote_reach import reach
    from evaluation.served import ServedModel

    served = reach(ServedModel, config.server, config.model)
    facts = served.facts
    _log.info("asking %s at %s, %d tokens a request", facts.model, config.server, facts.context_length)
    return served


def load_other(config: EvalConfig) -> SharedModel | None:
    """Load the second base model, if there is one.

    Raises:
        ConfigError, SetupError: It cannot be loaded.
    """
    return None if config.other is None else load_base(config, config.other)


def load_base(config: EvalConfig, model: str | None) -> SharedModel:
    """Load a base model here: a folder or hub id, None = the embedded one.

    Raises:
        ConfigError, SetupError: It cannot be loaded.
    """
    from agents.model import SharedModel

    def tell(line: str) -> None:
        _log.info("%s", line)

    return SharedModel.load(model, dtype=config.dtype, device=config.device, threads=config.threads, progress=tell)


def open_retrievers(config: EvalConfig, sets: Sequence[Asked], ranks: Ranks = ALONE) -> dict[str, Retriever]:
    """Open each collection once, all with one embedder; return set → retriever.

    The first rank does so before the others: the starter corpus may have to be built.

    Raises:
        RetrieverError: An index cannot answer, or was built with another embedder.
    """
    opened: dict[str, Retriever] = {}
    ranks.first(lambda: opened.update(_open(config, sets)))
    return opened or _open(config, sets)


def _open(config: EvalConfig, sets: Sequence[Asked]) -> dict[str, Retriever]:
    from agents.embedder import open_embedder
    from agents.retriever import open_retriever

    def tell(line: str, done: int = 0, total: int = 0) -> None:
        _log.info("%s", f"{line} {done}/{total}" if total else line)

    embedder = open_embedder(config.embedder, tell)
    opened: dict[str, Retriever] = {}
    for asked in sets:
        if asked.collection not in opened:
            opened[asked.collection] = open_retriever(
                asked.collection,
                mode=config.retriever,  # type: ignore[arg-type]
                k=config.top_k,
                embedder=embedder,
                progress=tell,
            )
    return {asked.name: opened[asked.collection] for asked in sets}
