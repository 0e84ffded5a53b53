"""From chat turns to prompt tokens: the model's own template, foreign text defused, the static head split off."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

from agents.call import Message, Prompt
from agents.errors import PromptError

_SENTINEL = "\u2042jade\u2042"
_KEPT = 256
_BRACKETED = re.compile(r"\[/?[A-Z_]{2,}\]")
"""Turn markers such as [/INST], which older templates spell out in plain tokens (those in <> are quoted already)."""


class PromptEncoder:
    """Render chat turns with a tokenizer's template. Not thread-safe; the model's lock covers it."""

    def __init__(self, tokenizer: Any) -> None:
        """Bind to a fast transformers tokenizer."""
        self._tokenizer = tokenizer
        known = tokenizer.added_tokens_decoder.values()
        # without outer white space, so that breaking one up never leaves or makes another: it ends
        added = {str(token).strip() for token in known if token.special or len(str(token).strip()) > 1} - {""}
        added.update(_BRACKETED.findall(str(tokenizer.chat_template or "")))
        self._pattern = _any_of(added)
        self._named = _any_of(token for token in added if any(map(str.isalnum, token)))
        self._normalizer = tokenizer.backend_tokenizer.normalizer
        self._heads: OrderedDict[str, tuple[str, tuple[int, ...]]] = OrderedDict()

    def encode(self, messages: Sequence[Message]) -> Prompt:
        """Render chat turns, generation prompt included.

        The head ends at the last special token before the content of the last user turn (in ChatML the
        `<|im_start|>` that opens it), provided that head and tail tokenise as the whole does; else it is empty.

        Raises:
            PromptError: The model has no chat template, or the template refuses the turns.
        """
        turns = [Message(role=turn["role"], content=self.defuse(turn["content"])) for turn in messages]
        whole = self._render(turns)
        text, ids = self._head(turns, whole)
        if not whole.startswith(text):
            text, ids = "", ()
        return Prompt(ids + self._tokens(whole[len(text) :]), len(ids))

    def defuse(self, content: str) -> str:
        """Break up every special token and turn marker in foreign content: a space after its first character.

        Some tokenizers look for them in normalised text, where full-width signs or capitals may become one; content
        in which that happens is defused as the tokenizer reads it. Lone surrogates, which none can read, become "?".
        """
        content = self._broken_up(content.encode("utf-8", "replace").decode())
        if self._normalizer is not None and self._named is not None:
            read: str = self._normalizer.normalize_str(content)
            if self._named.search(read):
                return self._broken_up(read)
        return content

    def _broken_up(self, content: str) -> str:
        while self._pattern is not None and (broken := self._pattern.sub(_broken, content)) != content:
            content = broken  # the pieces may have left a token between them
        return content

    def _render(self, turns: Sequence[Message]) -> str:
        if not self._tokenizer.chat_template:
            raise PromptError(
                "this model has no chat template; choose an instruction-tuned model, or put a "
                "chat_template.jinja into its folder"
            )
        try:
            return self._apply(turns)
        except Exception as error:
            if len(turns) > 1 and turns[0]["role"] == "system":  # some templates know no system turn
                joined = f"{turns[0]['content']}\n\n{turns[1]['content']}"
                return self._render([Message(role=turns[1]["role"], content=joined), *turns[2:]])
            roles = ", ".join(turn["role"] for turn in turns)
            raise PromptError(f"the model's chat template refuses turns of roles {roles}: {error}") from error

    def _apply(self, turns: Sequence[Message]) -> str:
        text: str = self._tokenizer.apply_chat_template(list(turns), add_generation_prompt=True, tokenize=False)
        return text

    def _tokens(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"]) if text else ()

    def _head(self, turns: Sequence[Message], whole: str) -> tuple[str, tuple[int, ...]]:
        """Return text and tokens of the static head; ("", ()) where there is none."""
        if len(turns) < 2 or turns[-1]["role"] != "user":
            return "", ()
        key = repr(turns[:-1])
        if key not in self._heads:
            self._heads[key] = self._split(turns, whole)
            while len(self._heads) > _KEPT:
                self._heads.popitem(last=False)
        self._heads.move_to_end(key)
        return self._heads[key]

    def _split(self, turns: Sequence[Message], whole: str) -> tuple[str, tuple[int, ...]]:
        probe = self._render([*turns[:-1], Message(role="user", content=_SENTINEL)])
        before = probe.partition(_SENTINEL)[0]
        found = list(self._pattern.finditer(before)) if self._pattern else []
        text = before[: found[-1].end()] if found else ""
        ids = self._tokens(text)
        if not whole.startswith(text) or ids + self._tokens(whole[len(text) :]) != self._tokens(whole):
            return "", ()
        return text, ids


def _any_of(tokens: Iterable[str]) -> re.Pattern[str] | None:
    """Return a pattern of all tokens, the longest first, or None where there is none."""
    ordered = sorted(tokens, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, ordered))) if ordered else None


def _broken(found: re.Match[str]) -> str:
    """Return a token with a space after its first character; one of a single character vanishes."""
    return f"{found[0][0]} {found[0][1:]}".rstrip() if len(found[0]) > 1 else " "
