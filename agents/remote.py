"""The policy on an inference server: prompts go as token ids, tokens with their log-probabilities come back.

Everything of a response that can be decided here is decided here, by the code of the local model: tokenizer and
template, where a response stops, what a constraint allows, which tokens were forced. The server samples free tokens
itself, so a run is repeated by another server of its kind and not by the local model. DESIGN §5, §6.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

from agents.adapters import read_adapter
from agents.call import Completion, Message, Prompt, Request
from agents.constraint import Grammars
from agents.errors import ConfigError, PromptError, ServerError
from agents.lazy import Once
from agents.model_engine import Speech
from agents.model_prompt import PromptEncoder
from agents.model_text import UNKNOWN, TextSide
from agents.remote_adapters import Adapters
from agents.remote_ask import Asker, Texts
from agents.remote_dialects import LlamaCpp, Vllm
from agents.remote_http import Connection
from agents.remote_kept import Kept, Outcome
from agents.remote_row import RemoteRow, start_row
from agents.remote_wire import EXACT, Dialect, Facts

DIALECTS: Mapping[str, type[LlamaCpp] | type[Vllm]] = {"llama.cpp": LlamaCpp, "vllm": Vllm}


class RemotePolicy:
    """Implements `agents.call.Policy` over an inference server. Thread-safe; requests run on a thread of its own."""

    def __init__(
        self,
        address: str,
        tokenizer: str | Path | TextSide | None = None,
        *,
        dialect: str | Dialect = "auto",
        key: str | None = None,
        text_digest: str = "",
        concurrency: int = 16,
        deadline_seconds: float = 600.0,
        patience_seconds: float = 60.0,
    ) -> None:
        """Name a server; nothing is asked yet.

        Args:
            address: "http://host:port".
            tokenizer: The model that the server runs, for its tokenizer and template: a folder, a hub id, None = the
                embedded default, or a text side.
            dialect: "llama.cpp", "vllm", "auto" = which of them the server says it is, or a dialect of your own.
            key: API key, sent as a bearer token.
            text_digest: Hash of prompts, grammar and record schema.
            concurrency: Most requests at once; the others wait here.
            deadline_seconds: Most seconds of one request, or of a question to the server about itself, all tries
                together.
            patience_seconds: How long to go on trying while the server is away or refuses for the moment.

        Raises:
            ConfigError: An argument cannot be used as given.
        """
        if not address.startswith(("http://", "https://")) or "@" in address:
            raise ConfigError(f"the inference server's address is {address!r}; wanted http://HOST:PORT, a key in key=")
        if isinstance(dialect, str) and dialect not in ("auto", *DIALECTS):
            raise ConfigError(f"dialect {dialect!r} is unknown; allowed: auto, {', '.join(DIALECTS)}")
        if concurrency < 1 or deadline_seconds <= 0 or patience_seconds < 0:
            raise ConfigError("concurrency must be 1 or more, deadline_seconds above 0, patience_seconds 0 or more")
        self.text_digest, self.version = text_digest, "0"
        self.adapter: str | None = None
        """The adapter that `identity` speaks of."""
        self._dialect: Once[Dialect] = Once(lambda: self._find(dialect) if isinstance(dialect, str) else dialect)
        self._side = Once(lambda: tokenizer if isinstance(tokenizer, TextSide) else TextSide.load(tokenizer))
        self._encoder = Once(lambda: PromptEncoder(self._side().tokenizer))
        self._speech = Once(lambda: Speech(self._side().tokenizer, self._side().ends))
        self._grammars = Once(self._make_grammars)
        self._facts = Once(self._ask_facts)
        self._lock = threading.RLock()
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._connection = Connection(address, headers, concurrency)
        self._asker = Asker(self._connection, self._dialect, concurrency, deadline_seconds, patience_seconds)
        self._loaded = Adapters(self._connection, self._asker, self._dialect)
        self._texts = Texts(
            self._start, self._tokens, self._speaker, lambda request: self._loaded.restore(request.adapter), self._facts
        )
        self._kept = Kept()

    @property
    def facts(self) -> Facts:
        """Return what the server says about itself, asked once.

        Raises:
            ServerError: It cannot be reached, or is of another kind.
        """
        return self._facts()

    @property
    def context_length(self) -> int:
        """Return the most tokens that prompt and response may have together: the server's, or the model's if less."""
        return min(self.facts.context_length, self._side().context_length)

    @property
    def identity(self) -> Mapping[str, str]:
        """Return the hashes of the model that the server is said to run; replay parity checks that it does.

        "logprobs" is "exact", or says what the server's log-probabilities are instead: such runs are not for training.
        """
        side = self._side()
        text = blake2b(f"{side.base}|{self.text_digest}".encode(), digest_size=16).hexdigest()
        adapter = self.adapter
        loaded = self._loaded.get(adapter)
        other = f"base:{side.weights}" if adapter is None else f"server:{adapter}"
        return {
            "text": text,
            "policy": other if loaded is None else loaded.content,
            "base": side.name,
            "base_weights": side.weights,
            "adapter": adapter or "",
            "version": self.version,
            "server": self._dialect().name,
            "logprobs": self.facts.logprobs,
        }

    @property
    def adapters(self) -> tuple[str, ...]:
        """Return the adapters that requests may name."""
        return tuple(sorted({*self.facts.speakers, *self._loaded.names}))

    def load_adapter(self, name: str, folder: str | Path) -> None:
        """Have the server load an adapter folder under a name, in place of what had that name, as after an update.

        A server that was started anew has forgotten it; the first request that it misses has it loaded again, as long
        as the folder still holds the same.

        Raises:
            ConfigError: The folder is incomplete, belongs to another base, or the server loads no adapters.
            ServerError: The server cannot be reached or refuses.
        """
        path, weights = Path(folder).expanduser(), self._side().weights
        read_adapter(path, base_weights=None if weights == UNKNOWN else weights)
        self._loaded.load(name, path)

    def encode(self, messages: Sequence[Message]) -> Prompt:
        """Render chat turns to tokens; no content can yield a special token.

        Raises:
            PromptError: The model has no chat template.
        """
        with self._lock:
            return self._encoder().encode(messages)

    def sample(self, requests: Sequence[Request]) -> list[Completion]:
        """Have the server answer all requests, at most `concurrency` at once; results in their order.

        Where some fail, what the others said is kept for a moment: a batcher that tries again in parts has no request
        answered twice.

        Raises:
            PromptError: A prompt with its response budget exceeds the context.
            ConfigError: An adapter is not loaded, or the server cannot constrain so.
            ServerError: The server did not answer in time, refused, or the request was cancelled.
        """
        started = time.perf_counter()
        known = self._kept.take(requests)
        try:
            failed = any(isinstance(outcome, Exception) for outcome in known)
            outcomes = known if failed else self._complete(requests, known)
        except BaseException:
            self._kept.keep(requests, known)
            raise
        failure = next((outcome for outcome in outcomes if isinstance(outcome, Exception)), None)
        if failure is None:
            return _shares([item for item in outcomes if isinstance(item, Completion)], time.perf_counter() - started)
        if len(requests) > 1:
            self._kept.keep(requests, outcomes)
        raise failure

    def cancel(self, key: tuple[str | int, ...] | None = None) -> None:
        """Abort the request with a key, or all: the server stops at once, and `sample` raises ServerError."""
        self._asker.cancel(key)

    def close(self) -> None:
        """Abort what runs, whose callers get a ServerError, and close all connections; the policy is of no use then."""
        self._asker.close()

    def _ask_facts(self) -> Facts:
        dialect = self._dialect()
        return self._asker.insist("saying what it runs", lambda: dialect.facts(self._connection))

    def _find(self, dialect: str) -> Dialect:
        """Return the dialect of a name; "auto" asks the server, which says in its list of models what it is."""
        if dialect != "auto":
            return DIALECTS[dialect]()
        listed = self._asker.insist("saying what it is", lambda: self._connection.get("/v1/models"))
        cards = listed.get("data") if isinstance(listed, dict) else None
        owners = {str(card.get("owned_by")) for card in cards or () if isinstance(card, dict)}
        if "llamacpp" in owners:
            return LlamaCpp()
        if "vllm" in owners:
            return Vllm()
        raise ServerError(
            f"{self._connection.address} says it is neither llama.cpp's server nor vLLM's (its models are owned by "
            f"{', '.join(sorted(owners)) or 'nobody'}); give the address of one, or dialect= ({', '.join(DIALECTS)})"
        )

    def _complete(self, requests: Sequence[Request], known: Sequence[Outcome | None]) -> list[Outcome | None]:
        """Ask for what is not known, and return all; a server that cannot be reached at all fails every request."""
        asked = [request for request, outcome in zip(requests, known, strict=True) if outcome is None]
        try:
            for request in asked:
                self._check(request)
        except ServerError as error:
            return [outcome or error for outcome in known]
        news = iter(self._asker.run(self._asker.sample(asked, self._texts)) if asked else ())
        return [outcome or next(news) for outcome in known]

    def _start(self, request: Request) -> RemoteRow:
        with self._lock:
            return start_row(request, self._grammars(), self._speech(), self._side().vocabulary)

    def _tokens(self, text: str) -> Sequence[int]:
        with self._lock:
            ids: list[int] = self._side().tokenizer.encode(text, add_special_tokens=False)
            return ids

    def _make_grammars(self) -> Grammars:
        side = self._side()
        return Grammars(side.tokenizer, side.vocabulary, side.ends[0])

    def _check(self, request: Request) -> None:
        total, constraint = len(request.prompt.ids) + request.max_new_tokens, request.constraint
        if request.max_new_tokens < 1 or not request.prompt.ids:
            raise ConfigError(f"a call of {request.role} needs a prompt and max_new_tokens of 1 or more")
        if total > self.context_length:
            raise PromptError(
                f"the prompt of {request.role} and its response may have {total} tokens; a request to the server at "
                f"{self._connection.address} holds {self.context_length}. Shorten it, or start the server with more"
            )
        if constraint is not None and constraint.regex and not self._dialect().constrains:
            raise ConfigError(
                f"a {self._dialect().name} server cannot hold {request.role} to a pattern; ask with "
                'decoding="free", or use a vLLM server'
            )
        if constraint is not None and self.facts.logprobs != EXACT:
            raise ConfigError(
                f"the {self._dialect().name} server at {self._connection.address} returns log-probabilities "
                f'{self.facts.logprobs}, which is not enough to constrain {request.role}: ask with decoding="free", or '
                "start vLLM with --logprobs-mode processed_logprobs"
            )
        if request.adapter is not None and request.adapter not in self.adapters:
            loaded = ", ".join(self.adapters) or "none"
            raise ConfigError(f"the server has no adapter {request.adapter!r}; it has: {loaded}")

    def _speaker(self, request: Request) -> str | None:
        if request.adapter is None:
            return None
        loaded = self._loaded.get(request.adapter)
        return self.facts.speakers[request.adapter] if loaded is None else loaded.speaker


def _shares(completions: Sequence[Completion], wall: float) -> list[Completion]:
    """Scale the seconds of requests that ran at the same time to shares of the wall time, as records want them."""
    total = sum(item.prefill_seconds + item.decode_seconds for item in completions)
    scale = min(1.0, wall / total) if total > 0 else 0.0
    return [
        replace(item, prefill_seconds=item.prefill_seconds * scale, decode_seconds=item.decode_seconds * scale)
        for item in completions
    ]
