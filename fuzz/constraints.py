"""The allowed set M along arbitrary prefixes: a byte a token, most of them from M, some from anywhere.

M depends on the prefix alone, what M lets complete is read by the role's own parser, and a token outside M changes
nothing. The tokenizer is byte-level with some merges, so that tags and characters are cut in awkward places.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from agents.call import Constraint
from agents.constraint import Grammars, State, TokenIds, response_allowed
from agents.errors import FormatError
from agents.role import Role
from agents.roster import ROLES
from agents.solo import SOLO
from fuzz.material import Material
from fuzz.roles import GOOD, JUDGE, NOTE, inputs_of
from fuzz.target import Target, hold

SPEAKERS: tuple[Role[Any], ...] = (*ROLES.values(), SOLO, JUDGE, NOTE)
BEYOND_A_REGEX = ("repeated items", "an item repeats the question")
"""What a regular expression cannot say of a response."""
FOREIGN = 250
"""Bytes from here on stand for a token from anywhere."""
END = 0


@cache
def tokenizer() -> Any:
    """Train a byte-level BPE tokenizer of 400 tokens on the roles' own formats; 0 ends a response."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(list(GOOD.values()) * 3, trainer)
    fast: Any = PreTrainedTokenizerFast
    return fast(tokenizer_object=backend, eos_token="<|end|>", clean_up_tokenization_spaces=False)


@cache
def grammars() -> Grammars:
    """Return the compiler, with some numbers at the end of the vocabulary that stand for no text."""
    return Grammars(tokenizer(), len(tokenizer()) + 3, END)


def _check(data: bytes) -> None:
    material = Material(data)
    role = material.pick(SPEAKERS)
    inputs = inputs_of(material)
    constraint = role.constraint(inputs)
    assert constraint is not None
    for choice in constraint.choices:
        hold(role.parse(choice, inputs) is not None, f"{choice} is read")
    state = grammars().start(constraint)
    tokens, sets = _walk(state, material.rest())
    rebuilt = response_allowed(grammars().start(constraint), tokens)
    same = [again is not None and np.array_equal(one, again) for one, again in zip(sets, rebuilt, strict=True)]
    hold(all(same), "every token has an M, which is a function of the prefix")
    if state.done or END in state.allowed():
        _read(role, inputs, constraint, tokens)


def _walk(state: State, steps: bytes) -> tuple[list[int], list[TokenIds]]:
    """Follow the bytes until they end or the response does; return its tokens and the set of each."""
    tokens: list[int] = []
    sets: list[TokenIds] = []
    for step in steps:
        allowed = state.allowed()
        hold(state.done == (len(allowed) == 0), "done means that nothing may follow")
        if state.done:
            break
        hold(bool(np.all(np.diff(allowed) > 0)), "M is ascending and distinct")
        hold(allowed[0] >= 0 and allowed[-1] < len(tokenizer()) + 3, "M lies in the vocabulary")
        if step >= FOREIGN:
            _refused(state, allowed, int(step * 97 - 200) % (len(tokenizer()) + 40) - 20)
            continue
        token = int(allowed[(step * len(allowed)) // FOREIGN])
        state.advance(token)
        tokens.append(token)
        sets.append(allowed)
    return tokens, sets


def _refused(state: State, allowed: TokenIds, token: int) -> None:
    """A token outside M is refused, and changes nothing."""
    if token in allowed:
        return
    try:
        state.advance(token)
    except ValueError:
        hold(np.array_equal(state.allowed(), allowed), "a refused token changes nothing")
    else:
        hold(False, f"token {token} is outside M and was taken")


def _read(role: Role[Any], inputs: dict[str, Any], constraint: Constraint, tokens: list[int]) -> None:
    text = str(tokenizer().decode([token for token in tokens if token != END]))
    if constraint.choices:
        hold(text in constraint.choices, f"{text!r} is one of the choices")
    try:
        role.parse(text, inputs)
    except FormatError as error:
        hold(error.reason in BEYOND_A_REGEX, f"{role.name}: {text!r} was allowed and is refused: {error.reason}")


def _seeds() -> Iterator[bytes]:
    """Yield each role's good response as the bytes that choose its tokens, under three budgets."""
    for place, role in enumerate(SPEAKERS):
        for budgets in (b"\x01\x00\x06", b"\x00\x01\x01", b"\x02\x03\x0b"):
            head = bytes([place]) + budgets
            constraint = role.constraint(inputs_of(Material(budgets)))
            assert constraint is not None
            state, steps = grammars().start(constraint), bytearray()
            for token in tokenizer().encode(GOOD[role.name], add_special_tokens=False):
                allowed = state.allowed()
                found = np.flatnonzero(allowed == token)
                if not len(found):
                    break
                steps.append(min(FOREIGN - 1, -(-int(found[0]) * FOREIGN // len(allowed))))
                state.advance(int(allowed[steps[-1] * len(allowed) // FOREIGN]))
            yield head + bytes(steps) + b"\xfb"


TARGETS = (
    Target(
        "allowed_set",
        "M is ascending, in the vocabulary and a function of the prefix; what completes is read by the role's parser",
        _check,
        _seeds,
        longest=64,
        runs=150_000,
    ),
)
