"""One run of a recorded graph: its options, its journal, and the trajectory that it leaves behind.

A `Recorder` is what all runs of a graph share (policy, prompts, adapters, ledger); a `Run` is what one invocation owns.
A run travels through LangGraph in `config["configurable"]`, under a key that LangGraph keeps out of checkpoints.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from langchain_core.runnables import RunnableConfig

from agents.aside import aside
from agents.batcher import Batcher
from agents.errors import ConfigError
from agents.passage import Passage, Retriever
from agents.role import Prompts, Role
from agents.roster import ROLES, role_digest
from agents.routed import speakers_of
from graphs.costs import Speaker, speaker_at
from graphs.ending import outcome_of, stopped_by
from graphs.journal import Journal
from graphs.ledger import LedgerWriter
from graphs.ledger_lines import UNREADABLE
from graphs.options import Options, read_options
from graphs.resume import restore, snapshot, unfinished
from graphs.tracker import Place, Tracker
from graphs.trajectory import Retrieval, Trajectory

RUN_KEY = "__jade_run"
RUN_ID_KEY = "__jade_run_id"


@dataclass(frozen=True)
class Recorder:
    """What all runs of a recorded graph share."""

    batcher: Batcher
    prompts: Prompts = field(default_factory=Prompts)
    adapters: Mapping[str, str | None] = field(default_factory=dict)
    """Role name → adapter name; "*" is the default for roles not named; absent = the base model."""
    costs: Mapping[str, Speaker] = field(default_factory=dict)
    """Who plays at which cost, beside the default."""
    speaker: Mapping[str, str] = field(default_factory=dict)
    """What the record's identity says of who speaks, where that is not the policy's own default."""
    ledger: LedgerWriter | None = None
    retriever: Retriever | None = None
    """What the graph's nodes search, for the record's environment hash."""
    defaults: Options = field(default_factory=Options)
    input: str = "question"
    """Input key whose value is the run's question in the record."""
    output: str = "answer"
    """Output key whose value is the run's answer in the record."""
    code: str = ""
    """Version of the code, recorded and never compared."""
    on_close: Callable[[Trajectory], None] | None = None
    """Called with each finished run's trajectory, recorded or not."""

    def adapter_of(self, role: str) -> str | None:
        """Return the name of the adapter that plays `role`."""
        return self.adapters.get(role, self.adapters.get("*"))

    def at(self, cost: str) -> Recorder:
        """Return the recorder of a run at a cost: one adapter plays all its roles.

        Raises:
            ConfigError: No adapter is loaded for that cost.
        """
        if cost == "default":
            return self
        speaker = speaker_at(cost, self.costs)
        return replace(self, adapters={"*": speaker.adapter}, speaker=speaker.identity)

    def environment(self) -> Mapping[str, str]:
        """Return the retriever's identity; empty without one."""
        return self.retriever.identity if self.retriever is not None else {}

    def hashes(self) -> dict[str, str]:
        """Return the three hashes that travel with each run (DESIGN §6)."""
        identity = {**self.batcher.policy.identity, **self.speaker}
        return {
            "text": identity.get("text", ""),
            "policy": identity.get("policy", ""),
            "environment": self.environment().get("environment", ""),
        }

    def names(self, spoke: Mapping[str, str | None]) -> dict[str, Any]:
        """Return the readable names behind the hashes; `spoke`: the roles that did, each with its adapter's name."""
        identity = {**self.batcher.policy.identity, **self.speaker}
        policy = {key: value for key, value in identity.items() if key not in ("text", "policy")}
        environment = {key: value for key, value in self.environment().items() if key != "environment"}
        adapters = {role: name for role, name in self.adapters.items() if name}
        speakers = speakers_of(self.batcher.policy, spoke)
        return {**policy, "retriever": environment, "adapters": adapters, "speakers": speakers, "code": self.code}


class Run:
    """One invocation of a recorded graph."""

    def __init__(self, recorder: Recorder, identifier: str, question: str, options: Options) -> None:
        """Start the clock."""
        self.recorder = recorder
        self.id = identifier
        self.question = question
        self.options = options
        self.tracker = Tracker()
        self.journal = Journal()
        self.roles: dict[str, str] = {}
        """Roles that spoke and are not JADE's own → their digest."""
        self.streaming = False
        """Whether somebody listens to custom stream events."""
        self.recorded = options.record != "off"
        """Whether the ledger knows of the run: not where its first line could not be written."""
        self.thread: str | None = None
        """Checkpointer thread of a run that may be interrupted and resumed."""
        self.started = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._clock = time.perf_counter()
        self._warnings: list[str] = []

    def warn(self, text: str) -> None:
        """Add a warning to the record and the result, once."""
        if text not in self._warnings:
            self._warnings.append(text)

    def spoke(self, role: Role[Any]) -> None:
        """Note what a role that is not in the roster stands for: the `text` hash covers the roster only."""
        if ROLES.get(role.name) is not role and role.name not in self.roles:
            self.roles[role.name] = role_digest(role, self.recorder.prompts)

    def refuse_to_block(self, called: str, instead: str) -> None:
        """Refuse a blocking call on the collector's event loop, which would wait for itself for ever.

        Raises:
            ConfigError: The caller is a coroutine of that loop.
        """
        if not self.recorder.batcher.inline:
            return
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        raise ConfigError(f"{called}() blocks, and an async node called it while runs are collected: await {instead}()")

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return the warnings so far."""
        return tuple(self._warnings)

    def retrieve(self, retriever: Retriever, query: str, k: int, path: str, config: RunnableConfig) -> list[Passage]:
        """Search and record it; blocking.

        Raises:
            RetrieverError: The index cannot answer.
        """
        self.refuse_to_block("retrieve", "aretrieve")
        started = time.perf_counter()
        passages = self.recorder.batcher.search(self.id, retriever, query, k).result()
        self._retrieved(passages, query, path, self.tracker.place(config), started)
        self.checkpoint()
        return passages

    async def aretrieve(
        self, retriever: Retriever, query: str, k: int, path: str, config: RunnableConfig
    ) -> list[Passage]:
        """Search and record it without blocking the event loop.

        Raises:
            RetrieverError: The index cannot answer.
        """
        started, batcher = time.perf_counter(), self.recorder.batcher
        if batcher.inline:
            future = batcher.search(self.id, retriever, query, k)
        else:
            future = await asyncio.wrap_future(aside(batcher.search, self.id, retriever, query, k))
        passages = await asyncio.wrap_future(future)
        self._retrieved(passages, query, path, self.tracker.place(config), started)
        if self.thread is not None:
            await asyncio.to_thread(self.checkpoint)
        return passages

    def _retrieved(self, passages: list[Passage], query: str, path: str, place: Place, started: float) -> None:
        ids = tuple(passage["id"] for passage in passages)
        scores = tuple(round(float(passage["score"]), 6) for passage in passages)
        record = Retrieval(path, query, ids, scores, time.perf_counter() - started)
        self.journal.add_retrieval(record, place)

    def summary(self) -> dict[str, Any]:
        """Return what the run cost so far, for the graph's result."""
        calls = [entry.call for entry in self.journal.entries]
        return {
            "run": self.id if self.recorded else None,
            "model_calls": len(calls),
            "prompt_tokens": sum(len(call.prompt_ids) for call in calls),
            "generated_tokens": sum(len(call.response_ids) for call in calls),
            "warnings": list(self.warnings),
        }

    def checkpoint(self) -> None:
        """Write the journal so far to the ledger, in a run that may be interrupted."""
        ledger = self.recorder.ledger
        if self.thread is not None and ledger is not None and self.options.record != "off":
            warning = ledger.pause(self.id, snapshot(self))
            if warning:
                self.warn(warning)

    @staticmethod
    def reopen(recorder: Recorder, thread: str) -> Run | None:
        """Return a thread's unfinished run with its journal, if it was recorded; a crashed one under a new id."""
        found = unfinished(recorder.ledger.folder, thread) if recorder.ledger is not None else None
        if found is None:
            return None
        try:
            identifier = new_run_id() if found.closed else found.run
            options = read_options(found.data["options"])
            run = Run(recorder.at(options.cost), identifier, str(found.data["question"]), options)
            run.thread, run.started = thread, str(found.data["started"])
            restore(run, found.data)
        except UNREADABLE:
            return None
        return run

    def header(self) -> dict[str, Any]:
        """Return what the ledger's open line holds besides the run id."""
        return {
            "question": self.question,
            "question_id": self.options.question_id,
            "started": self.started,
            "options": self.options.model_dump(exclude_defaults=True),
            "hashes": self.recorder.hashes(),
            "thread": self.thread,
        }

    def trajectory(self, error: BaseException | None) -> Trajectory:
        """Return the record of the finished run."""
        error = stopped_by(error)
        calls = self.journal.linked()
        retrievals, spoke = self.journal.ordered_retrievals(), {call.role: call.adapter for call in calls}
        output = self.tracker.output if isinstance(self.tracker.output, Mapping) else {}
        total = time.perf_counter() - self._clock
        seconds = {key: sum(call.seconds.get(key, 0.0) for call in calls) for key in ("wait", "prefill", "decode")}
        seconds["retrieval"] = sum(item.seconds for item in retrievals)
        seconds["graph"] = max(0.0, total - sum(seconds.values()))
        answer = output.get(self.recorder.output)
        return Trajectory(
            run=self.id,
            question=self.question,
            answer="" if error is not None or answer is None else str(answer),
            outcome=outcome_of(error, calls[-1] if calls else None),
            calls=calls,
            retrievals=retrievals,
            question_id=self.options.question_id,
            evidence=_ids(output.get("evidence")),
            citations=_ids(output.get("citations")),
            workflow=output.get("workflow") if isinstance(output.get("workflow"), Mapping) else None,
            hops=tuple(output.get("hops") or ()),
            turns=int(output.get("turns") or 1),
            seed=self.options.seed,
            options=self.options.model_dump(exclude_defaults=True),
            hashes=self.recorder.hashes(),
            identity={**self.recorder.names(spoke), **({"roles": dict(self.roles)} if self.roles else {})},
            budget_hit=bool(output.get("budget_hit")),
            warnings=self.warnings,
            error=None if error is None else f"{type(error).__name__}: {error}",
            started=self.started,
            seconds={key: round(value, 6) for key, value in {**seconds, "total": total}.items()},
        )


def new_run_id() -> str:
    """Return a fresh id for a run."""
    return uuid.uuid4().hex[:16]


def _ids(items: Any) -> tuple[str, ...]:
    """Return the ids of passages given as mappings or strings."""
    if not isinstance(items, list | tuple):
        return ()
    return tuple(str(item["id"]) if isinstance(item, Mapping) else str(item) for item in items)


def current_run(config: RunnableConfig | None) -> Run:
    """Return the run that a node's config belongs to.

    Raises:
        ConfigError: The node runs outside a recorded graph.
    """
    run = (config or {}).get("configurable", {}).get(RUN_KEY)
    if not isinstance(run, Run):
        raise ConfigError(
            "act() was called outside a recorded graph; wrap the compiled graph with graphs.trainable(graph) "
            "and pass the node's own config on: def node(state, config: RunnableConfig)"
        )
    return run
