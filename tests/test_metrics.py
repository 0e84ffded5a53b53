"""Answer, retrieval and citation metrics against numbers worked out by hand."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.errors import ConfigError
from evaluation import metrics
from evaluation.metrics import (
    ANSWER_METRICS,
    Overlap,
    answer_score,
    citation_precision,
    cover_em,
    exact_match,
    is_yes_no,
    normalize_jade,
    normalize_squad,
    read_golds,
    recall_at_k,
    score_answer,
    supporting_overlap,
    token_f1,
    token_overlap,
)

VOCABULARY = ["paris", "france", "king", "of", "x", "y", "1988"]
words = st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=6).map(" ".join)


def test_docstring_examples_hold() -> None:
    result = doctest.testmod(metrics)
    assert result.attempted >= 10 and result.failed == 0


def test_the_two_normalisers_differ_where_they_should() -> None:
    assert normalize_squad("U.S.") == "us" and normalize_jade("U.S.") == "u s"
    assert normalize_squad("well-known") == "wellknown" and normalize_jade("well-known") == "well known"
    assert normalize_squad("well–known") == "well–known", "SQuAD's script knows ASCII punctuation only"
    assert normalize_jade("well–known") == "well known"
    assert normalize_jade("“O’Brien”") == "o brien"
    assert normalize_squad("An apple a day, the end") == "apple day end"
    assert normalize_squad("there") == "there", "articles are whole words"


def test_f1_by_hand() -> None:
    # guess: new york city (3), gold: city of new york (4), common 3: P 1, R 3/4, F1 6/7
    assert token_overlap("New York City", "the City of New York") == Overlap(1.0, 0.75, pytest.approx(6 / 7))
    # repetition counts once per occurrence: guess x x, gold x y: common 1, P 1/2, R 1/2
    assert token_f1("x x", "x y") == 0.5
    assert token_f1("", "Paris") == 0.0
    # under the JADE code's normaliser "U.S. Army" has three tokens, "US Army" two, one shared
    assert token_f1("U.S. Army", "US Army", "jade") == pytest.approx(2 * (1 / 3) * (1 / 2) / (5 / 6))
    assert token_f1("U.S. Army", "US Army") == 1.0


def test_best_gold_is_chosen_jointly() -> None:
    # gold 1: P 1/4, R 1, F1 2/5; gold 2: P 1/2, R 1/4, F1 1/3. Taken apart, P 1/2 and R 1 would give 2/3.
    overlap = token_overlap("p q r s", ["p", "q r t u v w x y"])
    assert overlap == Overlap(0.25, 1.0, 0.4)
    assert token_f1("p q r s", ["p", "q r t u v w x y"]) == 0.4


@pytest.mark.parametrize("gold", ["yes", "Yes", "YES", "yes.", ["yes"], ["Yes", "YES"], True, [True]])
def test_yes_no_golds_are_scored_by_exact_match(gold: object) -> None:
    assert answer_score("Yes.", gold) == 1.0
    assert answer_score("no", gold) == 0.0
    assert answer_score("yes it was", gold) == 0.0, "F1 would give 0.5"


def test_true_and_false_are_yes_no_spellings() -> None:
    assert is_yes_no("TRUE") and is_yes_no("False.") and not is_yes_no("nobody") and not is_yes_no("no one")
    assert answer_score("true", "TRUE") == 1.0
    assert answer_score("true story", "TRUE") == 0.0


def test_each_gold_is_scored_by_its_own_kind() -> None:
    assert answer_score("both were American", ["yes", "both American"]) == pytest.approx(0.8)
    assert answer_score("yes", ["yes", "both American"]) == 1.0


def test_golds_that_normalise_to_nothing_are_compared_as_written() -> None:
    assert exact_match("The", "The") == 1.0 and token_f1("the", "The") == 1.0
    assert cover_em("The Who", "The") == 1.0
    assert exact_match("", "The") == 0.0 and token_f1("", "???") == 0.0 and cover_em("Paris", "!!!") == 0.0


def test_golds_may_be_text_list_or_array() -> None:
    assert read_golds("Paris") == ("Paris",)
    assert read_golds(np.array(["Paris", " "])) == ("Paris",)
    assert read_golds([1988]) == ("1988",)
    for nothing in ("", [], [" "], np.array([])):
        with pytest.raises(ConfigError, match="no gold answer"):
            read_golds(nothing)


def test_cover_em_wants_whole_tokens_in_order() -> None:
    assert cover_em("the band is Guns N' Roses", "Guns N Roses") == 1.0
    assert cover_em("Roses and Guns", "Guns Roses") == 0.0
    assert cover_em("thesis", "is") == 0.0


def test_score_answer_has_every_metric() -> None:
    scores = score_answer("the U.S.", ["US"])
    assert tuple(scores) == ANSWER_METRICS
    assert scores["em"] == 1.0 and scores["em_jade"] == 0.0 and scores["f1_jade"] == 0.0


def test_retrieval_metrics_by_hand() -> None:
    ranked = ["a", "b", "c", "d"]
    assert [recall_at_k(ranked, ["b", "d", "z"], k) for k in (1, 2, 4)] == [0.0, 1 / 3, 2 / 3]
    assert recall_at_k(ranked, [], 5) is None
    assert supporting_overlap(["a", "b", "b"], ["b"]) == Overlap(0.5, 1.0, pytest.approx(2 / 3))
    assert supporting_overlap([], ["b"]) == Overlap(0.0, 0.0, 0.0)
    assert supporting_overlap(["a"], []) is None
    assert citation_precision([], ["b"]) is None and citation_precision(["a"], []) is None
    assert citation_precision(["b", "c", "d"], ["b", "d"]) == pytest.approx(2 / 3)
    with pytest.raises(ConfigError, match="k=0"):
        recall_at_k(ranked, ["a"], 0)


@given(words, st.lists(words, min_size=1, max_size=3))
def test_relations_between_metrics(guess: str, golds: list[str]) -> None:
    for normaliser in ("squad", "jade"):
        exact, f1, cover = (metric(guess, golds, normaliser) for metric in (exact_match, token_f1, cover_em))
        assert 0.0 <= exact <= f1 <= 1.0 + 1e-12
        assert exact <= cover
        assert f1 == max(token_f1(guess, gold, normaliser) for gold in golds)
        assert f1 == pytest.approx(token_f1(" ".join(reversed(guess.split())), golds, normaliser))


@given(st.text(), st.text())
def test_no_text_breaks_a_metric(guess: str, gold: str) -> None:
    if gold.strip():
        assert all(0.0 <= value <= 1.0 for value in score_answer(guess, gold).values())
        assert exact_match(gold, gold) == 1.0
