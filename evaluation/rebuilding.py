"""Which graph made a recorded run: the model, the adapter, the index and the graph to go on with.

A record names the first three by their hashes, but not how deep its graph was unrolled: that is found out by making
the run again from its record, first without a model or an index, then prompt by prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

from agents.adapters import content_hash
from agents.errors import ConfigError, LedgerError
from agents.passage import Retriever
from evaluation.rebuildable import check_identity, check_record, check_roles, retriever_of, speakers
from graphs.jade import GraphName, build_graph
from graphs.recorded import RecordedGraph, trainable
from graphs.replay import rebuild
from graphs.trajectory import Trajectory

RECORDED, AUTO, NONE = "recorded", "auto", "none"
"""Which adapter speaks: that of the record, the shipped one, or none; anything else is a folder or a run id."""
DEPTHS = (2, 1, 0)
"""How deep JADE's graphs can be unrolled, the default first."""
Build = Callable[[], RecordedGraph]


@dataclass(frozen=True)
class Setting:
    """What goes on live, as a user names it."""

    model: str | None = None
    adapter: str | Path = RECORDED
    prompts: str | None = None
    graph: str | None = None
    """One's own graph as "package.module:name"."""
    embedder: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None


class Rebuilder:
    """Finds the graphs of recorded runs; the model is loaded once, and each index once."""

    def __init__(self, setting: Setting | None = None, progress: Callable[[str], None] | None = None) -> None:
        """Load nothing yet.

        Args:
            setting: What goes on live; default: what was recorded.
            progress: Told one line per stage of loading.
        """
        self.setting = setting or Setting()
        self._progress = progress or (lambda line: None)
        self._speaker: RecordedGraph | None = None
        self._retrievers: dict[tuple[str, ...], Retriever | None] = {}
        self._graphs: dict[tuple[str, ...], RecordedGraph] = {}

    def graph(self, run: Trajectory) -> RecordedGraph:
        """Return a graph that makes a run again as it was recorded.

        Raises:
            ConfigError: The record is not enough, no graph fits, or something else is installed than was recorded.
            RetrieverError: The index is gone.
            SetupError: The embedded models cannot be prepared.
        """
        check_record(run)
        fits, problem = [], None
        for build in self._candidates(run):
            graph = build()
            try:
                check_roles(run, rebuild(graph, run, from_record=True))
            except LedgerError as error:
                problem = problem or error
            else:
                fits.append(graph)
        for place, graph in enumerate(fits):
            if not place:
                check_identity(run, graph)
            try:
                rebuild(graph, run)
            except LedgerError as error:
                problem = problem or error
            else:
                return graph
        raise ConfigError(f"{problem}. If a graph of your own made it, name it: --graph package.module:name")

    def _candidates(self, run: Trajectory) -> Iterator[Build]:
        """Yield the graphs that may have made a run, likeliest first.

        Raises:
            ConfigError: It was made by a graph that is not ours and not named.
        """
        speaker = self._spoken_by(run)
        if self.setting.graph is not None:
            yield partial(self._own, self.setting.graph, run, speaker)
        elif any(call.role == "solo" for call in run.calls):
            yield partial(self._own, "graphs.solo:build_solo", run, speaker)
        elif not run.workflow:
            roles = ", ".join(dict.fromkeys(call.role for call in run.calls))
            raise ConfigError(
                f"run {run.run} was made by a graph that is not JADE's (roles: {roles}); name it: "
                "--graph package.module:name"
            )
        else:
            for depth in DEPTHS:
                yield partial(self._jade, topology_of(run), depth, run, speaker)

    def _spoken_by(self, run: Trajectory) -> RecordedGraph:
        """Return a graph whose recorder holds policy, prompts and adapters; nothing is loaded before they are used."""
        if self._speaker is None:
            from graphs.app import load_graph

            setting = self.setting
            self._speaker = load_graph(
                model=setting.model,
                adapter=adapter_of(run, setting),
                prompts=setting.prompts,
                device=setting.device,
                dtype=setting.dtype,
                threads=setting.threads,
                lazy=True,
                progress=self._progress,
                **self._index(run),
            )
            self._retrievers[self._key(run)] = self._speaker.recorder.retriever
        return self._speaker

    def _index(self, run: Trajectory) -> dict[str, Any]:
        known, top_k = retriever_of(run), self._top_k(run)
        return {
            "index": known.get("collection"),
            "retriever_mode": str(known.get("mode", "exact")),
            "embedder": self.setting.embedder,
            "top_k": top_k,
        }

    def _top_k(self, run: Trajectory) -> int:
        return int(retriever_of(run).get("k", 5))

    def _key(self, run: Trajectory) -> tuple[str, ...]:
        return tuple(str(retriever_of(run).get(name, "")) for name in ("collection", "mode", "k"))

    def _searched_by(self, run: Trajectory) -> Retriever:
        """Return the retriever of a run; each is opened once."""
        key = self._key(run)
        if key not in self._retrievers:
            from graphs.app import load_graph

            speaker = self._spoken_by(run)
            policy = speaker.recorder.batcher.policy
            other = load_graph(policy=policy, lazy=True, progress=self._progress, **self._index(run))
            self._retrievers[key] = other.recorder.retriever
        found = self._retrievers[key]
        assert found is not None  # JADE's graphs always search something
        return found

    def _jade(self, topology: GraphName, depth: int, run: Trajectory, speaker: RecordedGraph) -> RecordedGraph:
        key = (topology, str(depth), *self._key(run))
        if key not in self._graphs:
            retriever = self._searched_by(run)
            graph = build_graph(topology, retriever, max_depth=depth, top_k=self._top_k(run))
            self._graphs[key] = self._recorded(graph, retriever, speaker)
        return self._graphs[key]

    def _own(self, spec: str, run: Trajectory, speaker: RecordedGraph) -> RecordedGraph:
        """Return a graph named by its import path, played by the policy at hand."""
        key = (spec, *self._key(run))
        if key not in self._graphs:
            from evaluation.bench import own_graph

            retriever = self._searched_by(run) if retriever_of(run) else None
            found = own_graph(spec, retriever, self._top_k(run))  # type: ignore[arg-type]
            if isinstance(found, RecordedGraph):
                recorder = speaker.recorder
                found = found.with_recorder(batcher=recorder.batcher, adapters=recorder.adapters, costs=recorder.costs)
            else:
                found = self._recorded(found, retriever, speaker)
            self._graphs[key] = found
        return self._graphs[key]

    def _recorded(self, graph: Any, retriever: Retriever | None, speaker: RecordedGraph) -> RecordedGraph:
        own = speaker.recorder
        recorded = trainable(
            graph,
            policy=own.batcher.policy,
            prompts=own.prompts,
            adapters=own.adapters,
            retriever=retriever,
            ledger=own.ledger,
        )
        return recorded.with_recorder(costs=own.costs)


def topology_of(run: Trajectory) -> GraphName:
    """Return which of JADE's graphs a run shows: without a planner at its root, a fixed decomposition or a forced plan.

    The graph of a planned chain is the whole graph at depth 0.
    """
    planned = any(call.path == "root/PLAN" for call in run.calls)
    if planned or run.options.get("workflow") or not run.workflow:
        return "jade"
    plan = str(run.workflow.get("planned") or run.workflow.get("plan")).lower()
    return next((name for name in get_args(GraphName) if name == plan), "jade")


def adapter_of(run: Trajectory, setting: Setting) -> str | Path | None:
    """Return the adapter to load for a run, as `load_graph` takes it.

    Raises:
        ConfigError: The recorded adapter is wanted, and it is not the shipped one.
    """
    from graphs.app import shipped_adapter
    from graphs.costs import cost_folders

    if setting.adapter == NONE:
        return None
    if setting.adapter != RECORDED:
        return setting.adapter
    played = set(speakers(run).values()) or {run.hashes.get("policy", "")}
    if all(policy.startswith("base:") for policy in played):
        return None
    shipped = shipped_adapter(setting.model)
    known = [] if shipped is None else [shipped, *cost_folders(None, shipped).values()]
    if played <= set(map(content_hash, known)):
        return AUTO
    by_role = "; ".join(f"{role}: {policy}" for role, policy in speakers(run).items())
    who = f"several adapters ({by_role})" if len(played) > 1 else f"the adapter {min(played) or '?'}"
    raise ConfigError(
        f"run {run.run} was played by {who} on {run.identity.get('base', '?')}, which is not the shipped one alone; "
        "give --adapter FOLDER (and --model, where it is not the embedded one), or --adapter none"
    )
