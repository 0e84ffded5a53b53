"""What a role is: an instruction, a view of its inputs, a grammar, and a declared fallback.

A parser returns a value or raises `FormatError`; it never repairs. Repair is the role's `fallback`,
a separate function
called by `graphs.acting` alone; what a violation costs is decided in `training.reward`. All text that
does not come from
this package (questions, passages, earlier answers) passes through `quote` on its way into a prompt,
so that it can
neither close one of our tags nor imitate one. Leaf module but for `call` and `errors`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from agents.call import Constraint, Message
from agents.errors import ConfigError, FormatError

V = TypeVar("V")
Inputs = Mapping[str, Any]
PromptStyle = Literal["examples", "bare"]

_QUOTE = str.maketrans(
    {
        **{"<": "‹", "\uff1c": "‹", "\ufe64": "‹", "\u226e": "‹\u0338"},
        **{">": "›", "\uff1e": "›", "\ufe65": "›", "\u226f": "›\u0338"},
    }
)
"""Angle brackets, and what some tokenizers normalise to one: full-width, small, and struck through."""
_UNQUOTE = str.maketrans({"‹": "<", "›": ">"})
_WITHIN_WORDS = re.compile(
    r"[\u00ad\u034f\u180b-\u180f"  # soft hyphen, grapheme joiner, Mongolian selectors
    r"\ufe00-\ufe0f\U000e0100-\U000e01ef]"  # variation selectors, in which a whole message can be hidden
)
_INVISIBLE = re.compile(
    r"[\u0000-\u0008\u000b-\u001f\u007f-\u009f"  # control characters
    r"\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb"  # zero-width, bidirectional, annotations
    r"\u115f\u1160\u17b4\u17b5\u3164\uffa0"  # letters that show nothing
    r"\ud800-\udfff"  # lone surrogates, which no tokenizer takes
    r"\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"  # format signs of scripts and music
    r"\U000e0000-\U000e00ff]"  # Unicode tags
)


def quote(text: str) -> str:
    """Escape foreign text for a prompt: no angle brackets, no control or invisible characters, one line.

    Idempotent. Special tokens of a chat template that hold no angle bracket are defused by
    `Policy.encode`.
    """
    flat = re.sub(r"\s+", " ", _INVISIBLE.sub(" ", _WITHIN_WORDS.sub("", text)))
    return flat.translate(_QUOTE).strip()


def unquote(text: str) -> str:
    """Undo the bracket part of `quote` in text that a model copied from its prompt."""
    return text.translate(_UNQUOTE)


def read_tag(text: str, tag: str) -> str:
    """Return what stands between `<tag>` and `</tag>`, which must be the whole of `text`, bar whitespace.

    Raises:
        FormatError: The text is not exactly one such tag, or an angle bracket stands inside it.
    """
    opening, closing, body = f"<{tag}>", f"</{tag}>", text.strip()
    if not body.startswith(opening):
        raise FormatError(f"no <{tag}> at the start", text)
    if not body.endswith(closing) or len(body) < len(opening) + len(closing):
        raise FormatError(f"no </{tag}> at the end", text)
    inner = body[len(opening) : -len(closing)]
    if "<" in inner or ">" in inner:
        raise FormatError(f"a tag inside <{tag}>", text)
    return inner.strip()


def strip_tags(text: str) -> str:
    """Drop everything that looks like one of our tags, for fallbacks."""
    return re.sub(r"</?[A-Za-z][A-Za-z0-9]*>", " ", text).strip()


def _no_constraint(inputs: Inputs) -> Constraint | None:
    return None


def drop_last_document(inputs: Inputs) -> Inputs | None:
    """Return `inputs` without their last document, or None when no document is left to drop."""
    documents = inputs.get("documents")
    if not documents:
        return None
    return {**inputs, "documents": list(documents)[:-1]}


@dataclass(frozen=True)
class Role(Generic[V]):
    """One role that the shared model plays. Frozen; compare by name."""

    name: str
    """Metric key and prompt file name, such as "query_rewriter"."""
    instruction: str
    """System turn of the bare prompt; `{slot}` places are filled by `slots`."""
    user: Callable[[Inputs], str]
    """The user turn; quotes all foreign text."""
    parse: Callable[[str, Inputs], V]
    """Whole-string grammar: returns a value or raises `FormatError`, whatever the text."""
    fallback: Callable[[Inputs, str], V]
    """(inputs, response text) → the value the graph goes on with when `parse` raises."""
    max_new_tokens: int
    examples: str = ""
    """Worked examples, appended to the instruction in the "examples" prompt set."""
    stop: str | None = None
    """Closing tag that ends the response; None: only EOS ends it."""
    constraint: Callable[[Inputs], Constraint | None] = _no_constraint
    """The same grammar as `parse`, for constrained decoding."""
    slots: Callable[[Inputs], Mapping[str, str]] = lambda inputs: {}
    """Values of the instruction's `{slot}` places: few variants, since they are part of the cached
    head."""
    shrink: Callable[[Inputs], Inputs | None] = drop_last_document
    """Make the inputs one whole document smaller, or return None."""

    def messages(self, inputs: Inputs, prompts: Prompts) -> list[Message]:
        """Render the system and the user turn."""
        system = prompts.text(self)
        for slot, value in self.slots(inputs).items():
            system = system.replace("{" + slot + "}", value)
        return [
            {"role": "system", "content": system},
            {"role": "user", "content": self.user(inputs)},
        ]


@dataclass(frozen=True)
class Prompts:
    """A prompt set: which system text each role speaks under."""

    style: PromptStyle = "examples"
    """"examples" for an untuned model, "bare" for a trained one."""
    replaced: tuple[tuple[str, str], ...] = ()
    """(role name, text) pairs read from a folder; they replace instruction and examples alike."""

    def text(self, role: Role[Any]) -> str:
        """Return the system text of `role` in this set."""
        for name, text in self.replaced:
            if name == role.name:
                return text
        if self.style == "examples" and role.examples:
            return f"{role.instruction}\n\n{role.examples}"
        return role.instruction

    @staticmethod
    def load(folder: Path, style: PromptStyle, roles: Mapping[str, Role[Any]]) -> Prompts:
        """Read `<role>.txt` files that replace the system text of the roles they name.

        Raises:
            ConfigError: The folder does not exist, holds no .txt file, names an unknown role, or a file is blank or
                not UTF-8.
        """
        if not folder.is_dir():
            raise ConfigError(f"prompt folder {folder} does not exist; give a folder of <role>.txt files")
        files = sorted(folder.glob("*.txt"))
        unknown = [file.name for file in files if file.stem not in roles]
        if not files or unknown:
            allowed = ", ".join(f"{name}.txt" for name in roles)
            raise ConfigError(f"prompt folder {folder} holds {unknown or 'no .txt file'}; allowed: {allowed}")
        return Prompts(style, tuple((file.stem, _prompt_text(file)) for file in files))


def _prompt_text(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"prompt file {file} cannot be read ({error}); save it as UTF-8") from error
    if not text:
        raise ConfigError(f"prompt file {file} is blank; write the role's instruction into it, or remove it")
    return text
