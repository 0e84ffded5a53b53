import json
import logging
import re
import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from agents.errors import ConfigError, LedgerError
from graphs.ledger import read_ledger
from tests.toy_model import toy_module, toy_tokenizer
from training.ppo import train
from training.ppo_config import PPOConfig
from training.sole_writer import sole_writer


@pytest.fixture
def toy_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder, as any local model would be given; tracking and caches go to scratch."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}")
    monkeypatch.setenv("JADE_HOME", str(tmp_path / "home"))
    toy_module().save_pretrained(tmp_path / "toy")
    toy_tokenizer().save_pretrained(tmp_path / "toy")
    rows = [{"id": f"q{i}", "question": f"Is it right number {i}?", "answers": ["yes"]} for i in range(6)]
    (tmp_path / "my.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return tmp_path


def config_of(folder: Path, **changes: object) -> PPOConfig:
    fields: dict[str, object] = {
        "output": str(folder / "run"), "model": str(folder / "toy"), "graph": "examples.own_graph:graph",
        "data": str(folder / "my.jsonl"), "score": "tests.ppo_toy:graded", "iterations": 2, "questions": 2, "runs": 2,
        "first_layer": 1, "rank": 4, "lr": 1e-3, "critic_warmup": 0, "eval_every": 0, "traces": 1, "threads": 1,
        "dtype": "fp32", "minibatches": 1, "estimator": "tree_gae",
    }  # fmt: skip
    return PPOConfig(**{**fields, **changes})  # type: ignore[arg-type]


def test_anybodys_graph_is_trained_two_updates_and_tracked(toy_folder: Path) -> None:
    assert train(config_of(toy_folder)) == 0
    card = json.loads((toy_folder / "run" / "adapter" / "jade.json").read_text())
    assert card["version"] == 2 and card["roles"] == ["judge", "writer"]
    runs = list(read_ledger(toy_folder / "run" / "ledger"))
    assert len(runs) == 8 and {call.role for run in runs for call in run.calls} == {"writer", "judge"}
    with sqlite3.connect(toy_folder / "mlflow" / "mlflow.db") as database:
        keys = {key for (key,) in database.execute("select distinct key from metrics")}
        traces = database.execute("select count(*) from trace_info").fetchone()[0]
        params = dict(database.execute("select key, value from params"))
        tags = dict(database.execute("select key, value from tags where key like 'hash.%'"))
    assert {"rollout/reward", "update/policy_loss", "update/kl/writer", "rollout/valid/judge"} <= keys
    assert traces == 2 and params["estimator"] == "tree_gae"
    assert set(tags) == {"hash.text", "hash.policy", "hash.environment"} and tags["hash.text"] == card["text"]
    stored = {file.name: file for file in (toy_folder / "mlflow" / "artifacts").rglob("*") if file.is_file()}
    assert stored["learning.png"].read_bytes().startswith(b"\x89PNG") and "adapter_model.safetensors" in stored
    assert json.loads(stored["ledger.json"].read_text())["outcomes"] == dict(Counter(run.outcome for run in runs))
    assert {"ledger/runs", "ledger/tokens", "time/decode", "time/idle_share", "update/total_loss"} <= keys


def test_a_dry_run_says_what_to_expect_and_leaves_nothing(toy_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="jade.ppo"):
        assert train(config_of(toy_folder), dry_run=True) == 0
    assert "2 iterations: about" in caplog.text and "tokens" in caplog.text
    assert re.search(r"peak memory to expect: about \d+\.\d GiB \(\d+\.\d GiB on 2 questions, 0\.00 GiB", caplog.text)
    assert not (toy_folder / "run").exists()


def test_a_dry_run_of_a_replay_reads_the_ledger_and_asks_nothing(
    toy_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert train(config_of(toy_folder, iterations=1, traces=0)) == 0
    changes = {"output": str(toy_folder / "other"), "ledger": str(toy_folder / "run" / "ledger"), "data": None}
    changes |= {"answers": str(toy_folder / "my.jsonl")}
    before = sorted(path.read_bytes() for path in (toy_folder / "run" / "ledger").iterdir())
    with caplog.at_level(logging.INFO, logger="jade.ppo"):
        assert train(config_of(toy_folder, **changes), dry_run=True) == 0
    assert "reading " in caplog.text and "collecting" not in caplog.text
    assert "to train on" not in caplog.text and "2 iterations: about" in caplog.text
    assert sorted(path.read_bytes() for path in (toy_folder / "run" / "ledger").iterdir()) == before
    assert not (toy_folder / "other").exists()
    (toy_folder / "empty.jsonl").write_text("")
    with pytest.raises(LedgerError, match="holds no run"):
        train(config_of(toy_folder, **{**changes, "ledger": str(toy_folder / "empty.jsonl")}), dry_run=True)


def test_two_commands_do_not_write_into_one_folder(toy_folder: Path) -> None:
    config = config_of(toy_folder)
    with sole_writer(config.output):
        with pytest.raises(ConfigError, match=r"another training command writes into .*run; wait .* another output"):
            train(config)
        assert train(config, dry_run=True) == 0
    assert train(config) == 0


def test_an_output_that_cannot_be_written_is_named(toy_folder: Path) -> None:
    (toy_folder / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/run cannot be written to .*give another folder"):
        train(config_of(toy_folder, output=str(toy_folder / "file" / "run")))


def test_mistakes_are_named_before_training(toy_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"examples.own_graph:nothing.*cannot be imported"):
        train(config_of(toy_folder, graph="examples.own_graph:nothing"))
    with pytest.raises(ConfigError, match="no dataset or file"):
        train(config_of(toy_folder, data=str(toy_folder / "missing.jsonl")))
    (toy_folder / "my.jsonl").write_text('{"question": "Is it?", "answers": []}\n')
    with pytest.raises(ConfigError, match="no gold answer"):
        train(config_of(toy_folder))
