"""What a batch leaves out is counted by reason, and where nothing is left the message says what to do."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from tests.test_ledger import CALL, RUN
from training.dropped import REMEDIES, Dropped, NothingLeftError, in_company
from training.ppo_config import PPOConfig


def test_reasons_are_grouped_counted_and_added() -> None:
    first = Dropped.of([("stale", "a"), ("crashed", "b"), ("stale", "c")])
    assert first.runs == {"stale": ("a", "c"), "crashed": ("b",)}
    both = first + Dropped.of([("crashed", "d"), ("unmatched", "e")])
    assert both.counts == {"stale": 2, "crashed": 2, "unmatched": 1} and both.total == 5
    assert Dropped().counts == {} and Dropped().total == 0


def test_the_main_reason_names_the_remedy() -> None:
    dropped = Dropped.of([("unmatched", "a"), ("unmatched", "b"), ("crashed", "c")])
    message = str(NothingLeftError(dropped.counts, "runs/ledger"))
    assert message.startswith("none of 3 recorded runs can be trained on: 2 unmatched, 1 crashed (ledger runs/ledger).")
    assert message.endswith(REMEDIES["unmatched"])
    assert "record='train'" in str(NothingLeftError({"greedy": 1}, "runs/ledger"))
    assert str(NothingLeftError({}, "here")).startswith("none of 0 recorded runs can be trained on (ledger here).")


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        ("stale-versions", "--max_versions"), ("stale-drift", "--max_drift"), ("parity-sum", "--parity_total"),
        ("parity-mean", "--dtype"), ("unknown-policy", "--adapter"), ("newer-policy", "--adapter"),
        ("loo-alone", "--estimator tree_gae, and another --output"), ("rolled-back", "--lr"),
    ],
)  # fmt: skip
def test_what_makes_recorded_runs_unusable_names_the_option_that_helps(reason: str, remedy: str) -> None:
    message = str(NothingLeftError({"unmatched": 1, reason: 2}, "here"))
    assert f"2 {reason}" in message and remedy in message
    options = {word.strip(".,;:()") for word in message.split() if word.startswith("--") and "_" in word}
    assert {option.removeprefix("--") for option in options} <= {item.name for item in fields(PPOConfig)}


def test_a_leave_one_out_baseline_needs_two_usable_runs_of_a_question() -> None:
    two = [replace(RUN, run=name, question="Who?") for name in ("a", "b")]
    lonely = replace(RUN, run="c", question="Where?")
    by_id = [replace(RUN, run=name, question=name, question_id="q7") for name in ("d", "e")]
    greedy = replace(RUN, run="f", question="Where?", calls=(replace(CALL, greedy=True),))  # no company
    kept, alone = in_company([*two, lonely, *by_id, greedy])
    assert [run.run for run in kept] == ["a", "b", "d", "e", "f"]
    assert alone == [("loo-alone", "c")]
