"""Merge calls from concurrent runs and branches into batches for one shared policy.

Two rules for when a batch is cut. *Serving* (`TimedBatcher`): when the batch is full, or when nothing has
arrived for some milliseconds (fewer when every run in flight waits). *Collection* (`LockstepBatcher`): when
every run in flight waits for the model, without any timer, so that batches and their rounding are
reproducible; the event loop's idle moment is the signal (`agents.idle`). Inside a cut, requests are sorted
by (length, key).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from agents.call import Completion, Policy, Request
from agents.passage import Passage, Retriever


class Batcher(Protocol):
    """The one way from a run to the policy and the retriever."""

    @property
    def policy(self) -> Policy:
        """Return the policy that samples."""

    @property
    def inline(self) -> bool:
        """Return whether blocking work may be done in the event loop, which is then ours alone."""

    def enter(self, run: str) -> None:
        """Count `run` as in flight."""

    def leave(self, run: str) -> None:
        """Stop counting `run`."""

    def submit(self, run: str, request: Request) -> Future[Completion]:
        """Queue one generation of `run`."""

    def search(self, run: str, retriever: Retriever, query: str, k: int) -> Future[list[Passage]]:
        """Queue one retrieval of `run`."""


@dataclass
class _Item:
    """One queued piece of work: a request, or a query when `retriever` is set."""

    run: str
    work: Any
    future: Future[Any] = field(default_factory=Future)
    retriever: Retriever | None = None
    k: int = 0
    thread: bool = False
    """Whether a thread of the collector stands still until this is done."""


def _place(item: _Item) -> tuple[int, tuple[str, ...]]:
    request: Request = item.work
    return len(request.prompt.ids), tuple(str(part) for part in request.key)


def _deliver(items: Sequence[_Item], compute: Callable[[list[_Item]], Sequence[Any]]) -> None:
    """Compute results for the items that nobody cancelled; every future gets a result or an error."""
    live = [item for item in items if item.future.set_running_or_notify_cancel()]
    try:
        _settle(live, compute)
    except BaseException as error:
        for item in live:
            if not item.future.done():
                item.future.set_exception(error)
        if not isinstance(error, Exception):
            raise


def _settle(items: list[_Item], compute: Callable[[list[_Item]], Sequence[Any]]) -> None:
    """Compute results; a batch that fails is tried again in halves, so that one bad item fails alone."""
    if not items:
        return
    try:
        results = compute(items)
    except Exception as error:
        if len(items) == 1:
            items[0].future.set_exception(error)
            return
        _settle(items[: len(items) // 2], compute)
        _settle(items[len(items) // 2 :], compute)
        return
    for item, result in zip(items, results, strict=True):
        item.future.set_result(result)


def _sample(policy: Policy, items: Sequence[_Item]) -> None:
    _deliver(sorted(items, key=_place), lambda live: policy.sample([item.work for item in live]))


def _lookup(retriever: Retriever, k: int, items: Sequence[_Item]) -> list[list[Passage]]:
    return retriever.search([item.work for item in items], k)


def _search(items: Sequence[_Item]) -> None:
    """Answer queries in one search per (retriever, k)."""
    groups: dict[tuple[int, int], list[_Item]] = {}
    for item in items:
        groups.setdefault((id(item.retriever), item.k), []).append(item)
    for group in groups.values():
        retriever, k = group[0].retriever, group[0].k
        if retriever is not None:
            _deliver(group, partial(_lookup, retriever, k))


class TimedBatcher:
    """Batches for serving: a worker thread that waits at most a few milliseconds for company."""

    inline = False

    def __init__(
        self,
        policy: Policy,
        *,
        quiet_seconds: float = 0.004,
        patience_seconds: float = 0.02,
        max_rows: int = 64,
    ) -> None:
        """Start no thread yet; the worker starts with the first request and dies with the process."""
        self.policy = policy
        self._quiet = quiet_seconds
        self._patience = patience_seconds
        self._max_rows = max_rows
        self._pending: list[_Item] = []
        self._runs: dict[str, int] = {}
        self._changed = threading.Condition()
        self._worker: threading.Thread | None = None
        self._last = 0.0

    def enter(self, run: str) -> None:
        """Count `run` as in flight."""
        with self._changed:
            self._runs[run] = self._runs.get(run, 0) + 1

    def leave(self, run: str) -> None:
        """Stop counting `run`; those that still wait may now be all."""
        with self._changed:
            self._runs[run] = self._runs.get(run, 1) - 1
            if self._runs[run] <= 0:
                del self._runs[run]
            self._changed.notify_all()

    def submit(self, run: str, request: Request) -> Future[Completion]:
        """Queue one generation; any thread may call."""
        item = _Item(run, request)
        with self._changed:
            if self._worker is None or not self._worker.is_alive():
                self._worker = threading.Thread(target=self._serve, name="jade-batcher", daemon=True)
                self._worker.start()
            self._pending.append(item)
            self._last = time.monotonic()
            self._changed.notify_all()
        return item.future

    def search(self, run: str, retriever: Retriever, query: str, k: int) -> Future[list[Passage]]:
        """Search at once in the calling thread: a query takes milliseconds and needs no company."""
        item = _Item(run, query, retriever=retriever, k=k)
        _search([item])
        return item.future

    def _serve(self) -> None:
        while True:
            _sample(self.policy, self._cut())

    def _cut(self) -> list[_Item]:
        """Wait for the next batch: enough rows, or quiet."""
        with self._changed:
            while not self._pending:
                self._changed.wait()
            while len(self._pending) < self._max_rows:
                left = self._last + self._pause() - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            batch, self._pending = self._pending[: self._max_rows], self._pending[self._max_rows :]
            return batch

    def _pause(self) -> float:
        """Return how long to wait for company, in seconds: longer while some run in flight has not spoken."""
        waiting = {item.run for item in self._pending}
        return self._quiet if waiting.issuperset(self._runs) else self._patience


class LockstepBatcher:
    """Batches for collection: cut exactly when every run in flight waits.

    `idle` is called by the event loop when nothing is ready to run; it answers all queued queries, else (when
    each run in flight has a queued request) samples all queued requests in one `policy.sample`. While a thread
    still works for some branch of a run (LangGraph runs conditional edges and sync-only nodes in threads), it
    waits; but at most for `patience_seconds`, since that thread might wait for another one that waits for us.
    """

    inline = True

    def __init__(self, policy: Policy, patience_seconds: float = 5.0) -> None:
        """Bind to the policy; `idle` does the work."""
        self.policy = policy
        self.wake: Callable[[], None] = lambda: None
        """Wakes the event loop; called after each submission, which may come from another thread."""
        self.busy: Callable[[], int] = lambda: 0
        """Returns how many threads are at work for the runs, those that wait for us included."""
        self._patience = patience_seconds
        self._stuck: tuple[tuple[int, int], float] | None = None
        self._requests: list[_Item] = []
        self._queries: list[_Item] = []
        self._runs: dict[str, int] = {}
        self._lock = threading.Lock()
        self.model_seconds = 0.0
        """Wall seconds spent in `policy.sample`."""
        self.retrieval_seconds = 0.0
        """Wall seconds spent in retrieval."""

    def enter(self, run: str) -> None:
        """Count `run` as in flight."""
        with self._lock:
            self._runs[run] = self._runs.get(run, 0) + 1

    def leave(self, run: str) -> None:
        """Stop counting `run`."""
        with self._lock:
            self._runs[run] = self._runs.get(run, 1) - 1
            if self._runs[run] <= 0:
                del self._runs[run]

    def submit(self, run: str, request: Request) -> Future[Completion]:
        """Queue one generation for the next cut."""
        item = _Item(run, request, thread=_in_thread())
        with self._lock:
            self._requests.append(item)
        self.wake()
        return item.future

    def search(self, run: str, retriever: Retriever, query: str, k: int) -> Future[list[Passage]]:
        """Queue one retrieval; all queued queries are answered before the next cut."""
        item = _Item(run, query, retriever=retriever, k=k, thread=_in_thread())
        with self._lock:
            self._queries.append(item)
        self.wake()
        return item.future

    def idle(self) -> bool:
        """Do one round of queued work; return whether any was done."""
        if self._awaits_thread():
            return False
        with self._lock:
            queries, self._queries = self._queries, []
        if queries:
            started = time.perf_counter()
            _search(queries)
            self.retrieval_seconds += time.perf_counter() - started
            return True
        with self._lock:
            waiting = {item.run for item in self._requests}
            if not self._requests or not waiting.issuperset(self._runs):
                return False
            requests, self._requests = self._requests, []
        started = time.perf_counter()
        _sample(self.policy, requests)
        self.model_seconds += time.perf_counter() - started
        return True

    def _awaits_thread(self) -> bool:
        """Return whether a thread is still at work, unless nothing has changed for as long as patience lasts."""
        with self._lock:
            items = [*self._requests, *self._queries]
            waiting = sum(item.thread for item in items)
        state = (self.busy(), len(items))
        if not items or state[0] <= waiting:
            self._stuck = None
            return False
        if self._stuck is None or self._stuck[0] != state:
            self._stuck = state, time.monotonic()
        if time.monotonic() - self._stuck[1] < self._patience:
            return True
        self._stuck = None
        return False


def _in_thread() -> bool:
    """Return whether the caller is outside any event loop, and so will block for its result."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False
