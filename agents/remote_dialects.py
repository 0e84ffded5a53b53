"""How inference servers are spoken to by token ids and log-probabilities: one small class a dialect.

`LlamaCpp` is run against the real server in tests; `Vllm` is coded to its documentation (0.11 and later) and was not
run against one here. A third is a class with these methods.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from pathlib import Path, PurePath
from typing import Any

from agents.adapters import content_hash
from agents.errors import ConfigError, ServerError
from agents.remote_http import Connection
from agents.remote_wire import EXACT, MALFORMED, RAW, Ask, Facts, Heard, understand, unlike

_BIAS = 100.0
"""Added to the scores of allowed tokens: the others keep less than e^-100 times their odds, and fp32 keeps 1e-5 nat."""


class LlamaCpp:
    """llama.cpp's own server: `llama-server`, or the wheel `xllamacpp`.

    Log-probabilities are exact at any temperature: the sampler chain is temperature alone, and probabilities are taken
    after it (greedy: of the model itself, which is τ = 1). Adapters are GGUF files that it starts with; ours are called
    as their files are.
    """

    name, path, stops, constrains = "llama.cpp", "/completion", False, False

    async def facts(self, connection: Connection) -> Facts:
        """Ask for model, context of a slot, and adapters."""
        props, adapters = await connection.get("/props"), await connection.get("/lora-adapters")
        try:
            context = int(props["default_generation_settings"]["n_ctx"])
            speakers = {PurePath(str(item["path"])).stem: str(item["id"]) for item in adapters}
        except MALFORMED as error:
            raise unlike(self, connection.address, "/props", error) from error
        return Facts(PurePath(str(props.get("model_path", ""))).name, context, EXACT, speakers)

    def body(self, ask: Ask, facts: Facts) -> dict[str, Any]:
        """Return the JSON of a request; it never names a stop, since that would cut off log-probabilities."""
        body: dict[str, Any] = {
            "prompt": list(ask.ids),
            "n_predict": 1 if ask.allowed else ask.most,
            "stream": True,
            "return_tokens": True,
            "cache_prompt": True,
            "seed": ask.seed,
            "samplers": ["temperature"],
            "temperature": 1.0 if ask.allowed else ask.temperature,
            "post_sampling_probs": bool(ask.allowed) or ask.temperature > 0,
            "n_probs": len(ask.allowed) or 1,
        }
        if ask.allowed:
            body["logit_bias"] = [[token, _BIAS] for token in ask.allowed]
        if facts.speakers:
            body["lora"] = [] if ask.speaker is None else [{"id": int(ask.speaker), "scale": 1.0}]
        return body

    def read(self, event: Mapping[str, Any]) -> Heard:
        """Read one event: a token with its probability, or the end."""
        sampled = event.get("tokens_predicted")
        if event.get("stop"):
            return Heard(sampled=sampled, done=True, cut=event.get("stop_type") != "eos")
        found = event.get("completion_probabilities") or []
        scores = {int(top["id"]): _log(top) for item in found for top in item.get("top_probs", ())}
        ids = tuple(int(token) for token in event.get("tokens", ()))
        return Heard(ids, tuple(_log(item) for item in found), scores, str(event.get("content", "")), sampled)

    async def load(self, connection: Connection, name: str, folder: Path) -> str:
        """Refuse: this server takes adapters at its start only.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            f"llama.cpp's server at {connection.address} loads adapters at its start only: convert {folder} with "
            f"llama.cpp's convert_lora_to_gguf.py to {name}.gguf, start it again with --lora {name}.gguf, and ask for "
            f"the adapter {name!r}; a vLLM server loads adapters while it runs"
        )

    async def unload(self, connection: Connection, speaker: str) -> None:
        """Do nothing: nothing was loaded."""


class Vllm:
    """vLLM's OpenAI-compatible server, `/v1/completions` with token ids.

    Start it with `--logprobs-mode processed_logprobs`: by default vLLM reports log-probabilities at τ = 1 before
    restrictions. Which of the two it does is measured once, by one token that is allowed alone. For adapters:
    `--enable-lora` and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True; each content has a name of its own, so that no cached
    prefix of an older adapter is used.
    """

    name, path, stops, constrains = "vLLM", "/v1/completions", True, True

    def __init__(self, model: str | None = None) -> None:
        """Name the served base; None = the first that the server lists."""
        self._model = model

    async def facts(self, connection: Connection) -> Facts:
        """Ask for model, context and adapters, and measure what its log-probabilities are."""
        listed = await connection.get("/v1/models")
        try:
            cards = {str(card["id"]): card for card in listed["data"]}
            model = self._model or next(name for name, card in cards.items() if not card.get("parent"))
            context = int(cards[model]["max_model_len"])
        except (*MALFORMED, StopIteration) as error:
            raise unlike(self, connection.address, "/v1/models", error) from error
        speakers = {name: name for name, card in cards.items() if card.get("parent")}
        facts = Facts(model, context, RAW, speakers)
        body = {**self.body(Ask((0,), 1, 1.0, 0), facts), "allowed_token_ids": [0]}
        told: list[float] = []
        async for event in connection.events(self.path, body):
            told += understand(self, event, connection.address).logprobs
        if not told:
            raise ServerError(f"{connection.address} ({self.name}) returned no log-probabilities to a probe; update it")
        return Facts(model, context, EXACT if abs(told[0]) < 1e-3 else RAW, speakers)

    def body(self, ask: Ask, facts: Facts) -> dict[str, Any]:
        """Return the JSON of a request; every sampling default that a model may bring along is overridden."""
        body: dict[str, Any] = {
            "model": ask.speaker or facts.model,
            "prompt": list(ask.ids),
            "max_tokens": 1 if ask.allowed else ask.most,
            "temperature": 1.0 if ask.allowed else ask.temperature,
            "seed": ask.seed,
            "stream": True,
            "logprobs": len(ask.allowed),
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "add_special_tokens": False,
            "skip_special_tokens": False,
            **{"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
            **{"presence_penalty": 0.0, "frequency_penalty": 0.0},
        }
        if ask.stop is not None:
            body |= {"stop": [ask.stop], "include_stop_str_in_output": True}
        if ask.allowed:
            body["allowed_token_ids"] = list(ask.allowed)
        if ask.regex:
            body["structured_outputs"] = {"regex": ask.regex}
        return body

    def read(self, event: Mapping[str, Any]) -> Heard:
        """Read one event: some tokens with their log-probabilities, and how the response ended."""
        choices = event.get("choices") or []
        if not choices:
            return Heard()
        choice = choices[0]
        found = choice.get("logprobs") or {}
        named = [_token(text) for text in found.get("tokens") or ()]
        ids = tuple(int(token) for token in choice.get("token_ids") or named)
        tops = found.get("top_logprobs") or ()
        scores = {_token(text): float(value) for top in tops if top for text, value in top.items()}
        reason = choice.get("finish_reason")
        values = tuple(float(value) for value in found.get("token_logprobs") or ())
        return Heard(ids, values, scores, str(choice.get("text", "")), None, reason is not None, reason == "length")

    async def load(self, connection: Connection, name: str, folder: Path) -> str:
        """Load a peft folder, which the server must see under the same path; doing it twice changes nothing.

        Raises:
            ConfigError: The folder is incomplete.
            ServerError: The server refuses.
        """
        speaker = f"{name}-{content_hash(folder)[:12]}"
        if await self._has(connection, speaker):
            return speaker
        try:
            await connection.post("/v1/load_lora_adapter", {"lora_name": speaker, "lora_path": str(folder.resolve())})
        except ServerError as error:  # also where another client, or a try of ours whose answer was lost, was faster
            if error.status is None or not await self._has(connection, speaker):
                raise
        return speaker

    async def unload(self, connection: Connection, speaker: str) -> None:
        """Forget an adapter."""
        await connection.post("/v1/unload_lora_adapter", {"lora_name": speaker})

    async def _has(self, connection: Connection, speaker: str) -> bool:
        listed = await connection.get("/v1/models")
        try:
            return speaker in {str(card["id"]) for card in listed["data"]}
        except MALFORMED as error:
            raise unlike(self, connection.address, "/v1/models", error) from error


def _log(item: Mapping[str, Any]) -> float:
    """Return the log-probability in llama.cpp's entry, which has either of two forms."""
    if "logprob" in item:
        return float(item["logprob"])
    return log(max(float(item["prob"]), 1e-45))


def _token(text: str) -> int:
    """Read vLLM's "token_id:17"."""
    return int(text.removeprefix("token_id:"))
