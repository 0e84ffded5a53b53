"""The whole evaluation on the toy model: adapters, resuming, failures, seeds, what is refused before a model loads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import evaluation.evaluate as program
from agents.adapters import read_adapter
from agents.call import Completion, Request
from agents.errors import ConfigError, JadeError
from agents.model import SharedModel
from evaluation.evaluate import measure
from evaluation.evaluate_config import EvalConfig
from evaluation.glossary import check_metrics
from evaluation.records import only_writer
from evaluation.report_tracking import log_report, metrics_of
from graphs.ledger import read_ledger
from tests.eval_toy import ASKED, EXAMPLES, Broken, retrievers, systems_of, toy_eval, two_sets
from tests.ppo_toy import start_adapter
from tests.scripted import PASSAGES
from tests.toy_model import toy_model


@pytest.fixture(autouse=True)
def bare(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no figures and compare in F1 alone, but in one test: both take seconds."""
    if request.function is not test_adapters_are_compared_on_the_same_questions:
        monkeypatch.setattr("evaluation.figures.figures_of", lambda report: {})
        monkeypatch.setattr("evaluation.report.COMPARED", ("f1",))


def run(folder: Path, shared: Any = None, searched: Any = None, **changes: Any) -> dict[str, Any]:
    config, sets = toy_eval(folder, **changes), two_sets()
    found = searched or retrievers(sets)
    return measure(config, systems_of(config), sets, shared or toy_model(), found)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "eval" / "records.jsonl").read_text().split("\n") if line]


def essence(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return records without what the clock and the place in the queue made."""
    kept = [{key: value for key, value in line.items() if key not in ("seconds", "run")} for line in lines]
    return sorted(kept, key=lambda line: (line["system"], line["set"], line["id"], line["seed"]))


class Unplugged:
    """Interrupts the model at the n-th batch; counts the questions it was asked."""

    def __init__(self, shared: SharedModel, after: int) -> None:
        self.left, self.questions = after, set[str]()
        self._sample = shared.sample
        shared.sample = self.sample  # type: ignore[method-assign]

    def sample(self, requests: list[Request]) -> list[Completion]:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        self.questions |= {str(request.key[1]) for request in requests}
        return self._sample(requests)


def test_adapters_are_compared_on_the_same_questions(tmp_path: Path) -> None:
    one, two = (start_adapter(tmp_path / name, seed) for name, seed in (("a", 5), ("b", 6)))
    labels = [f"jade@{one}", f"jade@{two}", "R,AG@none", f"jade@planner={one};*=none"]
    report = run(tmp_path, systems=labels, baseline=labels[1], plan_questions=2)
    assert report["systems"] == labels and report["baseline"] == labels[1] and report["sets"] == ["toy", "other"]
    lines = lines_of(tmp_path)
    assert len(lines) == 4 * 8 and len({(line["system"], line["id"]) for line in lines}) == 32
    for label in labels:
        assert report["means"][label]["toy"]["f1"]["n"] == 5 and report["means"][label]["macro"]["questions"] == 8
    rows = [row for row in report["comparisons"] if row["metric"] == "f1"]
    assert len(rows) == 3 * 3 and {row["set"] for row in rows} == {"toy", "other", "macro"}
    assert all(row["low"] <= row["difference"] <= row["high"] and row["p_corrected"] >= row["p"] for row in rows)
    text = (tmp_path / "eval" / "report.md").read_text()
    assert "## Against the baseline" in text and "## Mean over 2 sets" in text and "None." in text
    answers = [{line["id"]: line["answer"] for line in lines if line["system"] == label} for label in labels]
    assert answers[0] != answers[1], "the adapters did not speak"
    views = {row["system"]: row for row in report["planner"] if row["set"] == "toy"}
    assert set(views) == {labels[0], labels[1], labels[3]} and views[labels[0]]["n"] == 2
    assert views[labels[0]]["probabilities"] == pytest.approx(views[labels[3]]["probabilities"]), "one planner"
    assert views[labels[0]]["entropy"] != pytest.approx(views[labels[1]]["entropy"])
    assert (tmp_path / "eval" / "figures" / "validity.png").stat().st_size > 5000


def test_every_kind_of_system_runs_and_is_recorded(tmp_path: Path) -> None:
    labels = ["AG@none", "QR,R,DS,AG@none", "QDS@none", "QDP/R,AG@none", "solo@none", "oracle@none"]
    report = run(tmp_path, systems=labels, decoding="constrained", max_new_tokens=40)
    by = {(line["system"], line["id"]): line for line in lines_of(tmp_path) if line["set"] == "toy"}
    assert by["AG@none", "q0"]["retrieved"] == [] and by["AG@none", "q0"]["evidence"] == []
    assert set(by["QR,R,DS,AG@none", "q0"]["roles"]) == {"query_rewriter", "document_selector", "answer_generator"}
    assert by["QDS@none", "q0"]["plan"] == "QDS" and by["QDP/R,AG@none", "q0"]["plan"] == "QDP"
    assert set(by["solo@none", "q0"]["roles"]) == {"solo"}
    assert by["oracle@none", "q2"]["evidence"] == ["mozart", "mayor"] and by["oracle@none", "q4"]["evidence"] == []
    means = report["means"]
    assert means["oracle@none"]["toy"]["support_f1"] == {"mean": 1.0, "n": 4}
    assert (
        means["AG@none"]["toy"]["recall_at_k"] == {"mean": 0.0, "n": 4}
        and means["AG@none"]["toy"]["turns"]["mean"] == 1
    )
    ledger = tmp_path / "eval" / "ledger" / "AG-none" / "toy.jsonl"
    assert {item.run for item in read_ledger(ledger)} == {by["AG@none", item.id]["run"] for item in EXAMPLES}


def test_an_interrupt_loses_what_was_in_flight_and_nothing_is_asked_twice(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", in_flight=2)
    shared = toy_model()
    plug = Unplugged(shared, after=4)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", shared, in_flight=2)
    done = lines_of(tmp_path / "cut")
    assert 0 < len(done) < 16 and all(line["outcome"] == "ok" or not line["error"] for line in done)
    assert len(plug.questions) - len(done) <= 2, "more was lost than was in flight"

    with (tmp_path / "cut" / "eval" / "records.jsonl").open("a") as file:
        file.write(json.dumps(done[-1])[:-20])  # a torn line
    shared = toy_model()
    again = Unplugged(shared, after=10**6)
    report = run(tmp_path / "cut", shared, in_flight=2)
    first = {(line["system"], line["set"], line["id"]) for line in done}
    lines = lines_of(tmp_path / "cut")
    assert len(lines) == 16 and {(line["system"], line["set"], line["id"]) for line in lines} > first
    assert essence(lines) == essence(lines_of(tmp_path / "whole"))
    assert report["means"]["jade@none"]["macro"]["f1"] == whole["means"]["jade@none"]["macro"]["f1"]
    assert again.questions

    shared = toy_model()
    third = Unplugged(shared, after=0)
    run(tmp_path / "cut", shared)
    assert not third.questions, "a finished evaluation asks nothing"


def test_failed_questions_stay_in_the_denominator_and_are_asked_again(tmp_path: Path) -> None:
    one = Broken(PASSAGES)
    report = run(tmp_path, searched={"toy": one, "other": one}, systems=["R,AG@none", "AG@none"], in_flight=1)
    failed = {(row["set"], row["id"]) for row in report["failed"]}
    assert failed == {("toy", "q3"), ("toy", "q4")}
    assert all(row["outcome"] == "retriever-error" and "damaged" in row["reason"] for row in report["failed"])
    means = report["means"]["R,AG@none"]["toy"]
    assert means["f1"]["n"] == 5 and means["failed"] == 2 and report["means"]["AG@none"]["toy"]["failed"] == 0
    assert "retriever-error" in (tmp_path / "eval" / "report.md").read_text()
    Broken.bad = "nothing of the kind"
    try:
        report = run(tmp_path, searched={"toy": one, "other": one}, systems=["R,AG@none", "AG@none"], in_flight=1)
    finally:
        Broken.bad = "K2"
    assert not report["failed"] and len(lines_of(tmp_path)) == 16 + 2


def test_a_system_whose_every_run_fails_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = Broken(PASSAGES)
    one.bad = ""
    report = run(tmp_path, searched={"toy": one, "other": one}, systems=["R,AG@none", "AG@none"])
    assert len(report["failed"]) == 8 and {row["system"] for row in report["failed"]} == {"R,AG@none"}
    assert report["means"]["R,AG@none"]["macro"]["f1"]["mean"] == 0.0
    told = [message for message in caplog.messages if "every run failed" in message]
    why = "every run failed: RetrieverError: the index is damaged"
    assert told == [f"R,AG@none on toy: {why}", f"R,AG@none on other: {why}"]


def test_a_mistake_is_raised_though_every_earlier_run_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Broken(PASSAGES)
    one.bad = ""
    run(tmp_path, searched={"toy": one, "other": one}, systems=["R,AG@none"])

    def refuse(*given: Any, **options: Any) -> None:
        raise ConfigError("nothing is asked")

    monkeypatch.setattr("evaluation.bench.collect", refuse)
    with pytest.raises(ConfigError, match="nothing is asked"):
        run(tmp_path, searched={"toy": one, "other": one}, systems=["R,AG@none"])


def test_seeds_are_averaged_by_question(tmp_path: Path) -> None:
    report = run(tmp_path, systems=["AG@none"], seeds=3, temperature=1.0, seed=7)
    lines = lines_of(tmp_path)
    assert len(lines) == 24 and {line["seed"] for line in lines} == {7, 8, 9}
    assert len({line["answer"] for line in lines if line["id"] == "q0"}) > 1, "the seeds draw alike"
    assert report["means"]["AG@none"]["toy"]["f1"]["n"] == 5 and report["plans"][0]["n"] == 24


def test_own_graphs_are_evaluated_like_ours(tmp_path: Path) -> None:
    report = run(tmp_path, systems=["graphs.solo:build_solo@none", "solo@none"], top_k=5)
    lines = essence(lines_of(tmp_path))
    own = [line for line in lines if line["system"].startswith("graphs.solo")]
    assert len(own) == 8 and [line["answer"] for line in own] == [
        line["answer"] for line in lines if line["system"] == "solo@none"
    ]
    assert report["plans"][0]["group"] == "(no plan)"
    for spec, message in (
        ("no.such:graph", "cannot be imported"),
        ("evaluation.metrics:read_golds@none", "wants other arguments"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(tmp_path, systems=[spec])


def test_two_evaluations_do_not_write_into_one_folder(tmp_path: Path) -> None:
    with only_writer(tmp_path / "eval"), pytest.raises(ConfigError, match="another evaluation writes"):
        run(tmp_path)


def test_an_adapter_of_other_prompts_is_refused(tmp_path: Path) -> None:
    start = start_adapter(tmp_path / "a", 5)
    card = json.loads((start / "jade.json").read_text())
    (start / "jade.json").write_text(json.dumps({**card, "text": "0" * 32}))
    with pytest.raises(ConfigError, match="trained under text hash"):
        run(tmp_path, systems=[f"jade@{start}"])
    assert read_adapter(start).prompts == "bare"


def test_metrics_have_names_of_the_glossary_and_everything_is_logged(tmp_path: Path) -> None:
    report = run(tmp_path, systems=["R,AG@none", "jade@none"], plan_questions=1)
    names = metrics_of(report)
    check_metrics(names)
    assert {"eval/R-AG-none/toy/f1", "eval/jade-none/macro/f1/low", "eval/jade-none/toy/plan_entropy"} <= set(names)
    assert 0 <= names["eval/jade-none/toy/regret"] <= 1
    assert "## The planner in hindsight" in (tmp_path / "eval" / "report.md").read_text()

    class Logged:
        def __init__(self) -> None:
            self.names: list[str] = []

        def log_metrics(self, values: dict[str, float], step: int) -> None:
            self.names += list(values)

        def log_text(self, text: str, name: str) -> None:
            self.names.append(name)

        log_figure = log_text

    hashes = report["hashes"]
    assert hashes["R,AG@none"] == hashes["jade@none"] and hashes["jade@none"]["policy"].startswith("base:")
    assert set(hashes["jade@none"]) == {"text", "policy", "environment"} and all(hashes["jade@none"].values())
    logged = Logged()
    log_report(logged, report, {"a.png": None}, tmp_path / "eval")  # type: ignore[arg-type, dict-item]
    assert {"report.md", "report.json", "records.jsonl", "figures/a.png"} <= set(logged.names)


REFUSED = [
    ({"systems": ["jad@none"]}, "no system 'jad'.*did you mean 'jade'"),
    ({"systems": ["R,DS@none"]}, "'R,DS' is no plan"),
    ({"systems": ["QDS/QDP/R,AG@none"], "max_depth": 1}, "needs max_depth"),
    ({"systems": ["jade@"]}, "after @ give an adapter folder"),
    ({"systems": ["jade@planer=x"]}, "is no role=folder pair"),
    ({"systems": ["jade@no/such/folder"]}, "does not exist"),
    ({"systems": ["jade@none", "jade-none"]}, "no system 'jade-none'"),
    ({"systems": []}, "systems is empty"),
    ({"systems": ["AG", "AG"]}, "twice"),
    ({"baseline": "solo"}, "baseline='solo' is not among the systems"),
    ({"sets": ["hotpot"]}, "no set 'hotpot'.*did you mean 'hotpotqa'"),
    ({"sets": []}, "no questions"),
    ({"model": "no/such/model"}, "model folder no/such/model does not exist"),
    ({"systems": ["R,AG@none", "R,AG@other"], "other": "my-model/"}, "model folder my-model does not exist"),
    ({"sets": [], "data": "x.jsonl"}, "data is given without an index"),
    ({"sample": 0}, "sample=0; must be at least 1, or none for all questions"),
    ({"seeds": 2}, "greedy runs of a question are all alike"),
    ({"seed": -1}, "seed=-1; must be at least 0"),
    ({"threads": 0}, "threads=0; must be at least 1"),
    ({"dtype": "fp8"}, "dtype='fp8'; allowed: auto, bf16, fp16, fp32"),
    ({"decoding": "beam"}, "decoding='beam'; allowed"),
    ({"level": 95}, "level=95"),
]


@pytest.mark.parametrize("changes, message", REFUSED)
def test_impossible_wishes_are_refused_before_a_model_loads(
    changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: Any) -> Any:
        raise AssertionError("something was loaded")

    monkeypatch.setattr(program, "load_model", never)
    monkeypatch.setattr(program, "open_retrievers", never)
    with pytest.raises(JadeError, match=message):
        program.evaluate(EvalConfig(**changes))


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, evaluation.evaluate as e\nfrom evaluation.config import describe\n"
        "print(len(describe(e.EvalConfig)))\n"
        "print([n for n in ('torch', 'langgraph', 'chromadb', 'mlflow', 'matplotlib', 'scipy') if n in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split("\n")[1] == "[]"
    assert ASKED.examples == EXAMPLES
