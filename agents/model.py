"""The one local model that plays all roles: a causal language model, its tokenizer, and named adapters.

Everything random, masked or stopped is defined in `sampling`, `constraint` and `model_engine`; this file puts calls
into micro-batches and keeps the books (DESIGN §5). Simplification: a micro-batch runs under one adapter.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import nn

from agents.adapters import AdapterInfo, content_hash, read_adapter
from agents.call import Completion, Constraint, Message, Prompt, Request
from agents.constraint import Grammars
from agents.embedded import Progress
from agents.errors import ConfigError, PromptError
from agents.model_adapters import AdapterSet
from agents.model_batches import plan_batches
from agents.model_engine import Row, Speech, decode
from agents.model_facts import end_tokens, forward_slots, memory_hash, text_base
from agents.model_force import Forced, force
from agents.model_load import load_backbone
from agents.model_prefix import PrefixCache
from agents.model_prompt import PromptEncoder
from agents.model_slots import Layout


class SharedModel:
    """A policy over one local model; implements `agents.call.Policy`. Thread-safe: one lock around the model."""

    def __init__(
        self,
        module: nn.Module,
        tokenizer: Any,
        *,
        name: str = "custom",
        weights: str | None = None,
        text_digest: str = "",
        rows: int = 32,
        tokens: int = 32_768,
        prefix_tokens: int = 8_192,
    ) -> None:
        """Wrap a loaded model.

        Args:
            module: A transformers causal language model, in evaluation mode.
            tokenizer: Its fast tokenizer, with a chat template.
            name: Name of the base in records.
            weights: Hash of its weights; None = computed from memory.
            text_digest: Hash of prompts, grammar and record schema; may be set later.
            rows: Most rows of a micro-batch.
            tokens: Most slots (rows × longest row) of a micro-batch.
            prefix_tokens: Most head tokens kept in the prefix cache; 0 turns sharing off.
        """
        self.module, self.tokenizer, self.name = module, tokenizer, name
        self.weights = weights or memory_hash(module)
        self.text_digest = text_digest
        self.rows, self.tokens = rows, tokens
        self.adapter_set = AdapterSet(module)
        self.adapter: str | None = None
        """The adapter that `identity` speaks of: the one given to `load`, or set by the trainer."""
        self.version = "0"
        self.lock = threading.RLock()
        config: Any = module.config
        text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
        self._config = text_config
        self._forward = forward_slots(module, text_config)
        self._eos = end_tokens(module, tokenizer)
        self._encoder = PromptEncoder(tokenizer)
        self._speech = Speech(tokenizer, self._eos)
        self.grammars = Grammars(tokenizer, int(text_config.vocab_size), self._eos[0])
        self._layout = Layout(module, text_config, PrefixCache(prefix_tokens))
        self._policies: dict[str, str] = {}
        self._infos: dict[str, AdapterInfo] = {}
        self._text_base = text_base(self.weights, tokenizer)

    @staticmethod
    def load(
        model: str | Path | None = None,
        *,
        adapter: str | Path | None = None,
        dtype: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        text_digest: str = "",
        progress: Progress | None = None,
    ) -> SharedModel:
        """Load a backbone and, if given, an adapter for it.

        Args:
            model: None = the embedded default; an existing folder; or a hub id.
            adapter: An adapter folder, loaded under the name "default".
            dtype: "auto", "bf16", "fp16" or "fp32"; auto = bf16 where the hardware multiplies it.
            device: "auto" or a torch device.
            threads: CPU threads of torch; None = torch's own choice.
            text_digest: Hash of prompts, grammar and record schema.
            progress: Called with one line per stage.

        Raises:
            ConfigError: Model or adapter cannot be used as given.
            SetupError: The embedded default cannot be prepared.
        """
        if threads is not None:
            if threads < 1:
                raise ConfigError(f"threads={threads}: give 1 or more, or leave it out")
            torch.set_num_threads(threads)
        found = load_backbone(model, dtype, device, progress or (lambda line: None))
        shared = SharedModel(
            found.module, found.tokenizer, name=found.name, weights=found.weights, text_digest=text_digest
        )
        if adapter is not None:
            shared.add_adapter("default", adapter)
            shared.adapter = "default"
        return shared

    @property
    def context_length(self) -> int:
        """Return the most tokens that prompt and response may have together."""
        return int(getattr(self._config, "max_position_embeddings", 2048))

    @property
    def end_token(self) -> int:
        """Return the token that ends a response where no closing tag does."""
        return int(self._eos[0])

    @property
    def identity(self) -> Mapping[str, str]:
        """Return the hashes that travel with each run: what is rendered ("text") and who speaks ("policy")."""
        text = blake2b(f"{self._text_base}|{self.text_digest}".encode(), digest_size=16).hexdigest()
        return {
            "text": text,
            "policy": self.policy_hash(self.adapter),
            "base": self.name,
            "base_weights": self.weights,
            "adapter": self.adapter or "",
            "version": self.version,
            "dtype": str(next(self.module.parameters()).dtype).removeprefix("torch."),
        }

    def policy_hash(self, adapter: str | None) -> str:
        """Return the identity of one speaker: an adapter's content hash, or the base's.

        Raises:
            ConfigError: The adapter is not loaded.
        """
        if adapter is None:
            return f"base:{self.weights}"
        if adapter not in self._policies:
            self._policies[adapter] = f"memory:{self.adapter_set.fingerprint(adapter)}"
        return self._policies[adapter]

    @property
    def adapters(self) -> tuple[str, ...]:
        """Return the names of the loaded adapters."""
        return self.adapter_set.names

    def add_adapter(self, name: str, folder: str | Path, *, trainable: bool = False) -> AdapterInfo:
        """Load an adapter folder (DESIGN §6) under a name, replacing one of that name.

        Prompt set and text hash are for the caller to compare with the returned card (`read_adapter`).

        Raises:
            ConfigError: The folder is incomplete, or its adapter belongs to another base.
        """
        path = Path(folder).expanduser()
        info = read_adapter(path, base_weights=self.weights)
        with self.lock:
            self.adapter_set.load(name, path, trainable=trainable)
            self.refresh(name, content_hash(path))
            self._infos[name] = info
        return info

    def adapter_info(self, name: str) -> AdapterInfo | None:
        """Return the card of an adapter loaded from a folder; None for one made in memory."""
        return self._infos.get(name)

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter; unknown names are ignored."""
        with self.lock:
            self.adapter_set.remove(name)
            self._policies.pop(name, None)
            self._infos.pop(name, None)
            self._layout.clear()

    def refresh(self, name: str | None = None, policy: str | None = None) -> None:
        """Tell the model that weights have changed: drop all cached heads, and rename the speaker.

        Args:
            name: The adapter that changed; None = the base (or anything).
            policy: Its new content hash; None = taken from memory when asked for.
        """
        with self.lock:
            self._layout.clear()
            if name is None:
                self._policies.clear()
            else:
                self._policies.pop(name, None)
                if policy is not None:
                    self._policies[name] = policy

    @contextmanager
    def using(self, adapter: str | None) -> Iterator[nn.Module]:
        """Hold the model with one adapter active (None = base), for forwards outside of `sample`.

        The decoding buffers are given back first: training needs the memory.

        Raises:
            ConfigError: The adapter is not loaded.
        """
        with self.lock, self.adapter_set.using(adapter):
            self._layout.release()
            yield self.module

    def encode(self, messages: Sequence[Message]) -> Prompt:
        """Render chat turns to tokens; no content can yield a special token.

        Raises:
            PromptError: The model has no chat template.
        """
        with self.lock:
            return self._encoder.encode(messages)

    def sample(self, requests: Sequence[Request]) -> list[Completion]:
        """Sample all requests; results in their order.

        Requests are grouped by adapter, sorted by (tail length, key) and cut into micro-batches by a row cap and a
        token budget, so that the batches depend on the requests alone.

        Raises:
            PromptError: A prompt with its response budget exceeds the context.
            ConfigError: An adapter is not loaded, or a constraint does not compile.
        """
        for request in requests:
            self._check(request)
        done: list[Completion | None] = [None] * len(requests)
        with self.lock, torch.inference_mode():
            for places in plan_batches(requests, self.rows, self.tokens, self._forward):
                completions = self._answer([requests[place] for place in places])
                for place, completion in zip(places, completions, strict=True):
                    done[place] = completion
        return [completion for completion in done if completion is not None]

    def teacher_force(
        self,
        rows: Sequence[tuple[Sequence[int], Sequence[int], Constraint | None, float]],
        adapter: str | None = None,
    ) -> list[list[float]]:
        """Recompute log-probabilities of recorded responses with a full forward, no cache involved.

        Args:
            rows: (prompt tokens, response tokens, constraint, τ) each; τ > 0 (1 for greedy calls).
            adapter: Who speaks; None = base.

        Returns:
            For each row one log-probability a response token: 0.0 where |M| = 1, −inf outside M.

        Raises:
            ConfigError: The adapter is not loaded, or a constraint does not compile.
        """
        forced = [Forced(tuple(prompt), tuple(ids), constraint, tau) for prompt, ids, constraint, tau in rows]
        with self.using(adapter), torch.inference_mode():
            return force(self.module, self.grammars, forced, self.rows, self.tokens)

    def choice_logprobs(
        self, prompt: Prompt, choices: Sequence[str], adapter: str | None = None, tau: float = 1.0
    ) -> list[float]:
        """Return the exact log-probability of each choice under decoding constrained to `choices`.

        A choice that begins another one ends with EOS, as it does when sampled. Their probabilities sum to 1.
        """
        constraint = Constraint(choices=tuple(choices))
        rows = [(prompt.ids, self.grammars.complete(constraint, choice), constraint, tau) for choice in choices]
        return [sum(logprobs) for logprobs in self.teacher_force(rows, adapter)]

    def _check(self, request: Request) -> None:
        total = len(request.prompt.ids) + request.max_new_tokens
        if request.max_new_tokens < 1 or not request.prompt.ids:
            raise ConfigError(f"a call of {request.role} needs a prompt and max_new_tokens of 1 or more")
        if total > self.context_length:
            raise PromptError(
                f"the prompt of {request.role} has {len(request.prompt.ids)} tokens, with {request.max_new_tokens} for "
                f"the response {total}; the model's context holds {self.context_length}. Shorten question or documents"
            )
        if request.adapter is not None and request.adapter not in self.adapters:
            loaded = ", ".join(self.adapters) or "none"
            raise ConfigError(f"no adapter {request.adapter!r} is loaded; loaded: {loaded}")

    def _answer(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer one micro-batch; all its requests share an adapter."""
        rows = []
        for request in requests:
            state = None if request.constraint is None else self.grammars.start(request.constraint)
            rows.append(Row(request, state, self._speech))
        waiting = [row for row in rows if not row.finished]
        if waiting:
            for row in waiting:
                row.fed = len(row.ids)
            with self.adapter_set.using(requests[0].adapter):
                policy = self.policy_hash(requests[0].adapter)
                decode(self._layout.lay_out(waiting, policy), waiting)
        return [row.completion(max(1, len(waiting))) for row in rows]
