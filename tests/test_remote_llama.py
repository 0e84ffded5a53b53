"""The real llama.cpp server, from the wheel `xllamacpp`, with the embedded model's own GGUF file."""

import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from agents.call import Completion, Constraint, Request
from agents.embedded import MODEL, _is_gguf, _take
from agents.errors import ServerError
from agents.model import SharedModel
from agents.remote import RemotePolicy
from tests.ports import free_port
from tests.remote_toy import _listens
from training.parity import BF16, Gap, gap, joined, parity_problem

PYTHON = os.environ.get("JADE_LLAMA_PYTHON") or (sys.executable if importlib.util.find_spec("xllamacpp") else "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PYTHON, reason="no xllamacpp: pip install it, or let JADE_LLAMA_PYTHON name a Python that has it"
    ),
]
QUESTIONS = ("Who wrote Dune?", "What is the capital of France?", "Why is the sky blue?", "Name a river in Egypt.")
MEASURED = {"τ = 0": (0.046, 0.41), "τ = 0.7": (0.069, 0.92), "τ = 1": (0.070, 0.72), "M": (0.009, 0.03)}
"""Mean |Δ| a token and largest |ΣΔ| of a call, in nats, as docs/scaling.md reports them of the wheel's own file."""
PLANS = Constraint(choices=("<workflow>R,AG</workflow>", "<workflow>QDS</workflow>", "<workflow>QDP</workflow>"))


class LlamaProcess:
    """The server as a process."""

    def __init__(self, file: Path) -> None:
        self.file, self.port = file, free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        script = Path(__file__).with_name("llama_server.py")
        self._process = subprocess.Popen([PYTHON, str(script), str(self.file), str(self.port)])
        _listens(self.port, 60)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def busy(self) -> int:
        slots = httpx.get(f"{self.address}/slots", trust_env=False, timeout=30).json()
        return sum(slot["is_processing"] for slot in slots)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaProcess]:
    given = os.environ.get("JADE_LLAMA_GGUF")  # the embedded weights in another number format, say
    file = Path(given) if given else _take(MODEL, tmp_path_factory.mktemp("gguf"), _is_gguf, lambda line: None)[0]
    process = LlamaProcess(file)
    yield process
    process.kill()


def requests_of(policy: RemotePolicy, count: int, tokens: int, tau: float) -> list[Request]:
    turns = [[{"role": "user", "content": QUESTIONS[i]}] for i in range(count)]
    return [
        Request((i, "root", 0), "AG", policy.encode(turn), tokens, tau)
        for i, turn in enumerate(turns)  # type: ignore[arg-type]
    ]


def test_the_mismatch_with_the_trainer_is_small_and_choices_hold(server, capsys):
    policy, shared = RemotePolicy(server.address), SharedModel.load(threads=1)
    assert policy.identity["text"] == shared.identity["text"]
    gaps: dict[str, list[Gap]] = {}
    for name, tau, constraint in (
        ("τ = 0", 0.0, None),
        ("τ = 0.7", 0.7, None),
        ("τ = 1", 1.0, None),
        ("M", 1.0, PLANS),
    ):
        requests = [
            Request(r.key, r.role, r.prompt, r.max_new_tokens, tau, None, constraint)
            for r in requests_of(policy, 4, 16, tau)
        ]
        found = policy.sample(requests)
        rows = [(r.prompt.ids, c.response_ids, r.constraint, tau or 1.0) for r, c in zip(requests, found, strict=True)]
        forced = shared.teacher_force(rows)
        gaps[name] = [gap(c.logprobs, again, c.mask) for c, again in zip(found, forced, strict=True)]
        if constraint is not None:
            assert all(item.text in constraint.choices for item in found)
    with capsys.disabled():
        for name, items in gaps.items():
            line = f"\n{name}: mean |Δ| {joined(items).mean:.4f} nat, largest call {joined(items).total:.3f}"
            sys.stdout.write(line)
    for name, items in gaps.items():
        if "JADE_LLAMA_GGUF" in os.environ:  # the very weights: what the trainer would ask of runs that it learns from
            assert parity_problem(items, BF16) is None, name
        else:
            whole = joined(items)
            assert whole.mean < 1.5 * MEASURED[name][0] and whole.total < 2.0 * MEASURED[name][1], name


def test_a_cancelled_request_stops_on_the_server(server):
    policy = RemotePolicy(server.address)
    begun = threading.Event()
    request = Request(
        (9,), "AG", requests_of(policy, 1, 1, 1.0)[0].prompt, 1500, 1.0, on_text=lambda text: begun.set(),
        stop="no such text",
    )  # fmt: skip
    failures: list[ServerError] = []

    def ask() -> None:
        try:
            policy.sample([request])
        except ServerError as error:
            failures.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    assert begun.wait(60)
    assert server.busy() == 1
    policy.cancel(request.key)
    asking.join(30)
    assert "cancelled" in str(failures[0])
    until = time.monotonic() + 10
    while server.busy():
        assert time.monotonic() < until


def test_killed_in_the_middle_of_a_batch_and_started_again(server):
    policy = RemotePolicy(server.address, patience_seconds=120)
    heard: dict[int, str] = {}

    def listener(i: int):
        return lambda text: heard.__setitem__(i, text)

    requests = [
        Request(r.key, r.role, r.prompt, 40, 0.0, on_text=listener(i))
        for i, r in enumerate(requests_of(policy, 4, 40, 0.0))
    ]
    found: list[Completion] = []
    asking = threading.Thread(target=lambda: found.extend(policy.sample(requests)))
    asking.start()
    while len(heard) < 4:
        time.sleep(0.01)
    server.kill()
    before = dict(heard)
    server.start()
    asking.join(120)
    assert len(found) == 4
    for i, item in enumerate(found):
        assert item.text.startswith(before[i])
        assert item.truncated or item.response_ids[-1] == 2
        assert len(item.response_ids) <= 40
