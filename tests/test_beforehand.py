"""Options that would do nothing are refused by name, and what cannot work is refused before a model is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import training.ppo
import training.sft
from agents.adapters import CONFIG
from agents.errors import ConfigError, LedgerError
from graphs.ledger import LedgerWriter
from tests.ppo_toy import rolled, start_adapter, toy_session
from tests.test_ppo_command import config_of, toy_folder
from tests.test_recorded_credit import RUN
from training.adapter import LoraShape
from training.beforehand import check_options, refuse_idle, refuse_ignored, shape_of
from training.lead import Untracked
from training.ppo import run, train
from training.ppo_config import PPOConfig
from training.ppo_setup import load_model, make_gold, make_worlds, prompts_of, read_questions
from training.session import Session, begin
from training.sft_config import SFTConfig

__all__ = ["toy_folder"]
NUMBER = 3
"""What is no graph and no score."""


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an adapter of rank 4 and alpha 8 on layer 1 and above."""
    return start_adapter(tmp_path_factory.mktemp("start") / "adapter")


def test_a_shape_beside_an_adapter_that_has_another_one_is_refused(adapter: Path) -> None:
    assert shape_of(adapter).rank == 4 and shape_of(adapter).first_layer == 1
    for same in (LoraShape(), LoraShape(4, 8, 1), LoraShape(targets=shape_of(adapter).targets[::-1])):
        refuse_ignored(adapter, same)
    cases = {
        r"rank=8: .*keeps its own \(rank=4\); leave rank out": {"rank": 8},
        r"lora_alpha=4: .*\(lora_alpha=8\)": {"lora_alpha": 4},
        r"rank=2, first_layer=0: .*\(rank=4, first_layer=1\); leave rank and first_layer out": {
            "rank": 2, "first_layer": 0,
        },
        r"targets=\['q_proj'\]: ": {"targets": ["q_proj"]},
    }  # fmt: skip
    for message, changes in cases.items():
        with pytest.raises(ConfigError, match=message):
            check_options(PPOConfig(adapter=str(adapter), **changes))  # type: ignore[arg-type]
    check_options(PPOConfig(adapter=str(adapter), targets=["q_proj"], critic="adapter"))  # the critic's are these
    with pytest.raises(ConfigError, match=r"^alpha=4: .*\(alpha=8\); leave alpha out"):
        training.sft.check_options(SFTConfig(adapter=str(adapter), alpha=4))


def test_the_defaults_of_the_commands_are_the_usual_shape() -> None:
    usual, ppo, sft = LoraShape(), PPOConfig(), SFTConfig()
    assert LoraShape(ppo.rank, ppo.lora_alpha, ppo.first_layer, tuple(ppo.targets)) == usual
    assert LoraShape(sft.rank, sft.alpha, sft.first_layer, tuple(sft.targets)) == usual


@pytest.mark.parametrize("damage", ["[]", "{", '{"r": 4}', '{"r": 4, "lora_alpha": 8, "target_modules": null}'])
def test_a_corrupt_configuration_of_an_adapter_is_named(adapter: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(adapter, tmp_path / "copy")
    (tmp_path / "copy" / CONFIG).write_text(damage)
    with pytest.raises(ConfigError, match=rf"copy/{CONFIG} is no configuration of an adapter"):
        shape_of(tmp_path / "copy")
    shape = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "layers_to_transform": None}
    (tmp_path / "copy" / CONFIG).write_text(json.dumps(shape))
    assert shape_of(tmp_path / "copy") == LoraShape(4, 8, 0, ("all-linear",))


def session_of(config: PPOConfig) -> Session:
    """Begin a training run as the command does, without its tracking."""
    prompts, questions = prompts_of(config), read_questions(config)
    shared = load_model(config, prompts)
    worlds = make_worlds(config, shared, prompts, questions)
    return begin(config, shared, worlds, make_gold(config, questions), prompts.style)


def test_training_a_planner_that_never_speaks_ends_with_its_first_batch(toy_folder: Path) -> None:
    message = (
        r"train='planner', but a role named 'planner' speaks nowhere in the first 4 runs \(who speaks: judge, writer"
    )
    config = config_of(toy_folder, train="planner")
    with pytest.raises(ConfigError, match=message):
        train(config, dry_run=True)
    session = session_of(config)
    with pytest.raises(ConfigError, match=message):
        run(session, Untracked())
    assert session.state.iteration == 0 and not (toy_folder / "run" / "adapter").exists()


def test_the_planner_of_our_own_graph_speaks(tmp_path: Path) -> None:
    buffer = rolled(toy_session(tmp_path, train="planner")).buffer
    refuse_idle(buffer, "planner")
    assert {row.call.role for row in buffer.rows if row.trained} == {"planner"}


def test_a_ledger_in_which_nobody_speaks_who_is_to_learn_is_refused_before_a_model_loads(
    toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.ppo, "load_model", lambda *given: pytest.fail("a model was loaded"))
    LedgerWriter(toy_folder / "ledger").close(RUN)
    changes: dict[str, Any] = {"ledger": str(toy_folder / "ledger"), "data": None, "graph": None}
    changes |= {"answers": str(toy_folder / "my.jsonl")}
    check_options(config_of(toy_folder, **changes, train="executors"))
    with pytest.raises(ConfigError, match=r"'planner' speaks nowhere in 1 runs of ledger .*who speaks: AG, AS, QDP"):
        train(config_of(toy_folder, **changes, train="planner"))
    (toy_folder / "empty.jsonl").write_text("")
    with pytest.raises(LedgerError, match=r"empty\.jsonl holds no run; record some"):
        train(config_of(toy_folder, **{**changes, "ledger": str(toy_folder / "empty.jsonl")}))


REPLAYED: dict[str, Any] = {"graph": None, "data": None, "answers": "HOME/my.jsonl", "ledger": "HOME/ledger"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": "tests.ppo_toy:nothing"}, r"score='tests.ppo_toy:nothing' cannot be imported"),
        ({"score": "tests.test_beforehand:NUMBER"}, r"is int; name a function \(answer, gold answers\)"),
        ({"graph": "tests.ppo_toy:nothing"}, r"graph='tests.ppo_toy:nothing' cannot be imported"),
        ({"graph": "tests.test_beforehand:NUMBER"}, r"graph='tests.test_beforehand:NUMBER' is int; name a compiled"),
        ({"graph": None, "workflow": "R,XX"}, r"'R,XX' is no plan"),
        ({"graph": None, "workflow": "QDS/R,AG", "max_depth": 0}, r"needs max_depth of at least 1, but max_depth=0"),
        ({**REPLAYED, "answers": "HOME/nowhere.jsonl"}, r"no dataset or file"),
        ({**REPLAYED, "ledger": "HOME/nowhere"}, r"nowhere"),
        ({**REPLAYED, "score": "tests.ppo_toy:nothing"}, r"cannot be imported"),
        ({"adapter": "HOME/nowhere"}, r"nowhere does not exist"),
    ],
)  # fmt: skip
def test_impossible_input_of_ppo_is_refused_before_a_model_loads(
    toy_folder: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(training.ppo, "load_model", lambda *given: pytest.fail("a model was loaded"))
    LedgerWriter(toy_folder / "ledger").close(RUN)
    given = {name: at(toy_folder, value) for name, value in changes.items()}
    with pytest.raises((ConfigError, LedgerError), match=message):
        train(config_of(toy_folder, **given))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapter": "HOME/nowhere"}, r"nowhere does not exist"),
        ({"datasets": ["nqq"], "derived": True}, r"nqq"),
        ({"plan_sets": ["nqq"], "derived": True}, r"nqq"),
        ({"eval_sets": ["nqq"]}, r"nqq"),
        ({"ledger": "HOME/nowhere"}, r"nowhere"),
        ({"answers": "HOME/nowhere.jsonl"}, r"no dataset or file"),
        ({"score": "tests.ppo_toy:nothing"}, r"cannot be imported"),
    ],
)  # fmt: skip
def test_impossible_input_of_the_warm_start_is_refused_before_a_model_loads(
    toy_folder: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(training.sft.SharedModel, "load", lambda *given, **options: pytest.fail("a model was loaded"))
    LedgerWriter(toy_folder / "ledger").close(RUN)
    fields: dict[str, Any] = {"output": "HOME/sft", "model": "HOME/toy", "ledger": "HOME/ledger", "derived": False}
    given = {name: at(toy_folder, value) for name, value in {**fields, "eval_sets": [], **changes}.items()}
    with pytest.raises((ConfigError, LedgerError), match=message):
        training.sft.train(SFTConfig(**given))


def at(folder: Path, value: Any) -> Any:
    """Return a value with HOME replaced by a folder."""
    return value.replace("HOME", str(folder)) if isinstance(value, str) else value


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan")])
def test_a_warm_start_of_no_time_is_refused(minutes: float) -> None:
    with pytest.raises(ConfigError, match=r"minutes=.*must be above 0, or none for all epochs"):
        SFTConfig(minutes=minutes)
