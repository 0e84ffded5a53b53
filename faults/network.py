"""The network on loopback: refused, slow, or cut in mid-body, before the servers of model, index and tracking."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from typing import Any

from faults import chroma, model, tracking
from faults.collected import Scene, now_and_then, through
from faults.lives import PATIENCE, start, whole
from faults.model_server import ModelServer
from faults.proxy import Fault, Proxy
from faults.rows import Plan, Row
from faults.running import running
from faults.toy import Job, train

KINDS: tuple[tuple[Fault, str], ...] = (
    ("refused", "connections refused for 0.1 to 0.6 s, open ones cut"),
    ("slow", "answers in pieces of 256 bytes, up to 20 ms late each"),
    ("cut", "each connection cut after 0 to 4000 bytes of answers"),
)


def run(plan: Plan) -> Iterator[Row]:
    """Put a proxy before each server and let it misbehave in each way."""
    server = ModelServer(plan.start)
    with running(server), closing(Proxy(server.port, plan.seed)) as proxy:
        patient = (f"http://127.0.0.1:{proxy.port}", plan.start, 60.0)
        yield from _each(plan, "the network to the model server", proxy, model.remote, patient)
    store = chroma.ChromaServer(plan.folder / "chroma-behind-proxy")
    with running(store), closing(Proxy(store.port, plan.seed)) as proxy:
        store.fill()
        waiting = (f"http://127.0.0.1:{proxy.port}", plan.start, "hnsw", 20.0)
        yield from _each(plan, "the network to Chroma", proxy, chroma.searching, waiting)
    numbers = tracking.MlflowServer(plan.folder / "mlflow-behind-proxy")
    with running(numbers), closing(Proxy(numbers.port, plan.seed)) as proxy:
        yield from _tracked(plan, proxy)


def _each(plan: Plan, part: str, proxy: Proxy, make: Any, arguments: tuple[Any, ...]) -> Iterator[Row]:
    for fault, done in KINDS:

        def disturb(process: ForkServerProcess, fault: Fault = fault) -> int:
            return _misbehave(proxy, fault, process, plan)

        name = f"{part.rpartition(' ')[2]}-{fault}"
        yield through(plan, f"network-{name.lower()}", Scene(part, done, make, arguments, disturb))


def _tracked(plan: Plan, proxy: Proxy) -> Iterator[Row]:
    """Track a job through the proxy, once for each way."""
    calm = Job(str(plan.folder / "untracked"), plan.start, plan.questions, plan.batch)
    whole(calm)
    for fault, done in KINDS:

        def disturb(job: Job, fault: Fault = fault) -> int:
            process = start(train, job)
            times = _misbehave(proxy, fault, process, plan)
            tracking.ends(process, job)
            return times

        output = str(plan.folder / f"network-mlflow-{fault}")
        job = replace(calm, output=output, store=f"http://127.0.0.1:{proxy.port}")
        yield tracking.tracked(calm, job, "the network to MLflow", done, disturb)


def _misbehave(proxy: Proxy, fault: Fault, process: ForkServerProcess, plan: Plan) -> int:
    """Misbehave until the process has ended; return how many connections met it."""
    draw, before = random.Random(plan.seed), proxy.times
    proxy.fault = fault
    proxy.hang_up()
    if fault == "refused":
        now_and_then(process, plan, lambda: proxy.refuse(draw.uniform(0.1, 0.6)))
    process.join(PATIENCE)
    proxy.fault = "none"
    return proxy.times - before
