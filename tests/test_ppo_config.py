from pathlib import Path

import pytest

from agents.errors import ConfigError
from agents.named import load_object
from evaluation.config import describe, merge_config, read_config
from training.gold import load_score
from training.ppo_config import CHOICES, PPOConfig

PROGRAM = "python -m training.ppo"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lrr", "1"], "unknown configuration key 'lrr'; did you mean 'lr'"),
        (["--lr", "fast"], "impossible value"),
        (["--lr", "0"], "lr=0.*above 0"),
        (["--estimator", "gae"], "estimator='gae'; allowed: tree_gae, terminal_gae, broadcast, loo"),
        (["--train", "everyone"], "train='everyone'; allowed: all, planner, executors"),
        (["--on-alarm", "pray"], "on_alarm='pray'; allowed: stop, rollback, continue"),
        (["--questions", "0"], "questions=0; must be at least 1"),
        (["--lam", "1.5"], "lam=1.5; must be from 0 to 1"),
        (["--omega-cap", "0.5"], "omega_cap=0.5; must be from 1"),
        (["--estimator", "loo", "--runs", "1"], "leave-one-out baseline needs runs of 2"),
        (["--datasets", "[]"], "datasets is empty"),
        (["--workflow", "R,AG", "--train", "planner"], "no planner speaks"),
        (["--answers", "gold.jsonl"], "answers belongs to ledger"),
        (["--epochs"], "--epochs has no value"),
    ],
)  # fmt: skip
def test_impossible_options_are_refused_by_name(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(PPOConfig, arguments, PROGRAM)


def test_the_released_values_load_and_can_be_overridden() -> None:
    paper = Path(__file__).parent.parent / "configs" / "paper.yaml"
    config, dry = read_config(PPOConfig, ["--config", str(paper), "--lr", "1e-4", "--dry-run"], PROGRAM)
    assert dry and config.lr == 1e-4 and config.estimator == "broadcast" and config.format_penalty == 2.0
    assert config.target_kl is None and config.critic_lr == 1e-5 and config.weights == "token"


def test_the_values_of_the_adapter_that_ships_load() -> None:
    shipped = Path(__file__).parent.parent / "configs" / "nq.yaml"
    config, dry = read_config(PPOConfig, ["--config", str(shipped)], PROGRAM)
    assert not dry and config.datasets == ["nq"] and config.estimator == "loo" and config.runs == 8
    assert config.max_turns is None and config.adapter == "adapters/warm"


def test_a_lone_value_is_a_list_of_one_where_a_list_is_wanted(tmp_path: Path) -> None:
    config, _ = read_config(PPOConfig, ["--datasets", "nq"], PROGRAM)
    assert config.datasets == ["nq"]
    (tmp_path / "own.yaml").write_text("datasets: musique\n")
    assert read_config(PPOConfig, ["--config", str(tmp_path / "own.yaml")], PROGRAM)[0].datasets == ["musique"]


def test_every_option_is_documented() -> None:
    lines = describe(PPOConfig).splitlines()
    starts = [place for place, line in enumerate(lines) if line.startswith("  ") and " = " in line and line[2] != " "]
    assert len(starts) == len(PPOConfig.__dataclass_fields__)
    assert all(len(lines[place + 1].strip()) > 10 for place in starts)
    assert all(name in PPOConfig.__dataclass_fields__ for name in CHOICES)


def test_graphs_and_scores_are_found_by_name() -> None:
    assert load_score("evaluation.metrics:exact_match")("Paris", ("paris",)) == 1.0
    for spec, message in (
        ("evaluation.metrics", "package.module:name"), ("no.such:thing", "cannot be imported"),
        ("evaluation.metrics:nothing", "cannot be imported"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            load_object(spec, "graph")
    with pytest.raises(ConfigError, match="name a function"):
        load_score("evaluation.metrics:ANSWER_METRICS")


def test_one_configuration_does_not_reach_into_the_next() -> None:
    """The defaults are read once a process: neither a changed list nor a refused layer may stay in them."""
    first = merge_config(PPOConfig, {"lr": 2e-4})
    first.datasets.append("mine")
    with pytest.raises(ConfigError, match="impossible value"):
        merge_config(PPOConfig, {"lr": 3e-4, "seed": "many"})
    assert merge_config(PPOConfig) == merge_config(PPOConfig, {}) == PPOConfig()
    assert merge_config(PPOConfig, {"seed": 5}, {"lr": 1e-3, "seed": 6}) == PPOConfig(seed=6, lr=1e-3)
