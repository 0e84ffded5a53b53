"""The simplest role: it is shown some fields of the state and replies in one tag. For graphs of one's own.

JUDGE = tagged("judge", "Is the answer right?", sees=["question", "answer"], tag="right", choices=["yes", "no"])
"""

from __future__ import annotations

from collections.abc import Sequence

from agents.call import Constraint
from agents.errors import ConfigError, FormatError
from agents.rewriter import read_words, words_regex
from agents.role import Inputs, Role, quote, strip_tags, unquote


def tagged(
    name: str,
    instruction: str,
    *,
    sees: Sequence[str],
    tag: str,
    choices: Sequence[str] = (),
    max_words: int = 40,
    max_new_tokens: int = 72,
    examples: str = "",
) -> Role[str]:
    """Return a role whose value is the text inside its tag.

    Args:
        name: Metric key and prompt file name.
        instruction: What to do; how to reply is added to it.
        sees: Keys of its inputs that it is shown, those that are there, one line each.
        tag: Name of the tag, ASCII letters.
        choices: The only replies that are valid; the first of them stands in for an invalid one. Empty = any words,
            and an invalid reply counts without its tags.
        max_words: Most words of a valid reply, where there are no choices.
        max_new_tokens: Budget of response tokens, the tag included.
        examples: Worked examples for an untuned model.

    Raises:
        ConfigError: Something is missing or cannot be a tag.
    """
    if not tag.isascii() or not tag.isalpha() or not sees or any(quote(item) != item for item in choices):
        raise ConfigError(
            f"tagged({name!r}, sees={list(sees)}, tag={tag!r}, choices={list(choices)}): give at least one field, "
            "a tag of ASCII letters, and choices without angle brackets or line breaks"
        )

    def whole(text: str) -> str:
        return f"<{tag}>{text}</{tag}>"

    def user(inputs: Inputs) -> str:
        return "\n".join(f"{key.capitalize()}: {quote(str(inputs[key]))}" for key in sees if key in inputs)

    def parse(text: str, inputs: Inputs) -> str:
        value = read_words(text, tag, max_words)
        if choices and value not in choices:
            raise FormatError("none of the choices", text)
        return value

    def fallback(inputs: Inputs, text: str) -> str:
        return choices[0] if choices else " ".join(unquote(strip_tags(text)).split()[:max_words])

    def constraint(inputs: Inputs) -> Constraint:
        if choices:
            return Constraint(choices=tuple(whole(item) for item in choices))
        return Constraint(regex=words_regex(tag, max_words))

    replies = " or ".join(whole(item) for item in choices) or whole("words")
    return Role(
        name=name,
        instruction=f"{instruction} Reply only {replies}.",
        examples=examples,
        user=user,
        parse=parse,
        fallback=fallback,
        constraint=constraint,
        max_new_tokens=max_new_tokens,
        stop=f"</{tag}>",
    )
