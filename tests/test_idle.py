"""When an event loop has nothing to do, and what it must not forget then."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from agents.batcher import LockstepBatcher
from agents.call import Prompt, Request
from agents.idle import CountedThreads, IdleSelector
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


def test_threads_are_counted_until_they_end() -> None:
    threads, go, seen = CountedThreads(), threading.Event(), []
    futures = [threads.submit(go.wait, 5) for _ in range(40)]
    futures[0].add_done_callback(lambda _: seen.append(threads.busy))
    assert threads.busy == 40
    go.set()
    assert all(future.result(5) for future in futures) and threads.busy == 0 and seen[0] < 40
    threads.shutdown()


def test_a_failed_job_has_ended_too() -> None:
    threads = CountedThreads()
    assert isinstance(threads.submit(lambda: 1 // 0).exception(5), ZeroDivisionError)
    assert threads.busy == 0
    threads.shutdown()
