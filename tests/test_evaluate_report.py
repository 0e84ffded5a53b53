"""Scores, means over sets, comparisons and tables of an evaluation, against numbers worked out by hand."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from functools import cache
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.errors import ConfigError
from benchmarks.evaluating import LIMIT_SECONDS, synthetic
from evaluation.dataset import Example
from evaluation.figures import cost_figure, pareto, validity_figure, whiskers, workflow_figure
from evaluation.macro import macro_compare, macro_interval
from evaluation.planner import PlannerView
from evaluation.records import METRICS, Record, RecordStore, scores_of
from evaluation.report import MACRO, Sampling, build_report
from evaluation.report_markdown import render, summary, table
from evaluation.results import Block
from evaluation.statistics import bootstrap_means, compare, minimum_detectable_effect, permutation_p

GOLD = Example("q", "Who?", ("Paris, France",), "bridge", 2, ("p1", "p2"), dataset="toy")
FACTS: dict[str, Any] = {
    "system": "A", "set": "toy", "hash": "h", "id": "q", "seed": 0,
    "question": "Who?", "answer": "Paris", "outcome": "ok",
}  # fmt: skip


def record(**changes: Any) -> Record:
    return Record(**{**FACTS, **changes})


def test_scores_of_one_run_by_hand() -> None:
    facts = record(
        retrieved=[["p9", "p1"], ["p1", "p3"]], evidence=["p1", "p9", "p3"], citations=["p1", "p9"], turns=3, calls=4,
        prompt_tokens=90, generated_tokens=10, seconds=0.5,
    )  # fmt: skip
    scores = scores_of(facts, GOLD)
    assert scores["em"] == 0.0 and scores["f1"] == pytest.approx(2 / 3) and scores["cover_em"] == 0.0
    assert scores["recall_retrieved"] == scores["recall_at_k"] == 0.5, "p1 of p1 and p2, in either search"
    assert scores["support_precision"] == pytest.approx(1 / 3) and scores["support_f1"] == pytest.approx(0.4)
    assert scores["citation_precision"] == 0.5
    costs = {key: scores[key] for key in ("turns", "retrievals", "calls", "tokens", "seconds")}
    assert costs == {"turns": 3, "retrievals": 2, "calls": 4, "tokens": 100, "seconds": 0.5}


def test_what_cannot_be_known_is_none_and_a_failure_scores_zero() -> None:
    nothing = scores_of(record(answer="Paris, France"), GOLD)
    assert (
        nothing["em"] == 1.0
        and nothing["recall_at_k"] == nothing["recall_retrieved"] == 0.0
        and nothing["support_f1"] == 0.0
    )
    assert nothing["citation_precision"] is None, "no citation: no precision"
    unknown = scores_of(record(retrieved=[["p1"]]), replace(GOLD, supporting=()))
    keys = ("recall_at_k", "recall_retrieved", "support_f1", "citation_precision")
    assert [unknown[key] for key in keys] == [None] * 4
    failed = scores_of(record(answer="Paris, France", outcome="crashed"), GOLD)
    assert failed["em"] == failed["f1_jade"] == 0.0


def test_several_searches_get_no_more_places_in_recall_at_k_than_one() -> None:
    # distinct, in order: p9 p8 p1 p7 p2; of the gold p1 and p2 the first three hold one
    facts = record(retrieved=[["p9", "p8", "p1"], ["p8", "p7", "p9"], ["p2", "p1"]])
    for k, expected in ((2, 0.0), (3, 0.5), (4, 0.5), (5, 1.0), (9, 1.0)):
        assert (
            scores_of(facts, GOLD, k)["recall_at_k"] == expected
            and scores_of(facts, GOLD, k)["recall_retrieved"] == 1.0
        )
    block = Block("A", "toy", [GOLD], [[facts]], top_k=3)
    assert (block.values("recall_at_k").item(), block.values("recall_retrieved").item()) == (0.5, 1.0)


def test_macro_mean_weighs_sets_equally() -> None:
    large, small = np.array([0.0, 1.0] * 50), np.array([1.0, 1.0, 0.0])
    found = macro_interval([large, small], resamples=2000)
    assert found.mean == pytest.approx((0.5 + 2 / 3) / 2) and found.n == 103
    spread = np.sqrt((0.25 / 100 + (2 / 9) / 3) / 4)  # standard error of the mean of two independent means
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.12)


def test_macro_of_one_set_agrees_with_the_plain_comparison() -> None:
    draws = np.random.default_rng(3)
    a, b = draws.random(80), draws.random(80)  # many values: drawn as questions
    few = np.round(a), np.round(b)  # few values: drawn as counts
    for x, y in ((a, b), few):
        one, plain = macro_compare([x], [y]), compare(x, y)
        assert one.difference == pytest.approx(plain.difference) and one.detectable == pytest.approx(plain.detectable)
        assert one.p == pytest.approx(plain.p, abs=0.02)
        assert (one.low, one.high) == pytest.approx((plain.low, plain.high), abs=0.01)


def test_macro_detectable_effect_by_hand() -> None:
    x, y = np.array([1.0, 0.0, 1.0, 1.0]), np.array([0.2, 0.1, 0.4, 0.3, 0.9])
    zero = [np.zeros(4), np.zeros(5)]
    expected = np.sqrt(minimum_detectable_effect(x) ** 2 + minimum_detectable_effect(y) ** 2) / 2
    assert macro_compare([x, y], zero).detectable == pytest.approx(expected)


def blocks() -> list[Block]:
    """Two systems on two sets; B fails once."""
    examples = {
        "one": [replace(GOLD, id=f"q{place}", dataset="one") for place in range(4)],
        "two": [replace(GOLD, id="r0", hops=1, type="", dataset="two", supporting=())],
    }
    answers = {
        ("A", "one"): ["Paris, France", "Paris", "Rome", "Rome"],
        ("A", "two"): ["Paris, France"],
        ("B", "one"): ["Paris, France", "Paris, France", "Paris, France", ""],
        ("B", "two"): ["Paris, France"],
    }
    found = []
    for (system, name), texts in answers.items():
        rows = []
        for example, text in zip(examples[name], texts, strict=True):
            failed = {"outcome": "crashed", "error": "PromptError: too | long"} if not text else {}
            plan = "QDS" if system == "B" else "R,AG"
            roles = {"planner": {"calls": 1, "valid": int(bool(text)), "truncated": 0}}
            facts = record(system=system, set=name, id=example.id, answer=text, plan=plan, roles=roles, **failed)
            rows.append([facts])
        found.append(Block(system, name, examples[name], rows))
    return found


@cache
def report() -> dict[str, Any]:
    return build_report(blocks(), "A", Sampling(resamples=500), {"top_k": 5, "level": 0.95})


def test_means_comparisons_and_breakdowns_by_hand() -> None:
    found = report()
    one = found["means"]["A"]["one"]
    assert one["f1"]["mean"] == pytest.approx((1 + 2 / 3) / 4) and one["em"]["mean"] == 0.25 and one["f1"]["n"] == 4
    assert found["means"]["A"][MACRO]["em"]["mean"] == pytest.approx((0.25 + 1) / 2)
    assert found["means"]["A"]["two"]["recall_at_k"] == {"mean": None, "n": 0}
    assert found["means"]["A"][MACRO]["recall_retrieved"] == {"mean": 0.0, "n": 4}
    assert found["means"]["B"]["one"]["failed"] == 1 and found["means"]["B"]["one"]["em"]["mean"] == 0.75
    rows = {row["set"]: row for row in found["comparisons"] if row["metric"] == "em"}
    assert rows["one"]["difference"] == 0.5 and rows["two"]["difference"] == 0.0 and rows[MACRO]["difference"] == 0.25
    assert rows["one"]["p"] == 0.5 and rows["one"]["p_corrected"] == 1.0 and rows["one"]["sign"] == 0
    assert rows[MACRO]["p_corrected"] == rows[MACRO]["p"], "a family of its own, and one system in it"
    groups = {(row["system"], row["group"]): row for row in found["hops"]}
    assert groups["A", "2"]["n"] == 4 and groups["A", "1"]["em"] == 1.0 and groups["A", "2"]["share"] == 0.8
    assert {row["group"] for row in found["types"]} == {"one: bridge", "two: ?"}
    assert [row["group"] for row in found["plans"]] == ["R,AG", "QDS"]
    two = groups["A", "2"]  # all of set one: every metric, those that cannot be known with their number
    assert set(METRICS) < set(two) and two["f1"] == pytest.approx((1 + 2 / 3) / 4)
    assert two["tokens"] == one["tokens"]["mean"] and two["recall_at_k"] == one["recall_at_k"]["mean"]
    assert groups["A", "1"]["recall_at_k"] is None and groups["A", "1"]["known"]["recall_at_k"] == 0
    plans = [(row["set"], row["system"], row["group"], row["n"], row["share"]) for row in found["plans_by_set"]]
    assert plans == [
        ("one", "A", "R,AG", 4, 1.0), ("one", "B", "QDS", 4, 1.0),
        ("two", "A", "R,AG", 1, 1.0), ("two", "B", "QDS", 1, 1.0),
    ]  # fmt: skip
    assert {"system": "B", "set": "one", "role": "planner", "calls": 4, "valid": 3, "truncated": 0} in found["validity"]
    assert [(row["id"], row["outcome"]) for row in found["failed"]] == [("q3", "crashed")]


def test_a_clear_difference_gets_its_sign_and_a_small_one_does_not() -> None:
    examples = [replace(GOLD, id=f"q{place}") for place in range(60)]
    right, wrong = "Paris, France", "Rome"

    def block(system: str, hits: int) -> Block:
        texts = [right] * hits + [wrong] * (60 - hits)
        return Block(system, "toy", examples, [[record(system=system, answer=text)] for text in texts])

    found = build_report([block("A", 20), block("B", 50), block("C", 22)], "A", Sampling(resamples=2000), {})
    signs = {row["system"]: row["sign"] for row in found["comparisons"] if row["metric"] == "em"}
    assert signs == {"B": 1, "C": 0}


def test_runs_of_several_seeds_count_once_a_question() -> None:
    texts = [["Paris, France", "Rome"], ["Rome", "Rome"]]
    rows = [[record(answer=text, seed=seed) for seed, text in enumerate(runs)] for runs in texts]
    block = Block("A", "toy", [GOLD, replace(GOLD, id="r")], rows)
    assert block.values("em").tolist() == [0.5, 0.0] and block.run_values("em") == [1.0, 0.0, 0.0, 0.0]


def test_the_report_reads_as_markdown() -> None:
    text = render(report())
    assert "| recall@5 | recall of all retrieved | passage F1 |" in text
    assert "| `A` | 0.250 | 0.417 [" in text and "## one" in text and "PromptError: too \\| long" in text
    assert "Against the baseline" in text and "| one | em | `B` 0.750 | 0.250 | +0.500 [" in text
    lines = summary(report()).splitlines()
    assert (
        [lines[place] for place in (0, 4, 8)] == ["A", "B", lines[8]]
        and lines[8].startswith("B − A, F1")
        and len(lines) == 3 * (1 + 3)
    )
    assert all("not resolved" in line for line in lines[9:]) and all(len(line) <= 80 for line in lines)
    assert "finds –" in lines[11], "no answer differs on the second set: what could be found there is not known"
    assert table(["a"], [["x|y"]]).splitlines()[2] == "| x\\|y |"
    assert "### Workflows by set" in text and "| two | `B` | QDS 100% |" in text
    assert "| `A` | 1 | 1 | 20.0% | 1.000 | 1.000 | 1.000 | – |" in text
    assert "nor where p (Holm) is not below 0.05." in text
    assert "not below 0.1." in render({**report(), "conditions": {"level": 0.9}})


@pytest.mark.parametrize(
    ("temperature", "said"), [(0.0, "τ = 1, though the runs are greedy,"), (0.7, "τ = 0.7,"), (1.0, "τ = 1,")]
)
def test_the_planners_probabilities_name_their_temperature(temperature: float, said: str) -> None:
    view = PlannerView("A", "one", {"q0": {"R,AG": 0.5, "QDS": 0.5}}).to_json()
    text = render({**report(), "conditions": {"temperature": temperature}, "planner": [view]})
    assert f"(teacher-forced, {said} constrained to the grammar)" in text


def test_figures_show_every_system() -> None:
    found = report()
    assert pareto([(2.0, 0.5), (1.0, 0.2), (3.0, 0.4), (1.0, 0.1)]) == [1, 0]
    costs = cost_figure(found, "tokens", "tokens")
    assert [panel.get_title() for panel in costs.axes] == ["mean over sets", "one", "two"]
    assert [text.get_text() for text in costs.legends[0].get_texts()] == ["A", "B"]
    shares = workflow_figure(found).axes[0]
    assert sum(patch.get_width() for patch in shares.patches) == pytest.approx(2.0)  # type: ignore[attr-defined]
    assert "75%" not in [text.get_text() for text in validity_figure(found).axes[0].texts]
    assert "80%" in [text.get_text() for text in validity_figure(found).axes[0].texts]


def test_equal_scores_can_be_drawn() -> None:
    """The mean of 49 ones is 1; that of their resamples must not be less by rounding, nor a bar be negative."""
    examples = [replace(GOLD, id=f"q{place}") for place in range(49)]
    rows = [[record(answer="Paris, France", id=example.id)] for example in examples]
    for resamples in (500, 1):
        found = build_report([Block("A", "toy", examples, rows)], "A", Sampling(resamples=resamples), {})
        assert found["means"]["A"]["toy"]["f1"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "n": 49}
        assert cost_figure(found, "tokens", "tokens").axes
    assert whiskers((0.1, 0.1 + 1e-17, 0.3), (0.5, 0.6, 0.7)) == [[0.0, 0.0], [pytest.approx(0.2), pytest.approx(0.2)]]


def test_records_survive_odd_texts_and_foreign_lines(tmp_path: Path) -> None:
    odd = record(answer='a\u2028b\x85c\n"d"', workflow={"plan": "R,AG"}, hops=[{"question": "x"}])
    store = RecordStore(tmp_path)
    store.add(odd)
    store.add(replace(odd, outcome="crashed", id="r"))
    store.close()
    again = RecordStore(tmp_path)
    found = again.get("A", "toy", "h", "q", 0)
    assert found is not None and found.answer == odd.answer and again.finished("A", "toy", "h", "q", 0)
    assert json.dumps(asdict(found)) == json.dumps(asdict(odd))
    assert not again.finished("A", "toy", "h", "r", 0) and again.get("A", "toy", "other", "q", 0) is None
    with again.file.open("a") as file:
        file.write('{"not": "a record"}\n')
    with pytest.raises(ConfigError, match="line 3 is no record"):
        RecordStore(tmp_path)


def test_ten_thousand_questions_are_scored_compared_and_shown_in_time() -> None:
    made = [synthetic("A", 0.5, 10_000), synthetic("B", 0.52, 10_000)]
    started = time.process_time()
    text = render(build_report(made, "A", Sampling(), {"top_k": 5, "level": 0.95}))
    assert time.process_time() - started < LIMIT_SECONDS
    assert "10000 questions each" in text


def test_drawing_counts_of_values_is_drawing_questions() -> None:
    scores = np.array([0.0, 1.0] * 30 + [0.5] * 20)
    apart = scores + np.arange(80) * 1e-9  # no value twice: drawn as questions
    counted, drawn = (bootstrap_means(values, 20_000, 0) for values in (scores, apart))
    assert counted.mean() == pytest.approx(drawn.mean(), abs=0.002)
    assert np.quantile(counted, [0.025, 0.5, 0.975]) == pytest.approx(np.quantile(drawn, [0.025, 0.5, 0.975]), abs=0.01)
    differences = np.array([1.0] * 24 + [-1.0] * 14 + [0.5] * 6)
    exact = sum(
        comb(38, ones) * comb(6, halves) / 2**44
        for ones in range(39)
        for halves in range(7)
        if abs(2 * ones - 38 + halves - 3) >= abs(differences.sum())
    )
    assert permutation_p(differences, 40_000) == pytest.approx(exact, abs=0.004)
