"""How a system's label is read: workflow, adapters by role, and the prompts that each role then speaks under."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.errors import ConfigError
from agents.role import Prompts
from agents.roster import ROLES
from evaluation.bench import Bench
from evaluation.evaluate_config import EvalConfig
from evaluation.systems import System, decoding_of, read_systems
from graphs.options import Options
from tests.ppo_toy import start_adapter
from tests.toy_model import toy_model


def read(label: str, **changes: object) -> System:
    (system,) = read_systems([label], Options(), **changes)  # type: ignore[arg-type]
    return system


def decoding(*systems: System, wish: str = "auto") -> set[str]:
    """Return how the systems of one command decode."""
    config = EvalConfig(systems=[system.label for system in systems], decoding=wish)
    bench = Bench(toy_model(), config, {}, decoding=decoding_of(wish, systems))
    return {str(bench.options(system)["decoding"]) for system in systems}


def test_labels_say_what_runs_and_who_speaks(tmp_path: Path) -> None:
    folder = start_adapter(tmp_path / "a", 5)
    assert (read("R,AG@none").kind, read("R,AG@none").workflow) == ("forced", "R,AG")
    assert [read(f"{name}@none").kind for name in ("jade", "solo", "oracle")] == ["planned", "solo", "oracle"]
    one = read(f" QDS/R,AG @ {folder} ")
    assert one.workflow == "QDS/R,AG" and one.folders == {"*": folder} and one.prompts == Prompts("bare")
    assert one.slug.startswith("-QDS-R-AG") and one.trained and decoding(one) == {"free"}
    assert not read("jade@none").trained and decoding(read("jade@none")) == {"constrained"}
    assert decoding(one, read("jade@none")) == {"constrained"}, "what is compared decodes alike"
    assert decoding(one, read("jade@none"), wish="free") == {"free"}
    own = read("graphs.solo:build_solo@none")
    assert own.kind == "own" and own.graph == "graphs.solo:build_solo"


def test_each_role_keeps_the_prompts_that_it_was_trained_with(tmp_path: Path) -> None:
    folder = start_adapter(tmp_path / "a", 5)
    planner, rest = ROLES["planner"], ROLES["answer_generator"]
    for label in (f"jade@planner={folder};*=none", f"jade@planner={folder}"):
        mixed = read(label)
        assert mixed.prompts.text(planner) == Prompts("bare").text(planner)
        assert mixed.prompts.text(rest) == Prompts("examples").text(rest)
        assert not mixed.trained and decoding(mixed) == {"constrained"}
    turned = read(f"jade@planner=none;*={folder}")
    assert turned.prompts.text(planner) == Prompts("examples").text(planner) != Prompts("bare").text(planner)
    assert turned.prompts.text(rest) == Prompts("bare").text(rest) and not turned.trained
    card = json.loads((folder / "jade.json").read_text())
    (folder / "jade.json").write_text(json.dumps({**card, "prompts": "my-prompts"}))
    with pytest.raises(ConfigError, match=r"my-prompts.*allowed: bare, examples"):
        read(f"jade@{folder}")


def test_an_exported_model_speaks_as_it_was_trained(tmp_path: Path) -> None:
    card = {"base": "toy", "base_weights": "w", "adapter": "h", "prompts": "bare", "kind": "merged"}
    (tmp_path / "jade.json").write_text(json.dumps(card))
    system = read("jade@none", model=str(tmp_path))
    assert system.trained and system.prompts == Prompts("bare")


def test_labels_that_would_share_a_file_name_are_refused(tmp_path: Path) -> None:
    one, two = start_adapter(tmp_path / "a" / "b", 5), start_adapter(tmp_path / "a-b", 5)
    with pytest.raises(ConfigError, match="would share the file name"):
        read_systems([f"jade@{one}", f"jade@{two}"], Options())


def test_one_system_under_two_names_is_refused(tmp_path: Path) -> None:
    mine = start_adapter(tmp_path / "mine", 5)
    for twins in (["R,AG", "R,AG@shipped"], [f"jade@{mine}", f"jade@planner={mine};*={mine}"]):
        with pytest.raises(ConfigError, match="are the same under two names"):
            read_systems(twins, Options())
    assert len(read_systems([f"jade@{mine}", f"jade@planner={mine};*=none", f"R,AG@{mine}"], Options())) == 3
