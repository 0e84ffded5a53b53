"""Trained baselines: every arm gets the same budget, is trained once and nested in one MLflow run; all are compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from agents.adapters import WEIGHTS, content_hash, read_adapter, write_adapter_info
from agents.errors import ConfigError
from agents.model import SharedModel
from evaluation.config import read_config
from evaluation.systems import read_systems
from evaluation.tracking import PARENT, MlflowStore, tracking_uri
from experiments.arms import Arm, Results, Row
from experiments.baselines import PROGRAM, RECIPES, BaselinesConfig, baselines, figures, show, work
from experiments.conduct import conduct, family
from experiments.trained import COMPARISON, finished, measure, setting_of, taught
from graphs.options import read_options
from tests.eval_toy import ASKED, retrievers
from tests.ppo_toy import start_adapter
from tests.scripted import PASSAGES, ListRetriever
from tests.toy_model import toy_module, toy_tokenizer
from tests.tracking_store import store
from training.checkpoint import FORMAT, LATEST, State
from training.ppo_config import PPOConfig

__all__ = ["store"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def toy_baselines(folder: Path, **changes: Any) -> BaselinesConfig:
    fields: dict[str, Any] = {
        "output": str(folder / "out"), "model": str(folder / "toy"),
        "datasets": ["nq"], "iterations": 1, "questions": 1, "runs": 2, "first_layer": 1, "rank": 4, "lora_alpha": 8,
        "critic_warmup": 0, "minibatches": 1, "eval_every": 0, "traces": 0, "threads": 1, "dtype": "fp32", "top_k": 2,
        "target_kl": None, "max_depth": 0, "decoding": "constrained", "arms": ["r-ag", "joint"],
    }  # fmt: skip
    return BaselinesConfig(**{**fields, **changes})


def never(*given: Any) -> Any:
    raise AssertionError("nothing was to be trained")


def test_all_arms_have_one_budget(tmp_path: Path) -> None:
    config = BaselinesConfig(output=str(tmp_path), adapter="adapters/warm", iterations=7, questions=5, runs=3)
    options = {name: asdict(config.training(name)) for name in RECIPES}
    for name, recipe in RECIPES.items():
        differs = {key for key in options[name] if options[name][key] != options["joint"][key]}
        assert differs == {"output", *recipe.changes} - ({"output"} if name == "joint" else set()), name
        assert Path(options[name]["output"]) == tmp_path / name
    keys = {Results(tmp_path / "r", setting_of(config)).key(arm) for arm in baselines(config).arms}
    assert len(keys) == len(RECIPES)
    cheaper = replace(config, threads=1, output="elsewhere", eval_every=3, traces=0)
    assert setting_of(cheaper) == setting_of(config) != setting_of(replace(config, lr=1e-5))


def test_an_adapter_that_is_trained_again_into_its_folder_makes_other_arms(tmp_path: Path) -> None:
    """Arms go by what the start adapter holds; a folder that was trained from what it held before is not taken."""
    start = start_adapter(tmp_path / "start")
    config = toy_baselines(tmp_path, adapter=str(start))
    before, held = setting_of(config), content_hash(start)
    assert before["adapter_content"] == held and "adapter_content" not in setting_of(toy_baselines(tmp_path))
    joint = config.training("joint")
    left_finished(joint, start)
    assert taught(joint, never)["version"] == 1
    card = start / "jade.json"
    card.write_text(card.read_text() + "\n")
    assert setting_of(config) == before, "the card is no part of what it holds"
    retrain(start)
    assert setting_of(config) != before
    arm = baselines(config).arms[0]
    assert len({Results(tmp_path / "r", found).key(arm) for found in (before, setting_of(config))}) == 2
    with pytest.raises(ConfigError, match=r"joint began with what .*start held before it was trained again"):
        taught(joint, never)
    with pytest.raises(ConfigError, match=r"nowhere does not exist"):
        setting_of(replace(config, adapter=str(tmp_path / "nowhere")))


def retrain(folder: Path) -> None:
    """Change the weights of an adapter in its place."""
    weights = load_file(folder / WEIGHTS)
    save_file({name: tensor + 1.0 for name, tensor in weights.items()}, folder / WEIGHTS)


def left_finished(options: PPOConfig, start: Path) -> None:
    """Leave a training folder as it is after the last iteration of a training from a start adapter."""
    state = State(options.iterations, 1, start_policy=content_hash(start), config=asdict(options))
    checkpoint = Path(options.output) / LATEST
    checkpoint.mkdir(parents=True)
    record = {"format": FORMAT, "steps": [], "files": {}, "state": asdict(state)}
    (checkpoint / "state.json").write_text(json.dumps(record))
    shutil.copytree(start, Path(options.output) / "adapter")
    write_adapter_info(Path(options.output) / "adapter", replace(read_adapter(start), version=1))


def test_training_runs_are_children_of_one_run_with_table_and_figure(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("agents.retriever.open_retriever", lambda name, *, k: ListRetriever(PASSAGES))
    monkeypatch.setattr("evaluation.figures.figures_of", lambda report: {})
    toy_module().save_pretrained(tmp_path / "toy")
    toy_tokenizer().save_pretrained(tmp_path / "toy")
    config = toy_baselines(tmp_path)
    experiment, out = baselines(config), tmp_path / "out"
    results = Results(out / "results.jsonl", setting_of(config))
    client = MlflowStore(tracking_uri()).client
    with family(experiment, out, {}) as logged:
        parent = str(logged.parent.run_id)
        rows = [results.add(arm, work(config, arm)) for arm in experiment.arms]
        for row in rows:
            assert client.get_run(row["run"]).data.tags[PARENT] == parent, "nested while it trains"
    assert [(row["version"], [step for step, _ in row["curve"]]) for row in rows] == [(1, [1]), (1, [1])]
    check_trained_once(config)
    rows.append(results.add(*compared(config, rows)))
    # all arms have their rows: nothing is run, all is shown and logged
    assert conduct(experiment, out, never, setting=setting_of(config)) == 0
    known = json.loads((out / "mlflow.json").read_text())
    assert known["parent"] == parent and set(known["children"].values()) == {row["run"] for row in rows}
    assert {client.get_run(row["run"]).data.tags[PARENT] for row in rows} == {parent}
    assert {client.get_run(run).info.experiment_id for run in (parent, *known["children"].values())} == {
        client.get_experiment_by_name("jade-experiments").experiment_id
    }
    assert "rollout/score" in client.get_run(rows[0]["run"]).data.metrics
    assert {item.path for item in client.list_artifacts(parent)} >= {"table.md", "results.jsonl", "figures"}
    printed = capsys.readouterr().out
    assert printed == (out / "table.md").read_text() and "| r-ag | " in printed and "R,AG@" in printed
    assert (out / "f1-by-arm.png").read_bytes().startswith(b"\x89PNG")


def check_trained_once(config: BaselinesConfig) -> None:
    """Check that a finished arm is not trained again, one with other options is refused, and half of one is told."""
    joint = config.training("joint")
    assert finished(joint) and taught(joint, never)["version"] == 1
    with pytest.raises(ConfigError, match=r"joint was trained with other options \(lr: 0.0003 → 0.5\); use them"):
        taught(replace(joint, lr=0.5), never)
    longer = replace(joint, iterations=2)
    assert not finished(longer)
    with pytest.raises(ConfigError, match=r"joint was trained with other options \(lr: "):
        taught(replace(longer, lr=0.5), never)  # nor is it gone on with
    record = Path(joint.output) / "checkpoint" / "state.json"
    known = record.read_text()
    for state, message in (
        ({"iteration": 9}, "trained for 9 iterations, more than iterations=1; ask for as many"),
        ({"version": 2}, "it stopped before its last iteration"),  # killed before it left its last adapter
    ):
        data = json.loads(known)
        record.write_text(json.dumps({**data, "state": {**data["state"], **state}}))
        with pytest.raises(ConfigError, match=message):
            taught(joint, lambda options: 0)
    record.write_text(known)
    for status, message in ((0, "it stopped before its last iteration"), (3, "an alarm stopped it")):
        with pytest.raises(ConfigError, match=rf"joint: {message}; the same command goes on with it"):
            taught(longer, lambda options, status=status: status)


def compared(config: BaselinesConfig, rows: list[Row]) -> tuple[Arm, Mapping[str, Any]]:
    """Return the arm that follows, and what it finds on the toy questions."""
    (arm,) = baselines(config).later(rows)
    assert arm.name == COMPARISON and arm.options["trained"] == [row["key"] for row in rows]
    more = baselines(config).later([{**row, "key": "another"} for row in rows])
    assert more[0].options != arm.options, "what was trained on is asked anew"
    mine = replace(config.comparison(), max_new_tokens=10, resamples=200, plan_questions=0)
    assert mine.systems == arm.options["systems"]
    systems = read_systems(mine.systems, read_options(mine.options()))
    base = SharedModel.load(config.model, dtype="fp32", device="cpu", threads=1)
    found = measure(mine, systems, [ASKED], base, retrievers([ASKED]), "f1")
    assert [len(found["scores"][name][0]) for name in mine.systems] == [5] * 4
    return arm, found


def test_what_is_compared(tmp_path: Path) -> None:
    for name in ("start", "out/planner/adapter", "out/joint/adapter"):
        start_adapter(tmp_path / name)
    config = toy_baselines(tmp_path, arms=["planner", "joint"], adapter=str(tmp_path / "start"))
    mine = config.comparison()
    systems = read_systems(mine.systems, read_options(mine.options()))
    assert [system.kind for system in systems] == ["planned"] * 3 and mine.decoding == "constrained"
    alone = systems[1]
    assert set(alone.folders) == {"planner", "*"} and alone.folders["*"] == tmp_path / "start"
    assert config.starts().systems == [f"jade@{tmp_path / 'start'}"]
    assert config.comparison(["joint"]).systems == [systems[0].label, systems[2].label], (
        "an arm that failed is left out"
    )


def test_the_tables_by_hand() -> None:
    config = BaselinesConfig(output="o", adapter="s", arms=["joint", "r-ag"], datasets=["nq", "musique"])
    scores = {
        "jade@s": [[0.0, 1.0, 0.0, 1.0], [0.0, 0.0]],  # 0.25 over two sets that count the same
        "jade@o/joint/adapter": [[1.0, 1.0, 1.0, 1.0], [1.0, 0.0]],  # 0.75
        "R,AG@s": [[0.0] * 4, [1.0, 1.0]],
        "R,AG@o/r-ag/adapter": [[0.5] * 4, [0.5, 0.5]],
    }
    rows: list[Row] = [{"arm": "joint"}, {"arm": "r-ag"}, {"arm": COMPARISON, "scores": scores, "summary": "6 turns"}]
    shown = show(config, rows)
    assert "| joint | 0.250 | 0.750 | +0.500 [" in shown and "| r-ag | 0.500 | 0.500 | +0.000 [" in shown
    assert "| r-ag → joint | 0.500 | 0.750 | +0.250 [" in shown and "6 turns" in shown
    (figure,) = figures(config, rows).values()
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["joint", "r-ag"]
    steps = [tuple(line.get_xdata()) for line in axes.lines if line.get_linestyle() == "-"]
    assert steps == [(0.25, 0.75), (0.5, 0.5)]
    assert "+0" not in show(config, rows[:2]) and figures(config, rows[:2]) == {}, "the comparison failed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arms", "['both']"], "allowed: joint, planner, executors, r-ag, mmoa, solo"),
        (["--arms", "['joint', 'joint']"], "each at most once"),
        (["--train", "planner"], "is an arm here"),
        (["--workflow", "R,AG"], "workflow is what the arms differ in"),
        (["--parent", "abc"], "parent is what the arms differ in"),
        (["--questions", "0"], "questions=0"),
    ],
)
def test_what_the_arms_differ_in_is_not_an_option(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(BaselinesConfig, arguments, PROGRAM)
