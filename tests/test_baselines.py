"""Trained baselines: every arm gets the same budget, finished ones are not trained again, all are compared."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from agents.errors import ConfigError
from evaluation.config import read_config
from evaluation.systems import read_systems
from experiments.baselines import ARMS, PROGRAM, BaselinesConfig, finished, train_arms
from experiments.learning import Silent
from graphs.options import Options
from tests.eval_toy import retrievers, two_sets
from tests.ppo_toy import start_adapter, toy_session
from tests.toy_model import toy_model
from training.ppo import run
from training.ppo_config import PPOConfig


def test_all_arms_have_one_budget(tmp_path: Path) -> None:
    config = BaselinesConfig(output=str(tmp_path), adapter="adapters/warm", iterations=7, questions=5, runs=3)
    options = {name: asdict(config.training(name)) for name in ARMS}
    for name, arm in ARMS.items():
        differs = {key for key in options[name] if options[name][key] != options["joint"][key]}
        assert differs == {"output", *arm.changes} - ({"output"} if name == "joint" else set()), name
        assert Path(options[name]["output"]) == tmp_path / name


def test_an_arm_is_trained_once_and_all_are_compared(tmp_path: Path) -> None:
    start = start_adapter(tmp_path / "start")
    config = BaselinesConfig(output=str(tmp_path / "out"), adapter=str(start), arms=["planner", "joint"], iterations=1)
    taught: list[str] = []

    def teach(options: PPOConfig) -> int:
        taught.append(Path(options.output).name)
        session = toy_session(Path(options.output), start=start, iterations=1, train=options.train)
        return run(session, Silent())  # type: ignore[arg-type]

    assert train_arms(config, teach) == {"planner": 0, "joint": 0} and taught == ["planner", "joint"]
    assert train_arms(config, teach) == {"planner": 0, "joint": 0} and taught == ["planner", "joint"], "trained again"
    longer = BaselinesConfig(output=config.output, adapter=str(start), arms=["joint"], iterations=2)
    assert not finished(longer.training("joint"))
    with pytest.raises(ConfigError, match="joint stopped before its last iteration"):
        train_arms(longer, lambda options: 0)
    compared = config.comparison()
    systems = read_systems(compared.systems, Options())
    assert [system.kind for system in systems] == ["planned"] * 3 and compared.decoding == "constrained"
    alone = systems[1]
    assert set(alone.folders) == {"planner", "*"} and alone.folders["*"] == start
    from evaluation.bench import Bench

    sets = two_sets()
    bench = Bench(toy_model(), compared, retrievers(sets))
    digests = {bench.digest(system, sets[0]) for system in systems}
    assert len(digests) == 3, "start, planner alone and joint are three different things"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arms", "['both']"], "allowed: joint, planner, executors, r-ag, mmoa, solo"),
        (["--train", "planner"], "is an arm here"),
        (["--workflow", "R,AG"], "workflow is what the arms differ in"),
        (["--questions", "0"], "questions=0"),
    ],
)
def test_what_the_arms_differ_in_is_not_an_option(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(BaselinesConfig, arguments, PROGRAM)
