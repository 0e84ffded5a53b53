"""Any compiled LangGraph graph that speaks through `act`, recorded.

A `RecordedGraph` is the same graph with three additions: a bare string is a question, option names are
accepted as keyword arguments of invoke, stream and batch, and each run is written to the ledger. It overrides
`stream` and `astream` alone, through which LangGraph routes everything else.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config, merge_configs
from langgraph.errors import EmptyInputError
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command

from agents.batcher import TimedBatcher
from agents.call import Policy
from agents.errors import ConfigError
from agents.passage import Retriever
from agents.role import Prompts
from graphs.breakpoints import with_breakpoints
from graphs.ledger import LedgerWriter
from graphs.options import Options, read_options
from graphs.question import MAX_QUESTION_CHARACTERS, as_mapping, read_question
from graphs.run import RUN_ID_KEY, RUN_KEY, Recorder, Run, new_run_id
from graphs.threads import NOTHING_TO_RESUME, take_up, thread_of
from graphs.tokens import stream_modes, with_tokens

__all__ = ["MAX_QUESTION_CHARACTERS", "RecordedGraph", "trainable"]
T = TypeVar("T")
Begun = tuple[Run, Any, RunnableConfig, dict[str, Any]]
LANGGRAPH = frozenset(inspect.signature(CompiledStateGraph.stream).parameters) | {"checkpoint_during"}
"""Keyword arguments that are LangGraph's own; every other one must be an option."""


class RecordedGraph(CompiledStateGraph[Any, Any, Any, Any]):
    """A compiled graph whose runs are recorded; make one with `trainable`."""

    def __init__(self, *, recorder: Recorder, **kwargs: Any) -> None:
        """Take a compiled graph's own attributes as `kwargs` (LangGraph copies graphs this way)."""
        super().__init__(**kwargs)
        self.recorder = recorder

    def with_recorder(self, **changes: Any) -> RecordedGraph:
        """Return a copy of the graph whose recorder has some fields replaced."""
        return self.copy({"recorder": replace(self.recorder, **changes)})

    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        """Stream the graph's steps; a `str` is a question; options are keyword arguments.

        Raises:
            ConfigError: An unknown or impossible option or breakpoint, or an unusable question.
        """
        if _is_nested(config):
            yield from super().stream(as_mapping(input, self.recorder.input), config, **_only_langgraphs(kwargs))
            return
        graph = with_breakpoints(self, kwargs)
        run, input, config, kwargs = self._begin(input, config, kwargs)
        keep, kwargs = with_tokens(kwargs)
        error: BaseException | None = None
        try:
            for chunk in super(RecordedGraph, graph).stream(input, config, **kwargs):
                yield from keep(chunk)
        except EmptyInputError:
            error = ConfigError(NOTHING_TO_RESUME)
            raise error from None
        except BaseException as problem:
            error = problem
            raise
        finally:
            self._end(run, error)

    async def astream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AsyncIterator[Any]:
        """Stream the graph's steps asynchronously; see `stream`."""
        if _is_nested(config):
            given = as_mapping(input, self.recorder.input)
            async for chunk in super().astream(given, config, **_only_langgraphs(kwargs)):
                yield chunk
            return
        graph = with_breakpoints(self, kwargs)
        if self.recorder.batcher.inline and graph.checkpointer:
            graph = graph.copy({"checkpointer": None})  # nobody resumes a collected run
        run, input, config, kwargs = await self._abegin(input, config, kwargs)
        keep, kwargs = with_tokens(kwargs)
        error: BaseException | None = None
        try:
            async for chunk in super(RecordedGraph, graph).astream(input, config, **kwargs):
                for kept in keep(chunk):
                    yield kept
        except EmptyInputError:
            error = ConfigError(NOTHING_TO_RESUME)
            raise error from None
        except BaseException as problem:
            error = problem
            raise
        finally:
            await self._aside(self._end, run, error)

    async def _aside(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do file work and first loading in a thread, unless the event loop is the collector's own."""
        if self.recorder.batcher.inline:
            return work(*arguments)
        return await asyncio.to_thread(work, *arguments)

    async def _abegin(self, input: Any, config: RunnableConfig | None, kwargs: dict[str, Any]) -> Begun:
        """Do what `_begin` does aside; a run that its caller gave up meanwhile is closed as soon as it is open."""
        begun: Future[Begun] = Future()

        def begin() -> None:
            try:
                begun.set_result(self._begin(input, config, kwargs))
            except BaseException as problem:
                begun.set_exception(problem)

        try:
            await self._aside(begin)
        except asyncio.CancelledError as gone:
            error = gone

            def close(done: Future[Begun]) -> None:
                if done.exception() is None:
                    self._end(done.result()[0], error)

            begun.add_done_callback(close)  # the thread works on
            raise
        return begun.result()

    def _begin(self, input: Any, config: RunnableConfig | None, kwargs: dict[str, Any]) -> Begun:
        """Open a run (or take up an interrupted one) and hand it to LangGraph in the config."""
        options, kwargs = self._take_options(kwargs)
        conf = {**(self.config or {}).get("configurable", {}), **ensure_config(config).get("configurable", {})}
        thread = self._thread(conf)
        if input is None or isinstance(input, Command):
            run = take_up(self.recorder, thread, options)
        else:
            input, question = read_question(input, self.recorder.input, needed=self.context_schema is Options)
            recorder = self.recorder.at(options.cost)
            recorder.hashes()  # a lazy policy loads here: off a serving event loop, before the clock starts
            run = Run(recorder, conf.get(RUN_ID_KEY) or new_run_id(), question, options)
            run.thread = thread
            self._write_open(run)
        run.streaming = "custom" in stream_modes(kwargs)
        if self.context_schema is Options:
            kwargs["context"] = run.options
        own: RunnableConfig = {"configurable": {RUN_KEY: run}, "callbacks": [run.tracker]}
        merged = merge_configs(config, own)
        self.recorder.batcher.enter(run.id)
        return run, input, merged, kwargs

    def _thread(self, conf: Mapping[str, Any]) -> str | None:
        """Return the thread of a run that can be resumed, if any; nobody resumes a collected run."""
        return None if self.recorder.batcher.inline else thread_of(conf, self.checkpointer)

    def _take_options(self, kwargs: dict[str, Any]) -> tuple[Options, dict[str, Any]]:
        """Split keyword arguments into our options and LangGraph's own."""
        ours = {name: kwargs[name] for name in kwargs if name not in LANGGRAPH}
        theirs = {name: value for name, value in kwargs.items() if name in LANGGRAPH}
        context = theirs.get("context")
        if self.context_schema is Options and context is not None:
            given = context.model_dump(exclude_unset=True) if isinstance(context, Options) else dict(context)
            ours = {**given, **ours}
        options = read_options(ours, self.recorder.defaults)
        if theirs.get("output_keys") not in (None, self.output_channels) and options.record != "off":
            raise ConfigError(
                f"output_keys={theirs['output_keys']!r} would leave the record without what it does not name; take "
                "what you want from the whole result, or give record='off'"
            )
        return options, theirs

    def check(self, input: Any) -> None:
        """Refuse an input before anything runs.

        Raises:
            ConfigError: The question is missing, blank or too long.
        """
        read_question(input, self.recorder.input, needed=self.context_schema is Options)

    def _write_open(self, run: Run) -> None:
        if self.recorder.ledger is not None and run.options.record != "off":
            warning = self.recorder.ledger.open(run.id, run.header())
            if warning:
                run.warn(warning)
                run.recorded = False

    def _end(self, run: Run, error: BaseException | None) -> None:
        """Close the run: write its trajectory, unless it only paused."""
        self.recorder.batcher.leave(run.id)
        if run.tracker.paused and error is None:
            if run.thread is not None:
                run.checkpoint()
                return
            error = ConfigError("stopped at a breakpoint that nobody can resume: no thread_id, no checkpointer")
        trajectory = run.trajectory(error)
        if self.recorder.ledger is not None and run.options.record != "off":
            warning = self.recorder.ledger.close(trajectory)
            if warning and warning not in run.warnings:
                run.warn(warning)
                _tell(run.tracker.output, warning)
        if self.recorder.on_close is not None:
            self.recorder.on_close(trajectory)


def _tell(output: Any, warning: str) -> None:
    """Add a late warning to the result that the user gets, if it lists warnings."""
    if isinstance(output, dict) and isinstance(output.get("warnings"), list):
        output["warnings"].append(warning)


def _is_nested(config: RunnableConfig | None) -> bool:
    """Return whether this graph runs inside another recorded run, which then records its calls."""
    return RUN_KEY in ensure_config(config).get("configurable", {})


def _only_langgraphs(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of a nested graph.

    Raises:
        ConfigError: There are options among them.
    """
    ours = [name for name in kwargs if name not in LANGGRAPH]
    if ours:
        raise ConfigError(f"options {ours} were given to a graph inside a recorded run; give them to the outer graph")
    return kwargs


def trainable(
    graph: CompiledStateGraph[Any, Any, Any, Any],
    output: str = "answer",
    *,
    input: str = "question",
    policy: Policy | None = None,
    prompts: Prompts | None = None,
    adapters: Mapping[str, str | None] | None = None,
    retriever: Retriever | None = None,
    ledger: LedgerWriter | None = None,
    defaults: Options | None = None,
) -> RecordedGraph:
    """Make a compiled graph that speaks through `act` recordable, and so trainable.

    Args:
        graph: What `StateGraph.compile()` returned.
        output: Output key that holds the answer to be scored.
        input: Input key that holds the question.
        policy: Who plays the roles; default: the embedded model, loaded at the first call.
        prompts: The prompt set; default: with examples.
        adapters: Role name → adapter name ("*" for the rest), as loaded into the policy.
        retriever: The retriever the graph's nodes use, for the record's environment hash.
        ledger: Where runs are recorded; default: JADE's home.
        defaults: Options in force where a call names none.

    Raises:
        ConfigError: `graph` is not a compiled state graph, or has no such output.
    """
    if not isinstance(graph, CompiledStateGraph):
        hint = "call .compile() on it first" if hasattr(graph, "compile") else "give a compiled LangGraph state graph"
        raise ConfigError(f"trainable() was given {type(graph).__name__}; {hint}")
    keys = [graph.output_channels] if isinstance(graph.output_channels, str) else list(graph.output_channels)
    if output not in keys:
        raise ConfigError(f"the graph has no output {output!r} to be scored; it has {', '.join(keys)}")
    if policy is None or ledger is None:
        from graphs.app import default_ledger, default_policy  # composition root, only when nothing was given

        policy = policy if policy is not None else default_policy()
        ledger = ledger if ledger is not None else default_ledger()
    recorder = Recorder(
        batcher=TimedBatcher(policy),
        prompts=prompts or Prompts(),
        adapters=dict(adapters or {}),
        ledger=ledger,
        retriever=retriever,
        defaults=defaults or Options(),
        input=input,
        output=output,
    )
    attributes = {key: value for key, value in graph.__dict__.items() if key not in ("__orig_class__", "recorder")}
    return RecordedGraph(recorder=recorder, **attributes)
