"""Where systems are asked: one loaded model, its adapters by name, and one graph a topology and set.

Whoever speaks is switched, nothing is loaded twice, and every system searches the same retriever.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.adapters import read_adapter
from agents.batcher import TimedBatcher
from agents.call import Policy
from agents.errors import ConfigError
from agents.named import load_object
from agents.passage import Passage, Retriever
from agents.role import Prompts
from agents.roster import ROLES, prompts_digest, role_digest
from agents.routed import RoutedPolicy
from agents.solo import SOLO
from evaluation.dataset import Example
from evaluation.evaluate_config import EvalConfig
from evaluation.readiness import Asked
from evaluation.systems import System, make_graph
from graphs.app import code_version
from graphs.collection import Timing, collect
from graphs.jade import build_jade
from graphs.ledger import LedgerWriter
from graphs.reader import build_reader
from graphs.recorded import RecordedGraph, trainable
from graphs.solo import build_solo
from graphs.trajectory import Trajectory

if TYPE_CHECKING:
    from agents.model import SharedModel
    from evaluation.served import ServedModel

    Base = SharedModel | ServedModel


class Bench:
    """Asks any system any set; made once an evaluation."""

    def __init__(
        self,
        shared: Base,
        config: EvalConfig,
        retrievers: Mapping[str, Retriever],
        other: SharedModel | None = None,
        suffix: str = "",
        decoding: str = "constrained",
    ) -> None:
        """Take the model and one retriever for each set's name.

        Args:
            shared: The base model.
            config: What is asked how.
            retrievers: Set → retriever.
            other: The second base model, where systems speak of it.
            suffix: Ends the names of ledger files, where several processes record.
            decoding: "free" or "constrained", for every system alike (`evaluation.systems.decoding_of`).
        """
        self.shared, self.config, self.retrievers, self.other = shared, config, retrievers, other
        self.decoding = decoding
        self._suffix = suffix
        self._names: dict[tuple[int, Path], str] = {}
        self._graphs: dict[tuple[str, str], Any] = {}
        self._ledgers: dict[tuple[str, str], LedgerWriter] = {}

    def seat(self, system: System) -> dict[str, str | None]:
        """Let a system's adapters speak; return role name → adapter name.

        Raises:
            ConfigError: An adapter belongs to another base, or to other prompts than those in force.
        """
        named: dict[str, str | None] = {}
        for role, folder in system.folders.items():
            named[role] = None if folder is None else self._load(folder, self._model(system, role))
        models: list[Base] = [self.shared, *([] if self.other is None else [self.other])]
        for model in models:
            mine = [role for role in ("*", *named) if role in named and self._model(system, role) is model]
            first = system.folders[mine[0]] if mine else None
            model.text_digest = prompts_digest(system.prompts)
            model.adapter = named[mine[0]] if mine and (mine[0] == "*" or model is self.other) else None
            model.version = "0" if first is None or model.adapter is None else str(read_adapter(first).version)
        return named

    def _model(self, system: System, role: str) -> Base:
        """Return the model that plays a role."""
        name = role if role in system.folders else "*"
        if name not in system.other:
            return self.shared
        if self.other is None:
            raise ConfigError(f"system {system.label!r} speaks of a second base model, and none was loaded")
        return self.other

    def _models(self, system: System) -> list[Base]:
        """Return the models that play a system."""
        return [self.shared] if not system.other or self.other is None else [self.shared, self.other]

    def speaker(self, system: System, role: str) -> tuple[Base, str | None]:
        """Return the model and the adapter that play a role."""
        named = self.seat(system)
        return self._model(system, role), named.get(role, named.get("*"))

    def policy(self, system: System) -> Policy:
        """Return who answers the system's calls: the shared model, or both by role."""
        models = {role: self._model(system, role) for role in (*ROLES, SOLO.name)}
        routed = {role: model for role, model in models.items() if model is not self.shared}
        return RoutedPolicy(self.shared, routed) if routed else self.shared

    def _load(self, folder: Path, model: Base) -> str:
        path = folder.resolve()
        key = (id(model), path)
        if key not in self._names:
            name = f"adapter-{len(self._names)}"
            model.add_adapter(name, path)
            info = read_adapter(path, base_weights=model.weights)
            model.text_digest = prompts_digest(Prompts("bare" if info.prompts == "bare" else "examples"))
            read_adapter(path, text=model.identity["text"])
            self._names[key] = name
        return self._names[key]

    def graph(self, system: System, asked: Asked) -> RecordedGraph:
        """Return the recorded graph of a system over a set's passages, with its adapters seated."""
        adapters = self.seat(system)
        key = (system.graph or system.kind.replace("forced", "planned"), asked.name)
        if key not in self._graphs:
            self._graphs[key] = self._build(system, asked)
        found = self._graphs[key]
        folder = Path(self.config.output).expanduser() / "ledger" / system.slug
        ledger = self._ledgers.setdefault((system.slug, asked.name), LedgerWriter(folder, asked.name + self._suffix))
        if isinstance(found, RecordedGraph):
            return found.with_recorder(
                batcher=TimedBatcher(self.policy(system)), prompts=system.prompts, adapters=adapters, ledger=ledger
            )
        retriever = self.retrievers[asked.name]
        return trainable(
            found,
            policy=self.policy(system),
            prompts=system.prompts,
            adapters=adapters,
            retriever=retriever,
            ledger=ledger,
        )

    def _build(self, system: System, asked: Asked) -> Any:
        retriever, top_k = self.retrievers[asked.name], self.config.top_k
        if system.graph is not None:
            return own_graph(system.graph, retriever, top_k)
        if system.kind == "oracle":
            return build_reader()
        if system.kind == "solo":
            return build_solo(retriever, top_k=top_k)
        return build_jade(retriever, max_depth=self.config.max_depth, top_k=top_k)

    def options(self, system: System) -> dict[str, Any]:
        """Return the per-call options of a system, all but the seed."""
        forced = {} if system.workflow is None else {"workflow": system.workflow}
        return {**self.config.options(), "decoding": self.decoding, **forced}

    def digest(self, system: System, asked: Asked) -> str:
        """Return the hash of what could change this system's answers on this set, but for what a question is handed."""
        named = {"*": None, **self.seat(system)}
        environment = self.retrievers[asked.name].identity.get("environment", "")
        options = {key: value for key, value in self.options(system).items() if key != "record"}
        parts = {
            "kind": [system.kind, system.graph, _source(system)],
            "speakers": {role: self._model(system, role).policy_hash(name) for role, name in sorted(named.items())},
            "text": self.policy(system).identity["text"],
            "formats": [model.identity["dtype"] for model in self._models(system)],
            "environment": environment,
            "options": options,
            "top_k": self.config.top_k,
            "code": code_version(),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def hashes(self, system: System, sets: Sequence[Asked]) -> dict[str, str]:
        """Return the three hashes under which a system answers; several speakers or indexes with their names."""
        named = self.seat(system) or {"*": None}
        speakers = {role: self._model(system, role).policy_hash(name) for role, name in sorted(named.items())}
        places = {asked.name: self.retrievers[asked.name].identity.get("environment", "") for asked in sets}
        text = self.policy(system).identity["text"]
        return {"text": text, "policy": _joined(speakers), "environment": _joined(places)}

    def ask(
        self,
        system: System,
        asked: Asked,
        examples: Sequence[Example],
        seed: int,
        on_done: Callable[[Trajectory], None],
        timing: Timing | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        """Run a system on some questions of a set, or on a share of them; each run is handed on as it ends.

        Raises:
            Exception: The first run's error, when every run failed.
        """
        graph = self.graph(system, asked)
        collect(
            graph,
            [self._input(graph, system, asked, example) for example in examples],
            in_flight=self.config.in_flight,
            on_done=on_done,
            timing=timing,
            share=share,
            seed=seed,
            **self.options(system),
        )

    def _input(self, graph: RecordedGraph, system: System, asked: Asked, example: Example) -> dict[str, Any]:
        given: dict[str, Any] = {graph.recorder.input: example.question, "id": example.id}
        if system.kind == "oracle":
            given["documents"] = _documents(asked, example)
        return given

    def handed(self, system: System, asked: Asked, example: Example) -> str:
        """Return the digest of the passages that a question comes with, which only the oracle's do; else ""."""
        if system.kind != "oracle":
            return ""
        told = json.dumps([[item["id"], item["title"], item["text"]] for item in _documents(asked, example)])
        return hashlib.sha256(told.encode()).hexdigest()[:16]


def _documents(asked: Asked, example: Example) -> list[Passage]:
    """Return the gold passages of a question."""
    return [asked.gold[name] for name in example.supporting if name in asked.gold]


def _joined(hashes: Mapping[str, str]) -> str:
    if len(set(hashes.values())) == 1:
        return next(iter(hashes.values()))
    return ", ".join(f"{name} {value}" for name, value in hashes.items())


def _source(system: System) -> str:
    """Return a digest of what the `text` hash does not cover: the solo role, or the code of one's own graph."""
    if system.kind == "solo":
        return role_digest(SOLO, system.prompts)
    if system.graph is None:
        return ""
    file = getattr(importlib.import_module(system.graph.partition(":")[0]), "__file__", None)
    return hashlib.sha256(Path(file).read_bytes() if file else b"").hexdigest()[:16]


def own_graph(spec: str, retriever: Retriever, top_k: int) -> Any:
    """Return the graph that "package.module:name" names: a compiled graph, or a function that makes one.

    A function is given the set's `retriever` and `top_k` where it has parameters of these names.

    Raises:
        ConfigError: It cannot be imported, or is no graph.
    """
    found = make_graph(spec, load_object(spec, "graph"), {"retriever": retriever, "top_k": top_k})
    if not hasattr(found, "ainvoke"):
        raise ConfigError(f"graph {spec!r} is {type(found).__name__}; name a compiled graph, or a function making one")
    return found
