import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.call import Constraint
from agents.constraint import Grammars, response_allowed
from agents.errors import ConfigError
from tests.toy_model import toy_tokenizer

EOS = 2
VOCABULARY = len(toy_tokenizer()) + 4


@pytest.fixture(scope="module")
def grammars():
    return Grammars(toy_tokenizer(), VOCABULARY, EOS)


def _ids(text: str) -> list[int]:
    return toy_tokenizer().encode(text, add_special_tokens=False)


def test_choices_allow_exactly_the_canonical_tokenisations(grammars):
    choices = ("<workflow>R,AG</workflow>", "<workflow>QDS</workflow>", "<workflow>QDP</workflow>")
    for choice in choices:
        state = grammars.start(Constraint(choices=choices))
        for token in _ids(choice):
            assert not state.done
            assert token in state.allowed()
            state.advance(token)
        assert state.done and len(state.allowed()) == 0  # a leaf: complete, no end token
    with pytest.raises(ValueError, match="outside"):
        grammars.start(Constraint(choices=choices)).advance(EOS)


def test_a_choice_that_begins_another_may_end_with_eos(grammars):
    short, long = "who", "who was"
    assert _ids(long)[: len(_ids(short))] == _ids(short)
    state = grammars.start(Constraint(choices=(short, long)))
    for token in _ids(short):
        state.advance(token)
    assert set(state.allowed()) == {EOS, _ids(long)[len(_ids(short))]}
    state.advance(EOS)
    assert state.done


def test_an_empty_choice_is_done_at_once(grammars):
    assert grammars.start(Constraint(choices=("",))).done


def test_regex_allows_eos_only_where_it_accepts(grammars):
    state = grammars.start(Constraint(regex="(ab)+"))
    assert EOS not in state.allowed()
    state.advance(_ids("ab")[0])
    for token in _ids("ab")[1:]:
        state.advance(token)
    assert EOS in state.allowed()
    state.advance(EOS)
    assert state.done


def test_regex_is_done_where_nothing_can_follow(grammars):
    state = grammars.start(Constraint(regex="<answer>[a-z]{1,3}</answer>"))
    for token in _ids("<answer>one</answer>"):
        state.advance(token)
    assert state.done and len(state.allowed()) == 0


def test_the_allowed_set_is_a_function_of_the_prefix(grammars):
    constraint = Constraint(regex="<answer>[^<>]{1,20}</answer>")
    other = Grammars(toy_tokenizer(), VOCABULARY, EOS)
    lazy, eager, fresh = grammars.start(constraint), grammars.start(constraint), other.start(constraint)
    for token in _ids("<answer>Paris"):
        lazy.advance(token)
    for state in (eager, fresh):  # asked for M at every step, interleaved with others
        for token in _ids("<answer>Paris"):
            state.allowed()
            state.advance(token)
    assert np.array_equal(lazy.allowed(), eager.allowed()) and np.array_equal(lazy.allowed(), fresh.allowed())


@settings(max_examples=30, deadline=None)
@given(st.randoms(use_true_random=False))
def test_any_walk_through_a_regex_matches_it(random):
    grammars = _shared_grammars()
    pattern = r"<id>(Document[0-4](,Document[0-4]){0,2})?</id>"
    state, ids = grammars.start(Constraint(regex=pattern)), []
    while not state.done and len(ids) < 80:
        token = int(random.choice(state.allowed().tolist()))
        ids.append(token)
        state.advance(token)
    assert re.fullmatch(pattern, toy_tokenizer().decode(ids, skip_special_tokens=True))


_CACHE: list[Grammars] = []


def _shared_grammars() -> Grammars:
    if not _CACHE:
        _CACHE.append(Grammars(toy_tokenizer(), VOCABULARY, EOS))
    return _CACHE[0]


def test_teacher_forcing_rebuilds_the_same_sets(grammars):
    constraint = Constraint(choices=("<query>a</query>", "<query>b</query>"))
    ids = _ids("<query>b</query>")
    state, walked = grammars.start(constraint), []
    for token in ids:
        walked.append(state.allowed().tolist())
        state.advance(token)
    assert [s.tolist() for s in response_allowed(grammars.start(constraint), ids)] == walked
    assert response_allowed(None, ids) == [None] * len(ids)


def test_a_response_outside_its_constraint_has_no_allowed_set_from_there_on(grammars):
    ids = _ids("<query>b</query>")
    sets = response_allowed(grammars.start(Constraint(choices=("<query>a</query>",))), ids)
    assert len(sets) == len(ids)
    wrong = next(i for i, pair in enumerate(zip(ids, _ids("<query>a</query>"), strict=True)) if pair[0] != pair[1])
    assert [len(s) for s in sets] == [1] * wrong + [0] * (len(ids) - wrong)


def test_unusable_constraints_are_refused_by_name(grammars):
    with pytest.raises(ConfigError, match="either choices or a regex"):
        grammars.start(Constraint())
    with pytest.raises(ConfigError, match="either choices or a regex"):
        grammars.start(Constraint(choices=("a",), regex="b"))
    with pytest.raises(ConfigError, match="cannot be used"):
        grammars.start(Constraint(regex="(a|"))
