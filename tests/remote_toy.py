"""A real HTTP server around the toy model, which speaks as llama.cpp's server and as vLLM do.

It samples by code of its own, a full forward a token, so that agreement with the local model says something. Faults
are switched on by the test that wants them.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from agents.call import Constraint
from agents.model import SharedModel
from agents.model_text import TextSide
from tests.ports import free_port
from tests.toy_model import toy_model

CONTEXT = 960
Answer = Callable[[Request], Awaitable[Response]]


@dataclass
class ToyServer:
    """What the server does, and what was done to it."""

    model: SharedModel
    slow: float = 0.0
    """Seconds before each token."""
    holds_back: bool = False
    """Whether tokens that end inside a character are not sent, as llama.cpp does."""
    processed: bool = True
    """Whether vLLM was started with --logprobs-mode processed_logprobs."""
    key: str | None = None
    owner: str = "vllm"
    """What it says that it is, in its list of models."""
    refusals: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """(status, headers) of the next responses."""
    verbatim: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    """(headers, body) of the next answers, whatever was asked."""
    about: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    """The same of the next questions that are not prompts."""
    loading: int = 0
    """To so many questions that are not prompts it says 503, as llama.cpp's server while it loads its model."""
    stalled: bool = False
    """Whether it takes questions that are not prompts and says nothing."""
    loads: list[str] = field(default_factory=list)
    """Names of the adapters that it was told to load."""
    breaks_after: int | None = None
    """The next answer breaks off after so many tokens."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    finished: int = 0
    aborted: int = 0
    """Answers whose reader hung up before their end."""
    busy: int = 0
    busiest: int = 0
    """Most answers at once."""

    def app(self) -> Starlette:
        """Return the ASGI application."""
        get = [("/props", self.props), ("/lora-adapters", self.loras), ("/v1/models", self.models)]
        post = [("/completion", self.completion), ("/v1/completions", self.completions)]
        post += [("/v1/load_lora_adapter", self.load), ("/v1/unload_lora_adapter", self.unload)]
        routes = [Route(path, self.when_ready(done)) for path, done in get]
        return Starlette(routes=routes + [Route(path, self.when_ready(done), methods=["POST"]) for path, done in post])

    def when_ready(self, done: Answer) -> Answer:
        """Return what answers, for one that may be stalled or still loading."""
        if done in (self.completion, self.completions):
            return done

        async def answer(request: Request) -> Response:
            while self.stalled:
                await asyncio.sleep(0.01)
            if self.loading:
                self.loading -= 1
                return JSONResponse({"error": {"code": 503, "message": "Loading model"}}, 503)
            if not self.about:
                return await done(request)
            headers, told = self.about.pop(0)
            return Response(told, headers=headers)

        return answer

    async def props(self, request: Request) -> Response:
        return JSONResponse({"default_generation_settings": {"n_ctx": CONTEXT}, "model_path": "toy.gguf"})

    async def loras(self, request: Request) -> Response:
        return JSONResponse([])

    async def models(self, request: Request) -> Response:
        cards = [{"id": "toy", "max_model_len": CONTEXT, "parent": None, "owned_by": self.owner}]
        cards += [
            {"id": name, "max_model_len": None, "parent": "toy", "owned_by": self.owner} for name in self.model.adapters
        ]
        return JSONResponse({"data": cards})

    async def load(self, request: Request) -> Response:
        body = await request.json()
        self.loads.append(body["lora_name"])
        if body["lora_name"] in self.model.adapters:
            return JSONResponse({"error": {"message": "has already been loaded"}}, 400)
        self.model.add_adapter(body["lora_name"], body["lora_path"])
        return Response("Success")

    async def unload(self, request: Request) -> Response:
        self.model.remove_adapter((await request.json())["lora_name"])
        return Response("Success")

    async def completion(self, request: Request) -> Response:
        return await self._answered(request, "llama.cpp")

    async def completions(self, request: Request) -> Response:
        return await self._answered(request, "vllm")

    async def _answered(self, request: Request, dialect: str) -> Response:
        body = await request.json()
        self.asked.append(body)
        if self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": "no key"}, 401)
        if self.refusals:
            status, headers = self.refusals.pop(0)
            return JSONResponse({"error": "not now"}, status, headers)
        if self.verbatim:
            headers, told = self.verbatim.pop(0)
            return Response(told, headers=headers, media_type="text/event-stream")
        if dialect == "vllm" and body["model"] not in ("toy", *self.model.adapters):
            return JSONResponse({"error": {"message": f"The model `{body['model']}` does not exist."}}, 404)
        assert all(isinstance(token, int) for token in body["prompt"])
        form = llama_events if dialect == "llama.cpp" else vllm_events
        return StreamingResponse(self._stream(form(self, body)), media_type="text/event-stream")

    async def _stream(self, events: Iterator[dict[str, Any]]) -> AsyncIterator[str]:
        """Send events; an iterator that is dropped before its end belongs to a reader who hung up."""
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        whole = False
        try:
            for sent, event in enumerate(events):
                if self.breaks_after is not None and sent >= self.breaks_after:
                    self.breaks_after, whole = None, True
                    raise ConnectionResetError("switched off in the middle")
                await asyncio.sleep(self.slow)
                yield f"data: {json.dumps(event)}\n\n"
            whole = True
            self.finished += 1
        finally:
            self.busy -= 1
            self.aborted += not whole


def llama_events(server: ToyServer, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what llama.cpp sends: probabilities after the samplers, or log-probabilities before them."""
    generator, ids, reason = torch.Generator().manual_seed(body["seed"]), list(body["prompt"]), "limit"
    assert body["samplers"] == ["temperature"], "top-k and its like would be in force"
    for count in range(1, body["n_predict"] + 1):
        logits = last_logits(server.model, ids, None)
        biased = logits.clone()
        for token, bias in body.get("logit_bias", ()):
            biased[token] += bias
        token, chain = sampled(biased, body["temperature"], generator)
        ids.append(token)
        reported = chain if body["post_sampling_probs"] else torch.log_softmax(logits, 0)
        name = ("prob", "top_probs") if body["post_sampling_probs"] else ("logprob", "top_logprobs")
        shown = reported.exp() if body["post_sampling_probs"] else reported
        top = [{"id": int(i), name[0]: float(shown[i])} for i in reported.topk(body["n_probs"]).indices]
        new = ids[len(body["prompt"]) :]
        text = server.model.tokenizer.decode(new)
        if not (server.holds_back and text.endswith("\ufffd")):
            yield {
                "content": text[-4:], "tokens": [token], "stop": False, "tokens_predicted": count,
                "completion_probabilities": [{"id": token, name[0]: float(shown[token]), name[1]: top}],
            }  # fmt: skip
        if token == server.model.end_token:
            reason = "eos"
            break
    yield {"content": "", "tokens": [], "stop": True, "stop_type": reason, "tokens_predicted": count}


def vllm_events(server: ToyServer, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what vLLM sends: log-probabilities before restrictions and temperature (raw), or after both (processed)."""
    generator, ids = torch.Generator().manual_seed(body["seed"]), list(body["prompt"])
    adapter = None if body["model"] == "toy" else body["model"]
    matches = body.get("structured_outputs", {}).get("regex")
    state = None if matches is None else server.model.grammars.start(Constraint(regex=matches))
    for count in range(1, body["max_tokens"] + 1):
        logits = last_logits(server.model, ids, adapter)
        raw = torch.log_softmax(logits, 0)
        allowed = list(body.get("allowed_token_ids", ()))
        if state is not None:
            allowed = [int(token) for token in state.allowed()] or [server.model.end_token]
        if allowed:
            outside = torch.ones_like(logits, dtype=torch.bool)
            outside[allowed] = False
            logits = logits.masked_fill(outside, float("-inf"))
        token, chain = sampled(logits, body["temperature"], generator)
        ids.append(token)
        if state is not None and not state.done:
            state.advance(token)
        shown = chain if server.processed else raw
        top = {f"token_id:{int(i)}": float(shown[i]) for i in [token, *shown.topk(body["logprobs"] or 1).indices]}
        new = ids[len(body["prompt"]) :]
        stopped = any(stop in server.model.tokenizer.decode(new) for stop in body.get("stop", ()))
        ended = "stop" if stopped or token == server.model.end_token else None
        reason = ended or ("length" if count == body["max_tokens"] else None)
        found = {"tokens": [f"token_id:{token}"], "token_logprobs": [float(shown[token])], "top_logprobs": [top]}
        yield {"choices": [{"text": "", "token_ids": [token], "logprobs": found, "finish_reason": reason}]}
        if reason:
            return


def last_logits(model: SharedModel, ids: list[int], adapter: str | None) -> torch.Tensor:
    """Return the next token's logits, (vocabulary,), by one forward over everything."""
    with model.using(adapter) as module, torch.inference_mode():
        return module(torch.tensor([ids])).logits[0, -1].float()


def sampled(logits: torch.Tensor, tau: float, generator: torch.Generator) -> tuple[int, torch.Tensor]:
    """Return a token and the log-probabilities that it was drawn from; greedy: those at τ = 1."""
    if tau == 0:
        return int(logits.argmax()), torch.log_softmax(logits, 0)
    logprobs = torch.log_softmax(logits / tau, 0)
    return int(torch.multinomial(logprobs.exp(), 1, generator=generator)), logprobs


def _listens(port: int, seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    raise TimeoutError(f"nothing listens on port {port}")


@contextmanager
def toy_server(port: int | None = None, **options: Any) -> Iterator[tuple[ToyServer, str]]:
    """Serve a toy model of its own on a thread; yields the server and its address."""
    toy, port = ToyServer(**{"model": toy_model(), **options}), port or free_port()
    server = uvicorn.Server(uvicorn.Config(toy.app(), port=port, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    _listens(port)
    try:
        yield toy, f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)


class ServerProcess:
    """The toy server as a process of its own, which can be killed and started again at its port."""

    def __init__(self, slow: float) -> None:
        """Start it."""
        self.port, self._slow = free_port(), slow
        self._model = toy_model()
        self.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it (again); forked, so that nothing has to be loaded."""
        app = ToyServer(self._model, slow=self._slow).app()
        config: dict[str, Any] = {"port": self.port, "log_config": None, "lifespan": "off"}
        self._process = multiprocessing.get_context("fork").Process(target=uvicorn.run, args=(app,), kwargs=config)
        self._process.daemon = True
        self._process.start()
        _listens(self.port)

    def kill(self) -> None:
        """Do kill -9."""
        self._process.kill()
        self._process.join()


def side() -> TextSide:
    """Return the text side of the toy model."""
    return TextSide.of(toy_model())
