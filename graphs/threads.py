"""Threads of a checkpointer: which one a run belongs to, and how the unfinished run of a thread is taken up again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents.errors import ConfigError
from graphs.options import Options
from graphs.run import Recorder, Run, new_run_id

CHECKPOINTER = "__pregel_checkpointer"
"""Where LangGraph's server and outer graphs hand on their checkpointer."""
NOTHING_TO_RESUME = "there is no interrupted run to resume on this thread (or no checkpointer): give a question"


def thread_of(conf: Mapping[str, Any], own: Any) -> str | None:
    """Return the thread of a run that can be resumed; None where no checkpointer is at work.

    Args:
        conf: The run's `config["configurable"]`.
        own: The graph's own checkpointer; False = it wants none, whatever is handed on.

    Raises:
        ConfigError: There is a checkpointer and no thread.
    """
    if own is False or conf.get(CHECKPOINTER, own) is None:
        return None
    if "thread_id" not in conf:
        raise ConfigError(
            'this graph has a checkpointer, which keeps runs by thread: give config={"configurable": '
            '{"thread_id": "any name"}}, or leave the checkpointer out'
        )
    return str(conf["thread_id"])


def take_up(recorder: Recorder, thread: str | None, options: Options) -> Run:
    """Take up the unfinished run of a thread; without its beginning, its rest is not recorded.

    Raises:
        ConfigError: No thread was named.
    """
    if thread is None:
        raise ConfigError(
            "no input was given, which resumes an interrupted run, but no thread: give a question, or "
            'config={"configurable": {"thread_id": …}} on a graph with a checkpointer'
        )
    recorder.hashes()  # as for a new run: a lazy policy loads here, before the clock starts
    run = Run.reopen(recorder, thread) if options.record != "off" else None
    if run is None:
        unrecorded = {"record": "off", "temperature": options.tau}
        run = Run(recorder.at(options.cost), new_run_id(), "", options.model_copy(update=unrecorded))
        if options.record != "off":
            run.warn("not recorded: the ledger does not hold what this run did before it was interrupted")
    run.checkpoint()
    return run
