"""Recorded runs made again: what is asked as it was recorded is answered from the record, the rest goes on live.

The batcher is the seam, since it alone knows of which run a request is: a replayed run meets its graph, its prompts and
its index as any run does. One call may be changed (answered otherwise, or asked of somebody else); its past comes from
the record, and so does whatever the change leaves untouched, matched by the tokens of the prompt. Nothing is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

from agents.batcher import Batcher, LockstepBatcher
from agents.call import Call, Completion, Message, Policy, Prompt, Request
from agents.errors import LedgerError, RetrieverError
from agents.passage import Passage, Retriever
from graphs.collection import Gathered, Job, drive, run_jobs
from graphs.options import Options, read_options
from graphs.recorded import RecordedGraph
from graphs.trajectory import FAILED, Trajectory

T = TypeVar("T")
Change = Callable[[Request], Request | Completion]
"""What becomes of the changed call's request: an answer, or another request that is asked live."""


@dataclass(frozen=True)
class Replay:
    """One recorded run to be made again."""

    recorded: Trajectory
    options: Options
    known: frozenset[str]
    """Ids of the calls whose responses may be taken from the record."""
    needed: frozenset[str]
    """Ids of the calls that must be asked as they were recorded."""
    changed: str | None = None
    """Id of the changed call; None = nothing goes on live."""
    change: Change = field(default=lambda request: request)

    @cached_property
    def by_place(self) -> Mapping[str, Call]:
        """Return the recorded calls by id."""
        return {call.id: call for call in self.recorded.calls}

    @cached_property
    def by_prompt(self) -> Mapping[tuple[str, tuple[int, ...]], Call]:
        """Return the known greedy calls by role and prompt: asked again, wherever, they are answered alike."""
        return {
            (call.role, call.prompt_ids): call for call in self.recorded.calls if call.greedy and call.id in self.known
        }

    @cached_property
    def frees(self) -> bool:
        """Return whether the constraints of this replay's options are meant for the changed call alone."""
        return self.options.decoding == "constrained" and self.recorded.options.get("decoding") != "constrained"


def options_of(run: Trajectory) -> Options:
    """Return the options of a run, at its own temperature, for runs that nobody records.

    Raises:
        ConfigError: The record holds options that this version does not know.
    """
    options = read_options(run.options)
    return options.model_copy(update={"record": "off", "temperature": options.tau})


def before(run: Trajectory, call: str) -> frozenset[str]:
    """Return the ids of the calls that a call follows, however indirectly."""
    return _reach(call, {item.id: item.parents for item in run.calls})


def after(run: Trajectory, call: str) -> frozenset[str]:
    """Return the ids of the calls that follow a call, however indirectly."""
    following: dict[str, list[str]] = {}
    for item in run.calls:
        for parent in item.parents:
            following.setdefault(parent, []).append(item.id)
    return _reach(call, following)


def _reach(start: str, edges: Mapping[str, Iterable[str]]) -> frozenset[str]:
    found: set[str] = set()
    waiting = list(edges.get(start, ()))
    while waiting:
        item = waiting.pop()
        if item not in found:
            found.add(item)
            waiting.extend(edges.get(item, ()))
    return frozenset(found)


def instead(run: Trajectory, call: str, change: Change, options: Options, *, fresh: bool = False) -> Replay:
    """Return a replay in which one call is changed.

    Args:
        run: The recorded run.
        call: Id of the call to change.
        change: What becomes of its request.
        options: Usually `options_of(run)`; constrained decoding holds for the changed call alone where the run
            decoded freely.
        fresh: Ask the calls that follow it live even where they are asked what is recorded.
    """
    later = after(run, call) if fresh else frozenset[str]()
    known = frozenset(item.id for item in run.calls) - later - {call}
    return Replay(run, options, known, before(run, call), call, change)


def make_again(
    graph: RecordedGraph, replays: Sequence[Replay], *, from_record: bool = False, in_flight: int = 64
) -> list[Trajectory]:
    """Make recorded runs again in lock-step; return their trajectories, in order; a failed one says why.

    Args:
        graph: The graph that made them.
        replays: What to make again.
        from_record: Take searches from the record as well: needs neither model nor index. Calls are then matched by
            their place, and the trajectories hold no prompts and no passages' texts.
        in_flight: Most runs at once.

    Raises:
        ConfigError: A recorded question that this graph cannot be asked.
    """
    if not replays:
        return []
    inner = LockstepBatcher(_Nobody() if from_record else graph.recorder.batcher.policy)
    jobs = [
        Job(place, {graph.recorder.input: item.recorded.question}, item.options, f"{item.recorded.run}-{place}")
        for place, item in enumerate(replays)
    ]
    batcher = ReplayBatcher(inner, {job.run: item for job, item in zip(jobs, replays, strict=True)}, from_record)
    gathered = Gathered()

    def note(run: Trajectory) -> None:
        gathered.closed[run.run] = run

    private = graph.with_recorder(batcher=batcher, ledger=None, on_close=note, defaults=Options())
    if from_record:
        private = private.with_recorder(retriever=None)
    drive(inner, lambda: run_jobs(private, jobs, in_flight, gathered))
    return [gathered.closed[job.run] for job in jobs]


def rebuild(graph: RecordedGraph, run: Trajectory, *, from_record: bool = False) -> Trajectory:
    """Make a whole run again from its record and check that it comes out as it was recorded.

    Args:
        graph: The graph that made it.
        run: The recorded run.
        from_record: As in `make_again`: tells whether the graph fits without a model or an index. Without it the
            policy's tokenizer and the index are used, and every prompt must be the recorded one.

    Raises:
        LedgerError: The graph does something else than was recorded; the message names the first difference.
        RetrieverError: The index cannot answer.
        ConfigError: The graph cannot be asked the question.
    """
    everything = frozenset(call.id for call in run.calls)
    (again,) = make_again(graph, [Replay(run, options_of(run), everything, everything)], from_record=from_record)
    if again.outcome in FAILED:
        kind, _, why = str(again.error).partition(": ")
        if again.outcome == "retriever-error":
            raise RetrieverError(f"run {run.run} cannot be rebuilt: {why}")
        raise LedgerError(why if kind == LedgerError.__name__ else f"run {run.run} cannot be rebuilt: {again.error}")
    _compare(run, again, from_record and any(call.dropped_documents for call in run.calls))
    return again


def _compare(run: Trajectory, again: Trajectory, blind: bool) -> None:
    """Refuse a run that came out otherwise; `blind` where the documents that its prompts lost cannot be known."""
    made = {call.id: call for call in again.calls}
    for call in run.calls:
        if call.id not in made:
            raise LedgerError(f"run {run.run} cannot be rebuilt: this graph does not make the call {call.id}")
        value = made[call.id].value
        if value != call.value and not blind:
            raise LedgerError(
                f"run {run.run} cannot be rebuilt: {call.role} reads what {call.id} said as {value!r:.100}, "
                f"recorded was {call.value!r:.100}; its grammar has changed since"
            )
    if again.answer != run.answer and not blind:
        raise LedgerError(
            f"run {run.run} cannot be rebuilt: the same responses end in the answer {again.answer!r:.100}, "
            f"recorded was {run.answer!r:.100}"
        )


class ReplayBatcher:
    """Answers from the record what a replayed run asks as it was recorded; hands on the rest."""

    inline = True

    def __init__(self, inner: Batcher, replays: Mapping[str, Replay], from_record: bool = False) -> None:
        """Take what goes on live, and the replay of each run by its new id."""
        self._inner, self._replays, self._from_record = inner, replays, from_record

    @property
    def policy(self) -> Policy:
        """Return the policy that goes on."""
        return self._inner.policy

    def enter(self, run: str) -> None:
        """Count `run` as in flight."""
        self._inner.enter(run)

    def leave(self, run: str) -> None:
        """Stop counting `run`."""
        self._inner.leave(run)

    def submit(self, run: str, request: Request) -> Future[Completion]:
        """Answer a request from the record, or queue it.

        Raises:
            LedgerError: A call of the run's past is asked something else than was recorded.
        """
        answer = self._answer(self._replays[run], request)
        if isinstance(answer, Request):
            return self._inner.submit(run, answer)
        return _done(answer)

    def search(self, run: str, retriever: Retriever, query: str, k: int) -> Future[list[Passage]]:
        """Search, or return the recorded passages by name.

        Raises:
            LedgerError: No such search was recorded.
        """
        if not self._from_record:
            return self._inner.search(run, retriever, query, k)
        recorded = self._replays[run].recorded
        found = next((item for item in recorded.retrievals if item.query == query), None)
        if found is None:
            raise LedgerError(f"run {recorded.run} cannot be rebuilt: it never searched for {query!r:.100}")
        scored = zip(found.ids, found.scores, strict=True)
        return _done([Passage(id=name, title="", text="", score=score) for name, score in scored])

    def _answer(self, replay: Replay, request: Request) -> Request | Completion:
        path, index = request.key[2:4]
        place = f"{path}#{index}" if index else str(path)
        if place == replay.changed:
            if not self._as_recorded(replay.by_place[place], request):
                raise _differs(replay, place, request)
            return replay.change(request)
        if replay.frees:
            request = replace(request, constraint=None)
        call = replay.by_place.get(place)
        if call is not None and place in replay.known and self._as_recorded(call, request):
            return _said(call)
        if replay.changed is None or place in replay.needed:
            raise _differs(replay, place, request)
        twin = replay.by_prompt.get((request.role, request.prompt.ids))
        return request if twin is None else _said(twin)

    def _as_recorded(self, call: Call, request: Request) -> bool:
        return call.role == request.role and (self._from_record or call.prompt_ids == request.prompt.ids)


def _differs(replay: Replay, place: str, request: Request) -> LedgerError:
    """Return an error that says where a graph leaves the record."""
    run, call = replay.recorded, replay.by_place.get(place)
    if call is None:
        what = f"{request.role} is asked at {place}, which was not recorded"
    elif call.role != request.role:
        what = f"at {place} {request.role} is asked, recorded was {call.role}"
    else:
        sizes = f"{len(request.prompt.ids)} tokens, recorded {len(call.prompt_ids)}"
        what = f"{place} is shown another prompt than was recorded ({sizes})"
    return LedgerError(f"run {run.run} cannot be rebuilt: {what}; another graph, prompt set or index made it")


def _said(call: Call) -> Completion:
    return Completion(call.response_ids, call.logprobs, call.mask, call.text, call.truncated)


def _done(value: T) -> Future[T]:
    future: Future[T] = Future()
    future.set_result(value)
    return future


class _Nobody:
    """A policy for runs that are answered from the record alone."""

    context_length = 1 << 40

    @property
    def identity(self) -> Mapping[str, str]:
        """Return nothing: nobody speaks."""
        return {}

    def encode(self, messages: Sequence[Message]) -> Prompt:
        """Return a stand-in: nobody reads it."""
        return Prompt((0,), 0)

    def sample(self, requests: Sequence[Request]) -> list[Completion]:
        """Refuse (LedgerError): there is no model."""
        raise LedgerError(f"{requests[0].role} is asked what was not recorded, and there is no model to go on with")
