"""Counterfactuals summed by role, by hand: the question is the unit, helped means that it is worse without."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from cli.why_view import ledger_view
from evaluation.counterfactual_result import Alternative, CallWhy, Ending, Explanation, Kind
from evaluation.counterfactual_roles import remarks_of, role_effects
from tests.test_recorded_credit import RUN


def ending(score: float, answer: str = "a", tokens: int = 10, turns: int = 1) -> Ending:
    return Ending(answer, score, turns, 1, tokens, RUN)


def explained(
    key: str, score: float, *without: Ending, gold: bool = True, kind: Kind = "skipped", role: str = "document_selector"
) -> Explanation:
    """Return a run whose role spoke once for every ending of `without`."""
    calls = tuple(
        CallWhy(f"root/{place}/DS", role, "", (Alternative(kind, (other,)),)) for place, other in enumerate(without)
    )
    return Explanation("r", key, "q", ("g",) if gold else (), ending(score), calls)


def test_helped_and_hurt_are_shares_of_the_questions() -> None:
    effects = role_effects(
        [
            explained("one", 1.0, ending(0.0, "b", 6)),  # it helped
            explained("one", 0.5, ending(0.5)),  # asked twice: one question, −0.5 on average
            explained("two", 0.0, ending(1.0, "b"), ending(0.5, "c")),  # it hurt, twice in one run: +0.75
            explained("three", 0.25, ending(0.25, "A!")),  # no difference
            explained("four", 0.4, ending(0.4)),
        ]
    )
    (effect,) = effects
    assert (effect.role, effect.kind, effect.questions, effect.graded, effect.calls) == (
        "document_selector", "skipped", 4, 4, 6,
    )  # fmt: skip
    assert (effect.helped, effect.hurt, effect.answer) == (0.25, 0.25, 0.5)
    assert effect.score is not None and effect.score.mean == pytest.approx((-0.5 + 0.75 + 0 + 0) / 4)
    assert effect.score.low <= effect.score.mean <= effect.score.high and effect.score.n == 4
    assert effect.tokens == pytest.approx((-2.0 + 0 + 0 + 0) / 4)  # −4 and 0 in the two runs of question one
    assert effect.sentence == (
        "document selector helped on 25% and hurt on 25% of the 4 questions in which it spoke (25% and 25% of all 4), "
        "against runs in which it was skipped"
    )
    assert effect.to_json()["score"]["mean"] == effect.score.mean


def test_questions_in_which_the_role_did_not_speak_stay_in_the_denominator_of_all() -> None:
    spoke = [
        explained("one", 1.0, ending(0.0)),
        explained("two", 0.5, ending(1.0)),
        explained("three", 1.0, ending(1.0)),
    ]
    silent = [explained(key, 1.0) for key in ("four", "five", "six", "six")]
    unknown = [explained("seven", 1.0, ending(0.0), gold=False), explained("eight", 1.0, gold=False)]
    (effect,) = role_effects([*spoke, *silent, *unknown])
    assert (effect.questions, effect.graded, effect.total) == (4, 3, 6)
    assert (effect.helped, effect.hurt) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert "of the 3 questions in which it spoke (17% and 17% of all 6)" in effect.sentence
    data = effect.to_json()
    assert (data["helped_of_all"], data["hurt_of_all"]) == (pytest.approx(1 / 6), pytest.approx(1 / 6))


def test_remarks_are_counted_by_run() -> None:
    runs = [
        replace(explained(key, 1.0), remarks=remarks) for key, remarks in (("a", ("x",)), ("b", ("x", "y")), ("c", ()))
    ]
    assert remarks_of(runs) == {"x": 2, "y": 1}


def test_runs_without_gold_tell_only_whether_the_answer_changed() -> None:
    (effect,) = role_effects([explained("one", 1.0, ending(0.0, "b"), gold=False)])
    assert (effect.questions, effect.graded, effect.helped, effect.hurt, effect.score) == (1, 0, 0.0, 0.0, None)
    assert effect.answer == 1.0 and "the answer changed on 100% of 1 questions" in effect.sentence
    (effect,) = role_effects([explained("one", 1.0, ending(0.0), gold=False), explained("two", 1.0, ending(0.0))])
    assert (effect.questions, effect.graded, effect.helped) == (2, 1, 1.0)


def test_roles_and_kinds_stand_apart_and_nothing_stands_for_what_was_not_tried() -> None:
    untried = Explanation("r", "k", "q", ("g",), ending(1.0), (CallWhy("c", "x", "", (Alternative("skipped", ()),)),))
    samples = explained("one", 1.0, ending(0.5), kind="resampled", role="planner")
    found = role_effects([untried, samples, explained("one", 1.0, ending(0.5), role="planner")])
    assert [(effect.role, effect.kind, effect.helped) for effect in found] == [
        ("planner", "resampled", 1.0),
        ("planner", "skipped", 1.0),
    ]
    assert role_effects([untried]) == []


def test_the_table_of_a_ledger_fits_a_line_of_eighty() -> None:
    (effect,) = role_effects([explained("one", 1.0, ending(0.5), role="document_selector")])
    wide = replace(effect, tokens=-1234.5, retrievals=-10.25, questions=12345, calls=23456)
    console = Console(width=80, record=True, file=StringIO())
    console.print(ledger_view([wide], [], 0))
    shown = console.export_text()
    assert "…" not in shown and "-1234.50" in shown and "answer changed" in shown and "[-0.500, -0.500]" in shown
