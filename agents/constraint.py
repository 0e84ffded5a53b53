"""The allowed set M of each token, as a pure function of (constraint, response prefix) (DESIGN §5 "Sampling").

Sampling and teacher forcing walk the same states, so recorded and recomputed log-probabilities are taken over the
same M. A finite set of responses becomes a trie over canonical tokenisations; a regular expression is run by
llguidance. Where nothing may follow, the response is complete: no end token is sampled or appended there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from agents.call import Constraint
from agents.errors import ConfigError

TokenIds = NDArray[np.int64]
_KEPT = 512
"""Compiled constraints kept, least recently used dropped first."""


class State(Protocol):
    """Where a response stands in its constraint; mutable, one per response."""

    @property
    def done(self) -> bool:
        """Return whether the response is complete and nothing may follow."""

    def allowed(self) -> TokenIds:
        """Return M for the next token, ascending; empty when done."""

    def advance(self, token: int) -> None:
        """Append a token of M.

        Raises:
            ValueError: The token is not in M.
        """


@dataclass
class _Node:
    """One prefix of the trie."""

    children: dict[int, _Node] = field(default_factory=dict)
    terminal: bool = False


class _TrieState:
    """A walk through the trie of complete responses."""

    def __init__(self, root: _Node, eos: int) -> None:
        self._node = root
        self._eos = eos
        self._ended = False

    @property
    def done(self) -> bool:
        return self._ended or not self._node.children

    def allowed(self) -> TokenIds:
        if self.done:
            return np.empty(0, dtype=np.int64)
        ids = list(self._node.children)
        if self._node.terminal:  # a complete response that is also the start of a longer one
            ids.append(self._eos)
        return np.array(sorted(ids), dtype=np.int64)

    def advance(self, token: int) -> None:
        if not self.done and token in self._node.children:
            self._node = self._node.children[token]
        elif not self.done and self._node.terminal and token == self._eos:
            self._ended = True
        else:
            raise ValueError(f"token {token} is outside the allowed set")


class _RegexState:
    """A walk through a regular expression; `matcher` is a llguidance.LLMatcher of its own."""

    def __init__(self, matcher: Any, eos: int) -> None:
        self._matcher = matcher
        self._eos = eos
        self._ids: TokenIds | None = None

    @property
    def done(self) -> bool:
        return len(self.allowed()) == 0

    def allowed(self) -> TokenIds:
        if self._ids is None:
            self._ids = self._next_ids()
        return self._ids

    def _next_ids(self) -> TokenIds:
        if self._matcher.is_stopped():
            return np.empty(0, dtype=np.int64)
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
        ids = np.flatnonzero(bits).astype(np.int64)
        if len(ids) == 1 and ids[0] == self._eos:  # accepted, and nothing else could follow
            return np.empty(0, dtype=np.int64)
        return ids

    def advance(self, token: int) -> None:
        ids = self.allowed()
        place = int(np.searchsorted(ids, token))
        if place == len(ids) or ids[place] != token or not self._matcher.consume_token(token):
            raise ValueError(f"token {token} is outside the allowed set")
        self._ids = None


class Grammars:
    """Compile constraints for one tokenizer and keep the compiled ones. Not thread-safe; the model's lock covers it."""

    def __init__(self, tokenizer: Any, vocabulary: int, eos: int) -> None:
        """Bind to a tokenizer.

        Args:
            tokenizer: A fast transformers tokenizer.
            vocabulary: Width of the model's logits.
            eos: The token that ends a response which could go on.
        """
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._eos = eos
        self._compiled: OrderedDict[Constraint, Any] = OrderedDict()
        self._ll_tokenizer: Any = None

    def start(self, constraint: Constraint) -> State:
        """Return the state of the empty response.

        Raises:
            ConfigError: The constraint sets neither or both of its fields, or its regex does not compile.
        """
        if constraint not in self._compiled:
            self._compiled[constraint] = self._compile(constraint)
            while len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(constraint)
        compiled = self._compiled[constraint]
        if constraint.choices:
            return _TrieState(compiled, self._eos)
        return _RegexState(compiled.deep_copy(), self._eos)

    def choice_ids(self, choice: str) -> tuple[int, ...]:
        """Return the canonical tokenisation of a complete response."""
        return tuple(self._tokenizer.encode(choice, add_special_tokens=False))

    def complete(self, constraint: Constraint, choice: str) -> tuple[int, ...]:
        """Return the whole response that says `choice`: its tokens, and EOS where it begins another choice."""
        state, ids = self.start(constraint), self.choice_ids(choice)
        for token in ids:
            state.advance(token)
        return ids if state.done else (*ids, self._eos)

    def _compile(self, constraint: Constraint) -> Any:
        if bool(constraint.choices) == bool(constraint.regex):
            raise ConfigError(f"a constraint needs either choices or a regex, got {constraint}")
        return self._trie(constraint.choices) if constraint.choices else self._matcher(constraint.regex)

    def _trie(self, choices: Sequence[str]) -> _Node:
        root = _Node()
        for choice in choices:
            node = root
            for token in self.choice_ids(choice):
                node = node.children.setdefault(token, _Node())
            node.terminal = True
        return root

    def _matcher(self, regex: str) -> Any:
        import llguidance
        import llguidance.hf

        if self._ll_tokenizer is None:
            self._ll_tokenizer = llguidance.hf.from_tokenizer(
                self._tokenizer, n_vocab=self._vocabulary, eos_token=self._eos
            )
        grammar = llguidance.LLMatcher.grammar_from_regex(regex)
        matcher = llguidance.LLMatcher(self._ll_tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise ConfigError(f"the regex {regex!r} cannot be used: {matcher.get_error()}")
        return matcher


def response_allowed(state: State | None, response_ids: Sequence[int]) -> list[TokenIds | None]:
    """Return M at each token of a recorded response, for teacher forcing.

    Args:
        state: State of the empty response (used up), or None in free mode.
        response_ids: The recorded tokens.

    Returns:
        One M a token; None = the whole vocabulary. From the first token outside its M on, M is empty: such a
        response cannot have been sampled under this constraint.
    """
    if state is None:
        return [None] * len(response_ids)
    sets: list[TokenIds | None] = []
    for token in response_ids:
        ids = state.allowed()
        sets.append(ids)
        try:
            state.advance(token)
        except ValueError:
            sets[-1] = np.empty(0, dtype=np.int64)
            break
    return sets + [np.empty(0, dtype=np.int64)] * (len(response_ids) - len(sets))
