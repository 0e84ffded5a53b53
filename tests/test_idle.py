"""When an event loop has nothing to do, and what it must not forget then."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import pytest

from agents.batcher import LockstepBatcher
from agents.call import Completion, Prompt, Request
from agents.idle import IdleSelector, LockstepLoop
from tests.scripted import ScriptedPolicy, encode_text


def loop_with(on_idle: Callable[[], bool]) -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop(IdleSelector(on_idle))


def test_the_idle_moment_comes_when_nothing_is_ready() -> None:
    log: list[str] = []
    futures: list[Future[None]] = []

    def idle() -> bool:
        if not futures:
            return False
        log.append("idle")
        futures.pop().set_result(None)
        return True

    async def work(name: str) -> None:
        for step in range(2):
            log.append(f"{name}{step}")
            await asyncio.sleep(0)
        futures.append(future := Future())
        await asyncio.wrap_future(future)

    async def main() -> None:
        await asyncio.gather(work("a"), work("b"))

    with asyncio.Runner(loop_factory=lambda: loop_with(idle)) as runner:
        runner.run(main())
    assert log == ["a0", "b0", "a1", "b1", "idle", "idle"]


def test_timers_and_threads_still_wake_the_loop() -> None:
    async def main() -> list[str]:
        async def nap() -> str:
            await asyncio.sleep(0.02)
            return "timer"

        return list(await asyncio.gather(nap(), asyncio.to_thread(lambda: time.sleep(0.05) or "thread")))

    with asyncio.Runner(loop_factory=lambda: loop_with(lambda: False)) as runner:
        assert runner.run(main()) == ["timer", "thread"]


def test_lockstep_is_woken_by_a_submission_from_a_thread() -> None:
    batcher = LockstepBatcher(ScriptedPolicy(lambda role, user: user.upper()))
    loop = loop_with(batcher.idle)
    batcher.wake = lambda: loop.call_soon_threadsafe(lambda: None) and None
    batcher.enter("a")

    def node() -> str:
        time.sleep(0.05)  # the loop is asleep by now
        return (
            batcher.submit("a", Request((0,), "r", Prompt(tuple(encode_text("from a thread")), 0), 50)).result(5).text
        )

    try:
        assert loop.run_until_complete(asyncio.wait_for(loop.run_in_executor(None, node), 5)) == "FROM A THREAD"
    finally:
        loop.close()


def test_an_idle_loop_asks_again_by_itself() -> None:
    asked: list[float] = []
    future: Future[None] = Future()

    def idle() -> bool:
        asked.append(time.monotonic())
        if len(asked) == 2:
            future.set_result(None)
        return len(asked) == 2

    async def main() -> None:
        await asyncio.wrap_future(future)

    with asyncio.Runner(loop_factory=lambda: loop_with(idle)) as runner:
        runner.run(main())
    assert len(asked) >= 2


def test_jobs_in_threads_are_counted_until_the_loop_learns_of_their_end() -> None:
    loop, go = LockstepLoop(lambda: False), threading.Event()

    async def main() -> int:
        jobs = [loop.run_in_executor(None, go.wait, 5) for _ in range(40)]
        assert loop.busy == 40
        go.set()
        assert all([await job for job in jobs])
        failed = loop.run_in_executor(None, lambda: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            await failed
        await asyncio.to_thread(go.wait)
        return loop.busy

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        assert runner.run(main()) == 0


def test_no_batch_is_cut_between_the_end_of_a_thread_and_its_news(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.idle.ASK_AGAIN", 0.01)  # the loop looks for idle work all the time
    sizes: list[int] = []

    class Late(LockstepLoop):
        """A thread's news reach this loop late."""

        def call_soon_threadsafe(self, *given: Any, **named: Any) -> asyncio.Handle:
            if threading.current_thread().name.startswith("jade-node"):
                time.sleep(0.1)
            return super().call_soon_threadsafe(*given, **named)

    class Counting(ScriptedPolicy):
        def sample(self, requests: Sequence[Request]) -> list[Completion]:
            sizes.append(len(requests))
            return super().sample(requests)

    batcher = LockstepBatcher(Counting(lambda role, user: user))
    loop = Late(batcher.idle)
    batcher.busy = lambda: loop.busy
    batcher.enter("a")

    async def branch(text: str, threaded: bool) -> str:
        if threaded:
            await asyncio.to_thread(time.sleep, 0.02)
        request = Request((0,), "r", Prompt(tuple(encode_text(text)), 0), 50)
        return (await asyncio.wrap_future(batcher.submit("a", request))).text

    async def main() -> list[str]:
        return list(await asyncio.gather(branch("one", False), branch("two", True)))

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        assert runner.run(main()) == ["one", "two"]
    assert sizes == [2]


def test_a_thread_that_nobody_awaits_any_more_still_counts() -> None:
    sizes: list[int] = []

    class Counting(ScriptedPolicy):
        def sample(self, requests: Sequence[Request]) -> list[Completion]:
            sizes.append(len(requests))
            return super().sample(requests)

    batcher = LockstepBatcher(Counting(lambda role, user: user))
    loop, go = LockstepLoop(batcher.idle), threading.Event()
    batcher.wake = lambda: loop.call_soon_threadsafe(lambda: None) and None
    batcher.busy = lambda: loop.busy

    def request(text: str) -> Request:
        return Request((0,), "r", Prompt(tuple(encode_text(text)), 0), 50)

    def forsaken() -> None:
        go.wait(5)
        batcher.submit("left", request("forsaken")).result(5)

    async def branch(text: str, threaded: bool) -> str:
        if threaded:
            await asyncio.to_thread(time.sleep, 0.1)
        return (await asyncio.wrap_future(batcher.submit("a", request(text)))).text

    async def main() -> list[str]:
        batcher.enter("a")
        job = asyncio.ensure_future(asyncio.to_thread(forsaken))
        await asyncio.sleep(0.01)
        job.cancel()
        go.set()
        return list(await asyncio.gather(branch("one", False), branch("two", True)))

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        assert runner.run(main()) == ["one", "two"]
    assert sizes == [3], "the thread that waits must not stand for the one that works"
    assert loop.busy == 0
