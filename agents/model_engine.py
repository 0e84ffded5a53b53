"""The decode loop: one micro-batch of calls of any roles, from prefill to the last token (DESIGN §5 "Sampling").

A token that the constraint forces is appended without sampling: before prefill it joins the prompt, at the end of a
response it costs no forward at all.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from agents.call import Completion, Request
from agents.constraint import State, TokenIds
from agents.sampling import draw, greedy, masked_logprobs, uniforms


class Batch(Protocol):
    """Keys and values of the rows being decoded."""

    def prefill(self) -> Tensor:
        """Run the prompts and return the next logits, (rows, vocabulary)."""

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Append one token to each row and return the next logits, (rows, vocabulary)."""

    def drop(self, row: int) -> None:
        """Forget a finished row; the last row takes its place."""


class Speech:
    """How a tokenizer turns response tokens into text, and when a stop tag is complete."""

    def __init__(self, tokenizer: Any, eos: Sequence[int]) -> None:
        """Bind to a tokenizer and the tokens that end a response."""
        self._tokenizer = tokenizer
        self.eos = frozenset(eos)
        self._closing: dict[str, frozenset[int]] = {}

    def text(self, ids: Sequence[int], stop: str | None = None) -> str:
        """Decode without special tokens, cut right after `stop`."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        end = text.find(stop) if stop else -1
        return text if end < 0 or stop is None else text[: end + len(stop)]

    def completes(self, ids: Sequence[int], stop: str) -> bool:
        """Return whether the last token completes `stop`; decodes only where that token could."""
        return ids[-1] in self._may_close(stop[-1]) and self.text(ids, stop).endswith(stop)

    def _may_close(self, last: str) -> frozenset[int]:
        """Return the tokens whose own text holds the character `last`."""
        if last not in self._closing:
            pieces = self._tokenizer.get_vocab()
            plain = "!" <= last <= "~"  # printable ASCII stands for itself in every byte-level vocabulary
            self._closing[last] = frozenset(i for piece, i in pieces.items() if last in piece or not plain)
        return self._closing[last]


class Row:
    """One request while it is answered.

    Attributes:
        fed: Response tokens that the cache holds.
        allowed: M of the next token; None = the whole vocabulary.
    """

    def __init__(self, request: Request, state: State | None, speech: Speech) -> None:
        self.request = request
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.mask: list[int] = []
        self.fed = 0
        self.allowed: TokenIds | None = None
        self.finished = False
        self.truncated = False
        self.prefill_seconds = 0.0
        self.decode_seconds = 0.0
        self._state, self._speech = state, speech
        self._settle()

    @property
    def waits(self) -> bool:
        """Return whether the next token must be sampled: all known tokens are in the cache."""
        return not self.finished and self.fed == len(self.ids)

    @property
    def tau(self) -> float:
        """Return the temperature of the recorded log-probabilities: τ, or 1 when greedy."""
        return self.request.temperature or 1.0

    def push(self, token: int, logprob: float) -> None:
        """Append a sampled token, and whatever the constraint forces after it."""
        self._append(token, logprob, 1)
        self._settle()

    def _settle(self) -> None:
        while self._state is not None and not self.finished:
            ids = self._state.allowed()
            if len(ids) == 0:
                self.finished = True
            elif len(ids) == 1:
                self._append(int(ids[0]), 0.0, 0)
            else:
                self.allowed = ids
                return

    def _append(self, token: int, logprob: float, mask: int) -> None:
        self.ids.append(token)
        self.logprobs.append(logprob)
        self.mask.append(mask)
        if self._state is not None:
            self._state.advance(token)
        stop = self.request.stop
        spoken = token in self._speech.eos or (stop is not None and self._speech.completes(self.ids, stop))
        if spoken or (self._state is not None and self._state.done):
            self.finished = True
        elif len(self.ids) >= self.request.max_new_tokens:
            self.finished = self.truncated = True
        if self.request.on_text is not None:
            self.request.on_text(self._speech.text(self.ids, stop).rstrip("\ufffd"))

    def completion(self, batch: int) -> Completion:
        """Return the finished row as it is recorded."""
        return Completion(
            tuple(self.ids),
            tuple(self.logprobs),
            tuple(self.mask),
            self._speech.text(self.ids, self.request.stop),
            self.truncated,
            self.prefill_seconds,
            self.decode_seconds,
            batch,
        )


def sample_tokens(logits: Tensor, rows: Sequence[Row]) -> None:
    """Sample one token for each row from its own M, τ and counter-based random numbers.

    Args:
        logits: (rows, vocabulary).
        rows: Rows that wait for a token, in the order of `logits`.
    """
    device = logits.device
    tau = torch.tensor([row.tau for row in rows], device=device)
    logprobs = masked_logprobs(logits, allowed_mask([row.allowed for row in rows], logits.shape[1], device), tau)
    tokens = greedy(logprobs)
    sampled = [i for i, row in enumerate(rows) if row.request.temperature > 0]
    if sampled:
        u = np.stack([uniforms(rows[i].request.key, len(rows[i].ids), logits.shape[1]) for i in sampled])
        index = torch.tensor(sampled, device=device)
        tokens[index] = draw(logprobs[index], torch.from_numpy(u).to(device))
    chosen = logprobs.gather(1, tokens[:, None])[:, 0].tolist()
    for row, token, logprob in zip(rows, tokens.tolist(), chosen, strict=True):
        row.push(token, logprob)


def allowed_mask(sets: Sequence[TokenIds | None], vocabulary: int, device: torch.device) -> Tensor | None:
    """Return M as bool (rows, vocabulary), or None when every row is free.

    Args:
        sets: One M a row; None = the whole vocabulary.
        vocabulary: Width of the logits.
        device: Where the logits are.
    """
    if all(ids is None for ids in sets):
        return None
    mask = torch.zeros((len(sets), vocabulary), dtype=torch.bool)
    for row, ids in enumerate(sets):
        if ids is None:
            mask[row] = True
        else:
            mask[row, torch.from_numpy(ids)] = True
    return mask.to(device)


def decode(batch: Batch, rows: Sequence[Row]) -> None:
    """Answer all rows of a micro-batch; `Row.fed` tells which response tokens prefill already holds.

    Args:
        batch: Slots of exactly these rows, in this order.
        rows: Unfinished rows; finished on return. Prefill and decode seconds are shared equally.
    """
    start = time.perf_counter()
    logits = batch.prefill()
    _sample_waiting(logits, rows)
    share = (time.perf_counter() - start) / len(rows)
    for row in rows:
        row.prefill_seconds = share
    active = list(rows)
    while True:
        for place in range(len(active) - 1, -1, -1):
            if active[place].finished and len(active) > 1:
                batch.drop(place)
                active[place] = active[-1]
                active.pop()
        if active[0].finished and len(active) == 1:
            return
        start = time.perf_counter()
        tokens = [row.ids[row.fed] for row in active]
        logits = batch.step(tokens)
        for row in active:
            row.fed += 1
        _sample_waiting(logits, active)
        share = (time.perf_counter() - start) / len(active)
        for row in active:
            row.decode_seconds += share


def _sample_waiting(logits: Tensor, rows: Sequence[Row]) -> None:
    waiting = [i for i, row in enumerate(rows) if row.waits]
    if len(waiting) == len(rows):
        sample_tokens(logits, rows)
    elif waiting:
        sample_tokens(logits[torch.tensor(waiting, device=logits.device)], [rows[i] for i in waiting])
