"""One request while a server answers it: what was heard outlives a broken connection; only the rest is asked for."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

from agents.call import Request
from agents.constraint import Grammars, State
from agents.errors import ServerError
from agents.model_engine import Row, Speech
from agents.remote_wire import Ask, Heard
from agents.sampling import draw_among


class RemoteRow(Row):
    """A row that is fed by events; stopping, masks and text are those of a local row."""

    def __init__(self, request: Request, state: State | None, speech: Speech, vocabulary: int) -> None:
        """Start with the tokens that the constraint forces.

        Args:
            request: What is asked for.
            state: Of its constraint.
            speech: How tokens become text.
            vocabulary: Tokens of the model that the server should run.
        """
        super().__init__(request, state, speech)
        self._vocabulary = vocabulary
        self._started = time.perf_counter()
        self._heard = 0
        """Response tokens that the server has sent or was told."""

    @property
    def ends_by_itself(self) -> bool:
        """Return whether the server stops here too: at an end token, or with its budget."""
        return self.ids[-1] in self._speech.eos or len(self.ids) >= self.request.max_new_tokens

    def ask(self, speaker: str | None) -> Ask:
        """Return the request for what is still missing."""
        request = self.request
        whole = request.constraint is not None and bool(request.constraint.regex)
        self._heard = 0 if whole else len(self.ids)
        few = self.allowed is not None and not whole
        return Ask(
            ids=request.prompt.ids + (() if whole else tuple(self.ids)),
            most=request.max_new_tokens - self._heard,
            temperature=request.temperature,
            seed=_seed(request.key, len(self.ids)),
            stop=request.stop,
            speaker=speaker,
            allowed=tuple(int(token) for token in self.allowed) if few and self.allowed is not None else (),
            regex=request.constraint.regex if whole and request.constraint is not None else "",
        )

    def hear(self, heard: Heard) -> None:
        """Append the tokens of an event; what follows a finished response is ignored.

        Raises:
            ServerError: Tokens without log-probabilities, of another model, or outside the constraint.
        """
        if len(heard.ids) != len(heard.logprobs):
            raise ServerError(
                f"the server sent {len(heard.ids)} tokens with {len(heard.logprobs)} log-probabilities; it is too old, "
                "or this is the wrong dialect"
            )
        for token, logprob in zip(heard.ids, heard.logprobs, strict=True):
            if self.finished:
                return
            if self._heard < len(self.ids):
                self._same(token)
            else:
                self._push(token, logprob)
            self._heard += 1

    def choose(self, scores: Mapping[int, float]) -> None:
        """Draw the next token among the allowed ones as a local model draws it.

        Args:
            scores: Token → log-probability at τ = 1; absent = too small for the server's numbers.

        Raises:
            ServerError: None of the allowed tokens has a score.
        """
        ids = self.allowed
        if ids is None or not any(int(token) in scores for token in ids):
            raise ServerError("the server returned no probabilities of the allowed tokens; is this the right dialect?")
        token, logprob = draw_among(scores, ids, self.request.key, len(self.ids), self.request.temperature)
        self._push(token, logprob)

    def guess(self, tokens: Sequence[int]) -> None:
        """Append tokens that were not all sent, read from their text; they do not count as sampled (m = 0)."""
        for token in tokens:
            if not self.finished:
                self._append(token, 0.0, 0)
        self._heard = len(self.ids)

    def end(self, cut: bool) -> None:
        """Finish where the server did, by a rule of its own or at the end of its context."""
        self.finished = True
        self.truncated = self.truncated or cut

    def _same(self, token: int) -> None:
        if token != self.ids[self._heard]:
            raise ServerError(_OTHER_GRAMMAR.format(token=token))

    def _push(self, token: int, logprob: float) -> None:
        if token >= self._vocabulary:
            raise ServerError(
                f"the server sent token {token} of {self._vocabulary}: it runs another model than was named"
            )
        now = time.perf_counter()
        if self.prefill_seconds == 0.0:
            self.prefill_seconds = now - self._started
        else:
            self.decode_seconds = now - self._started - self.prefill_seconds
        try:
            self.push(token, logprob)
        except ValueError as error:
            raise ServerError(_OTHER_GRAMMAR.format(token=token)) from error


_OTHER_GRAMMAR = (
    "the server sampled token {token} where the constraint does not allow it: its grammar differs from ours; ask with "
    'decoding="free"'
)


def start_row(request: Request, grammars: Grammars, speech: Speech, vocabulary: int) -> RemoteRow:
    """Return the row of a request of which nothing was heard."""
    state = None if request.constraint is None else grammars.start(request.constraint)
    return RemoteRow(request, state, speech, vocabulary)


def _seed(key: Sequence[Any], heard: int) -> int:
    """Return the server's seed for the rest of a response: of the call's key and place alone, below 2³¹."""
    text = json.dumps([list(key), heard], ensure_ascii=True)
    return int.from_bytes(blake2b(text.encode("ascii"), digest_size=4).digest(), "big") >> 1
