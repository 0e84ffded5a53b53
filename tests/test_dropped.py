"""What a batch leaves out is counted by reason, and where nothing is left the message says what to do."""

from __future__ import annotations

from dataclasses import replace

from tests.test_ledger import CALL, RUN
from training.dropped import REMEDIES, Dropped, in_company, nothing_left


def test_reasons_are_grouped_counted_and_added() -> None:
    first = Dropped.of([("stale", "a"), ("crashed", "b"), ("stale", "c")])
    assert first.runs == {"stale": ("a", "c"), "crashed": ("b",)}
    both = first + Dropped.of([("crashed", "d"), ("unmatched", "e")])
    assert both.counts == {"stale": 2, "crashed": 2, "unmatched": 1} and both.total == 5
    assert Dropped().counts == {} and Dropped().total == 0


def test_the_main_reason_names_the_remedy() -> None:
    dropped = Dropped.of([("unmatched", "a"), ("unmatched", "b"), ("crashed", "c")])
    message = nothing_left(dropped, 3, "runs/ledger")
    assert message.startswith("none of 3 recorded runs can be trained on: 2 unmatched, 1 crashed (ledger runs/ledger).")
    assert message.endswith(REMEDIES["unmatched"])
    assert "record='train'" in nothing_left(Dropped.of([("greedy", "a")]), 1, "runs/ledger")


def test_a_leave_one_out_baseline_needs_two_usable_runs_of_a_question() -> None:
    two = [replace(RUN, run=name, question="Who?") for name in ("a", "b")]
    lonely = replace(RUN, run="c", question="Where?")
    by_id = [replace(RUN, run=name, question=name, question_id="q7") for name in ("d", "e")]
    greedy = replace(RUN, run="f", question="Where?", calls=(replace(CALL, greedy=True),))  # no company
    kept, alone = in_company([*two, lonely, *by_id, greedy])
    assert [run.run for run in kept] == ["a", "b", "d", "e", "f"]
    assert alone == [("loo-alone", "c")]
