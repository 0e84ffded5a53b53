"""The mismatch meter: matrix, difference of differences, sentences, and executors on a second backbone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.call import Request
from agents.errors import ConfigError
from agents.model import SharedModel
from agents.role import Prompts
from agents.roster import prompts_digest
from agents.routed import RoutedPolicy, speaker_of
from evaluation.config import read_config
from evaluation.evaluate import measure
from evaluation.evaluate_config import EvalConfig
from evaluation.mismatch import PROGRAM, measure_mismatch
from evaluation.mismatch_config import MismatchConfig
from evaluation.mismatch_report import mismatch_of, render_mismatch, sentences
from evaluation.report import Sampling, build_report
from evaluation.results import Block
from evaluation.systems import read_systems
from graphs.ledger import read_ledger
from graphs.options import read_options
from tests.eval_toy import EXAMPLES, retrievers, toy_eval, two_sets
from tests.ppo_toy import start_adapter
from tests.toy_model import toy_model


class Given(Block):
    """A block whose F1 is given."""

    def __init__(self, system: str, scores: list[float]) -> None:
        asked = [EXAMPLES[place % len(EXAMPLES)] for place in range(len(scores))]
        super().__init__(system, "toy", asked, [[] for _ in asked])
        object.__setattr__(self, "given", np.array(scores))

    def values(self, metric: str) -> Any:
        return self.given  # type: ignore[attr-defined]

    def run_values(self, metric: str) -> list[float]:
        return []


def toy_mismatch(folder: Path, **changes: Any) -> MismatchConfig:
    fields = toy_eval(folder).__dict__ | {"output": str(folder / "mismatch"), **changes}
    fields.pop("systems")
    return MismatchConfig(**fields)


def systems_of(config: EvalConfig) -> list[Any]:
    return read_systems(config.systems, read_options(config.options()), config.model, config.other)


def test_the_meter_is_a_difference_of_differences(tmp_path: Path) -> None:
    config = toy_mismatch(tmp_path, planners=["u=none", "t=shipped"], executors=["u=none", "t=shipped"], also=[])
    cells = {
        ("u", "u"): [0.2, 0.2, 0.2, 0.2, 0.2],
        ("t", "u"): [0.1, 0.0, 0.1, 0.0, 0.1],  # planning better over untrained executors hurts
        ("u", "t"): [0.4, 0.4, 0.4, 0.4, 0.4],
        ("t", "t"): [0.9, 0.8, 0.9, 0.8, 0.9],  # and pays over trained ones
    }

    def measured(times: int) -> dict[str, Any]:
        blocks = [Given(config.planned(p, e), scores * times) for (p, e), scores in cells.items()]
        blocks += [Given(config.forced("R,AG", e), [0.3] * 5 * times) for e in ("u", "t")]
        return mismatch_of(config, blocks, build_report(blocks, blocks[0].system, Sampling(resamples=500), {}))

    few = measured(1)["meter"]
    assert few["p"] == pytest.approx(2 / 32) and few["sign"] == 0, "five questions of one sign are not enough"
    found = measured(2)
    assert [round(cell["mean"], 2) for cell in found["matrix"]] == [0.2, 0.06, 0.4, 0.86]
    meter = found["meter"]
    assert meter["difference"] == pytest.approx((0.86 - 0.40) - (0.06 - 0.20)) == pytest.approx(0.6)
    assert (meter["mean"], meter["baseline"]) == (pytest.approx(0.46), pytest.approx(-0.14)) and meter["sign"] == 1
    planning = {(row["planner"], row["executors"]): row for row in found["planning"]}
    assert planning["t", "u"]["difference"] == pytest.approx(-0.24)
    assert planning["t", "t"]["difference"] == pytest.approx(0.56)
    said = sentences(found)
    assert (
        len(said) == 5
        and "Mismatch meter +0.600 [" in said[-1]
        and said[-1].endswith(
            "the t planner in place of the u one is worth more over the t executors than over the u ones, as the "
            "paper's mismatch would have it (+0.460 against -0.140)."
        )
    )
    assert all(row["p_corrected"] >= row["p"] for row in found["planning"])
    assert found["plans"] == found["coadaptation"] == []


def meter_of(tmp_path: Path, alone: float, joint: float) -> str:
    """Return the meter's sentence where another planner is worth so much over the first and over the last executors."""
    sides = {"planners": ["start=none", "alone=x", "joint=shipped"], "executors": ["trained=shipped", "other=none"]}
    config = toy_mismatch(tmp_path, **sides, also=[])
    noise = [0.0, 0.01, -0.01, 0.02, -0.02] * 4
    worth = {("start", "trained"): 0.0, ("start", "other"): 0.0, ("joint", "trained"): alone, ("joint", "other"): joint}
    blocks = [Given(config.planned(p, e), [0.5 + more + n for n in noise]) for (p, e), more in worth.items()]
    blocks += [Given(config.planned("alone", e), [0.9] * 20) for e in ("trained", "other")]
    blocks += [Given(config.forced("R,AG", e), [0.5 - n for n in noise]) for e in ("trained", "other")]
    return sentences(mismatch_of(config, blocks, build_report(blocks, blocks[0].system, Sampling(resamples=500), {})))[
        -1
    ]


def test_the_meter_names_its_sides_and_is_true_for_all_signs(tmp_path: Path) -> None:
    for alone, joint, says in (
        (0.1, 0.3, "worth more over the other executors than over the trained ones, as the"),
        (-0.3, -0.1, "worth more over the other executors than over the trained ones, as the"),  # it hurts less there
        (0.3, 0.1, "worth less over the other executors than over the trained ones, which is not the"),
        (-0.1, -0.3, "worth less over the other executors than over the trained ones, which is not the"),
        (0.1, -0.1, "worth less over the other executors than over the trained ones, which is not the"),
    ):
        said = meter_of(tmp_path, alone, joint)
        assert f"the joint planner in place of the start one is {says} paper's mismatch" in said
        assert (
            said.endswith(f"({joint:+.3f} against {alone:+.3f}).") and f"Mismatch meter {joint - alone:+.3f} [" in said
        )


def test_a_plan_may_pay_only_after_training(tmp_path: Path) -> None:
    config = toy_mismatch(tmp_path, planners=["u=none"], executors=["u=none", "t=shipped"])
    scores = {
        config.planned("u", "u"): 0.2, config.planned("u", "t"): 0.4, "R,AG@none": 0.30, "R,DS,AG@none": 0.29,
        "R,AG@shipped": 0.40, "R,DS,AG@shipped": 0.45,
    }  # fmt: skip
    blocks = [Given(system, [score, score + 0.1, score, score - 0.1, score]) for system, score in scores.items()]
    found = mismatch_of(config, blocks, build_report(blocks, blocks[0].system, Sampling(resamples=500), {}))
    assert [round(row["difference"], 3) for row in found["plans"]] == [-0.01, 0.05]
    (row,) = found["coadaptation"]
    assert row["difference"] == pytest.approx(0.06) and found["meter"] is None
    assert row["p"] == pytest.approx(2 / 32) and row["sign"] == 0, "five questions cannot tell"
    assert "### Co-adaptation" in render_mismatch(found) and "| R,DS,AG | -0.010 | +0.050 |" in render_mismatch(found)


def test_too_few_questions_resolve_nothing(tmp_path: Path) -> None:
    config = toy_mismatch(tmp_path, planners=["u=none", "t=shipped"], executors=["u=none", "t=shipped"], also=[])
    noise = [[0.0, 1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 0.0, 0.0, 0.0]]
    blocks = [Given(config.planned(p, e), noise.pop()) for p in "ut" for e in "ut"]
    blocks += [Given(config.forced("R,AG", e), [0.5, 0.5, 0.0, 0.0, 1.0]) for e in "ut"]
    found = mismatch_of(config, blocks, build_report(blocks, blocks[0].system, Sampling(resamples=500), {}))
    assert found["meter"]["sign"] == 0 and all("does not resolve" in line for line in sentences(found))


def test_planners_and_executors_are_crossed_on_one_base(tmp_path: Path) -> None:
    one, two = (start_adapter(tmp_path / name, seed) for name, seed in (("a", 5), ("b", 6)))
    sides = [f"start={one}", f"joint={two}"]
    config = toy_mismatch(tmp_path, planners=sides, executors=sides)
    sets = two_sets()
    report = measure_mismatch(config, systems_of(config), sets, toy_model(), retrievers(sets))
    assert len(report["systems"]) == 4 + 2 * 2, "four cells, and two chains on each set of executors"
    found = report["mismatch"]
    assert (
        len(found["matrix"]) == 4
        and len(found["plans"]) == 2
        and len(found["coadaptation"]) == 1
        and found["over"] == "macro"
    )
    crossed = config.planned("joint", "start")
    cell = next(c for c in found["matrix"] if (c["planner"], c["executors"]) == ("joint", "start"))
    assert cell["mean"] == report["means"][crossed]["macro"]["f1"]["mean"]
    text = (tmp_path / "mismatch" / "report.md").read_text()
    assert text.startswith("## Planner × executors") and "Mismatch meter" in text and "# Evaluation" in text
    assert "python -m evaluation.mismatch " in text and "--planners" in text and "--systems" not in text
    assert (tmp_path / "mismatch" / "figures" / "mismatch.png").stat().st_size > 5000
    assert json.loads((tmp_path / "mismatch" / "report.json").read_text())["mismatch"]["fixed_plan"] == "R,AG"
    assert render_mismatch(found) in text


def test_executors_can_stand_on_another_backbone(tmp_path: Path) -> None:
    folder = start_adapter(tmp_path / "a", 5)
    shared, other = toy_model(text_digest=prompts_digest(Prompts("bare"))), toy_model(seed=9)
    heard: dict[str, set[str]] = {"base": set(), "other": set()}
    for name, model in (("base", shared), ("other", other)):
        _listen(model, heard[name])
    config = toy_eval(
        tmp_path, systems=[f"jade@planner={folder};*=other", f"jade@{folder}"], other="/models/other", plan_questions=1
    )
    sets = two_sets()[:1]
    report = measure(config, systems_of(config), sets, shared, retrievers(sets), other)
    assert heard["other"] and "planner" not in heard["other"], "the second base plays the executors"
    assert "planner" in heard["base"]
    rows = {row["system"]: row["probabilities"] for row in report["planner"]}
    assert rows[config.systems[0]] == pytest.approx(rows[config.systems[1]]), "one planner"
    assert "other model" in report["conditions"]
    ledgers = sorted((tmp_path / "eval" / "ledger").glob("*/toy.jsonl"))
    texts = [next(iter(read_ledger(path))).hashes["text"] for path in ledgers]
    assert len(set(texts)) == 2 and any(text.startswith("routed:") for text in texts)


def _listen(model: SharedModel, heard: set[str]) -> None:
    sample = model.sample

    def listen(requests: list[Request]) -> Any:
        heard.update(request.role for request in requests)
        return sample(requests)

    model.sample = listen  # type: ignore[method-assign, assignment]


def test_a_routed_policy_keeps_the_order_and_names_everybody() -> None:
    one, two = toy_model(), toy_model(seed=9)
    policy = RoutedPolicy(one, {"answer_generator": two})
    prompt = one.encode([{"role": "user", "content": "Where?"}])
    requests = [
        Request(key=(0, "q", role, place), role=role, prompt=prompt, max_new_tokens=4)
        for place, role in enumerate(["planner", "answer_generator", "planner", "answer_generator"])
    ]
    found = policy.sample(requests)
    assert [item.response_ids for item in found[::2]] == [item.response_ids for item in one.sample(requests[::2])]
    assert [item.response_ids for item in found[1::2]] == [item.response_ids for item in two.sample(requests[1::2])]
    assert found[1].logprobs != one.sample(requests[1:2])[0].logprobs
    assert policy.identity["policy"] != one.identity["policy"] and "(answer_generator)" in policy.identity["base"]
    assert speaker_of(policy, "planner") is one and speaker_of(one, "planner") is one
    assert (
        policy.context_length == one.context_length and policy.encode([{"role": "user", "content": "Where?"}]) == prompt
    )


def test_bad_sides_are_refused_by_name() -> None:
    cases = {
        "planners names 'a' twice": {"planners": ["a=none", "a=shipped"]},
        "is no NAME=ADAPTER": {"executors": ["a="]},
        "executors is empty": {"executors": []},
        "leave it out": {"systems": ["jade"]},
        "also names 'R,AG', which is the fixed workflow": {"also": ["R,AG"]},
    }
    for message, changes in cases.items():
        with pytest.raises(ConfigError, match=message):
            MismatchConfig(**changes)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="name it: --other FOLDER"):
        systems_of(MismatchConfig(executors=["u=none", "o=other"]))
    config, _ = read_config(MismatchConfig, ["--sample", "3"], PROGRAM)
    assert config.sample == 3 and config.derived == ("systems",)


def test_the_command_explains_itself() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "evaluation.mismatch", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert "--planners" in shown and "Who plans" in shown and "--sample" in shown and "Questions of each set" in shown
