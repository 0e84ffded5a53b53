"""One accepted question: it waits for its turn, runs, and can be stopped from outside at any moment.

A task of its own does the work, so that the slot is freed and the run is recorded whoever listens, and however the
listener ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from starlette.types import Receive

from graphs.acting import to_json
from graphs.options import Options
from graphs.recorded import RecordedGraph
from graphs.run import RUN_ID_KEY, new_run_id
from graphs.tokens import TOKEN
from graphs.trajectory import FAILED, Trajectory
from serving.problems import Problem, as_problem

Event = tuple[str, Any]
"""("run", id) when it starts, ("update", node updates), ("token", text of the answer), ("custom", whatever a graph of
one's own writes), ("result", the whole answer)."""
WHOLE, STREAMED = ["values"], ["updates", "custom", "values"]


class Job:
    """A question with its run; make one with `Desk.accept`."""

    def __init__(
        self,
        graph: RecordedGraph,
        question: str,
        given: Mapping[str, Any],
        options: Options,
        *,
        turns: asyncio.Semaphore,
        timeout: float,
        stream: bool,
    ) -> None:
        """Queue at once; the deadline starts now.

        Args:
            graph: What answers.
            question: The question, checked.
            given: The options that the client named.
            options: All options that are in force.
            turns: As many permits as questions may run at once; first come, first served.
            timeout: Seconds until the run is cancelled.
            stream: Whether node updates and tokens are wanted as events.
        """
        self.run = new_run_id()
        self.running = False
        self.seconds = 0.0
        """How long the run took, without waiting."""
        self.trajectory: Trajectory | None = None
        """Set by the desk when the run is closed."""
        self.recorded_as = None if options.record == "off" else self.run
        self._graph, self._question, self._given = graph, question, given
        self._turns, self._modes = turns, STREAMED if stream else WHOLE
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._begun = asyncio.Event()
        self._stopped: BaseException | None = None
        late = TimeoutError(f"there was no answer within {timeout:g} seconds")
        self._deadline = asyncio.get_running_loop().call_later(timeout, self.stop, late)
        self.task = asyncio.create_task(self._work())
        self.task.add_done_callback(self._end)

    def stop(self, reason: BaseException) -> None:
        """Cancel the run for a reason, which its record and its client are told; later reasons change nothing."""
        if self._stopped is None and not self.task.done():
            self._stopped = reason
            self.task.cancel(reason)

    async def begun(self) -> None:
        """Wait until the run starts.

        Raises:
            Problem: It never will, or it has failed already.
        """
        await self._begun.wait()
        if self.task.done():
            self._outcome()

    async def result(self) -> dict[str, Any]:
        """Wait for the answer.

        Raises:
            Problem: There is none.
        """
        await asyncio.wait({self.task})
        return self._outcome()

    async def events(self) -> AsyncIterator[Event]:
        """Yield what happens, "result" last.

        Raises:
            Problem: There is no result.
        """
        while (event := await self._events.get()) is not None:
            yield event
        yield "result", self._outcome()

    def error(self) -> BaseException | None:
        """Return why the finished job has no answer; None when it has one."""
        if self.task.cancelled():
            return self._stopped or asyncio.CancelledError()
        return self.task.exception()

    def _outcome(self) -> dict[str, Any]:
        error = self.error()
        if error is not None:
            raise as_problem(self._stopped or error, self.recorded_as) from None
        return self.task.result()

    def _end(self, task: asyncio.Task[dict[str, Any]]) -> None:
        self._deadline.cancel()
        self._begun.set()
        self._events.put_nowait(None)

    async def _work(self) -> dict[str, Any]:
        async with self._turns:
            self.running, started = True, time.monotonic()
            self._events.put_nowait(("run", self.recorded_as))
            self._begun.set()
            try:
                return self._answer(await self._last_values())
            finally:
                self.seconds = time.monotonic() - started

    async def _last_values(self) -> Any:
        """Run the graph; return its output."""
        values = None
        config: RunnableConfig = {"configurable": {RUN_ID_KEY: self.run}}
        stream = self._graph.astream(self._question, config, stream_mode=self._modes, **self._given)
        async with aclosing(cast("AsyncGenerator[Any, None]", stream)) as chunks:
            async for mode, chunk in chunks:
                if mode == "values":
                    values = chunk
                else:
                    self._events.put_nowait(_event(mode, chunk))
        return values

    def _answer(self, values: Any) -> dict[str, Any]:
        """Return what the client gets: the graph's output (values are its whole state), completed from the record.

        Raises:
            Problem: The run ended without an answer.
        """
        run, output = self.trajectory, self._graph.recorder.output
        if run is None or run.outcome in FAILED or not isinstance(values, Mapping) or output not in values:
            raise Problem("failed", f"the run ended without an answer; run {self.recorded_as}")
        costs = {
            "retrievals": len(run.retrievals),
            "model_calls": len(run.calls),
            "prompt_tokens": sum(len(call.prompt_ids) for call in run.calls),
            "generated_tokens": sum(len(call.response_ids) for call in run.calls),
            "warnings": list(run.warnings),
        }
        record = {"run": self.recorded_as, "outcome": run.outcome, "seconds": dict(run.seconds)}
        kept = {key: value for key, value in values.items() if key in self._graph.output_channels}
        return {**costs, **to_json(kept), "answer": str(values[output]), **record}


def _event(mode: str, chunk: Any) -> Event:
    if mode == "updates":
        return "update", to_json(chunk)
    if isinstance(chunk, Mapping) and chunk.keys() == {TOKEN}:
        return "token", str(chunk[TOKEN])
    return "custom", to_json(chunk)


@asynccontextmanager
async def watched(job: Job, receive: Receive) -> AsyncIterator[None]:
    """Stop the job when its client goes away, or when nobody is left who would hand on its answer."""

    async def until_gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        job.stop(Problem("gone", "the client went away"))

    watcher = asyncio.create_task(until_gone())
    try:
        yield
    except BaseException:
        job.stop(Problem("gone", "nobody waits for the answer any more"))
        raise
    finally:
        watcher.cancel()
