"""Another task at toy size: files, an index, a training run through its public options, and what is shown of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agents.embedder import HashEmbedder
from agents.errors import ConfigError
from agents.holdings import holdings
from agents.retriever import open_retriever
from evaluation.config import read_config
from evaluation.dataset import load_examples
from evaluation.tracking import PARENT, MlflowStore, tracking_uri
from experiments.arms import Results, Row
from experiments.conduct import family
from experiments.trained import COMPARISON
from experiments.yesno import PROGRAM, YesNoConfig, figures, prepare, run, show, work, yesno
from experiments.yesno_task import Task, index_facts, read_task
from graphs.ledger import read_ledger
from tests.toy_model import toy_module, toy_tokenizer
from tests.tracking_store import store

__all__ = ["store"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
DOORS = ("agents.embedder", "agents.index", "agents.retriever")


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Embed by shared words wherever the default embedder would be opened."""
    for door in DOORS:
        monkeypatch.setattr(f"{door}.open_embedder", lambda *_, **__: HashEmbedder(64))


def toy_yesno(folder: Path, **changes: Any) -> YesNoConfig:
    fields: dict[str, Any] = {
        "output": str(folder / "out"), "model": str(folder / "toy"), "sample": 9, "held_out": 4, "workflow": "R,AG",
        "iterations": 1, "questions": 2, "runs": 2, "first_layer": 1, "rank": 4, "lora_alpha": 8, "critic_warmup": 0,
        "minibatches": 1, "eval_every": 0, "traces": 0, "threads": 1, "dtype": "fp32", "top_k": 2, "target_kl": None,
        "decoding": "constrained",
    }  # fmt: skip
    return YesNoConfig(**{**fields, **changes})


def test_the_task_is_all_of_strategyqa_and_a_sample_keeps_its_held_out_questions() -> None:
    task, small = read_task(), read_task(sample=40, held_out=30)
    assert len(task.train) + len(task.held_out) == 2045 and len(task.facts) == 5482
    ids = {row["id"] for row in task.train}
    assert not ids & {row["id"] for row in task.held_out} and len(ids) == 1845
    assert task.golds.count("yes") + task.golds.count("no") == 200
    assert task.majority_share == max(task.golds.count(word) for word in ("yes", "no")) / 200 >= 0.5
    assert list(small.held_out) == list(task.held_out)[:30] and len(small.train) == 10
    assert task.collection != small.collection == read_task(sample=40, held_out=5).collection, "named by its facts"
    known = {fact["id"] for fact in small.facts}
    assert {name for row in [*small.train, *small.held_out] for name in row["supporting"]} == known
    with pytest.raises(ConfigError, match="40 questions leave none to train on beside 40 held-out ones"):
        read_task(sample=40, held_out=40)


def test_files_are_what_any_command_takes_and_facts_are_indexed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: None
) -> None:
    monkeypatch.setenv("JADE_HOME", str(tmp_path / "home"))
    task = read_task(sample=9, held_out=4)
    task.write(str(tmp_path / "a"))
    examples = load_examples(task.held_out_file(str(tmp_path / "a")))
    assert [example.answers for example in examples] == [(gold,) for gold in task.golds]
    assert len(load_examples(task.train_file(str(tmp_path / "a")))) == 5
    index_facts(task, str(tmp_path / "a"))
    assert holdings(task.collection).content == task.content
    fact = task.facts[3]
    (found,) = open_retriever(task.collection).search([fact["text"]], 1)[0]
    assert found["text"] == fact["text"]
    for door in DOORS:
        monkeypatch.setattr(f"{door}.open_embedder", lambda *_, **__: pytest.fail("the facts are indexed"))
    index_facts(task, str(tmp_path / "b"))  # another output folder, the same facts
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/x cannot be written to .*give another output folder"):
        task.write(str(tmp_path / "file" / "x"))


def test_it_is_trained_asked_and_logged_as_one_family(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: None, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("evaluation.figures.figures_of", lambda report: {})
    toy_module().save_pretrained(tmp_path / "toy")
    toy_tokenizer().save_pretrained(tmp_path / "toy")
    config, task = toy_yesno(tmp_path), read_task(sample=9, held_out=4)
    experiment, out = yesno(config, task), tmp_path / "out"
    results = Results(out / "results.jsonl", config.setting())
    with family(experiment, out, {}) as logged:
        prepare(config, task)
        rows = [results.add(arm, work(config, task, arm)) for arm in experiment.arms]
        (comparison,) = experiment.later(rows)
        rows.append(results.add(comparison, work(config, task, comparison)))
        parent = str(logged.parent.run_id)
    asked = {row["question"] for row in task.train}
    assert {item.question for item in read_ledger(out / "seed-0" / "ledger")} <= asked
    assert all(item.retrievals for item in read_ledger(out / "seed-0" / "ledger"))
    start, own = comparison.options["systems"]
    assert start == "R,AG@none" and own == f"R,AG@{out / 'seed-0' / 'adapter'}"
    assert [len(rows[1]["scores"][name][0]) for name in (start, own)] == [4, 4]
    assert (out / "eval" / "report.md").is_file()
    # everything has its row: the command only shows and logs
    monkeypatch.setattr("experiments.yesno.prepare", lambda *given: pytest.fail("there was nothing to prepare"))
    assert run(config) == 0
    client = MlflowStore(tracking_uri()).client
    known = json.loads((out / "mlflow.json").read_text())
    assert known["parent"] == parent and list(known["children"].values()) == [row["run"] for row in rows]
    children = [client.get_run(row["run"]) for row in rows]
    assert {child.data.tags[PARENT] for child in children} == {parent}
    assert children[0].data.params["score"] == "evaluation.metrics:exact_match"
    assert "eval/R-AG-none/strategyqa-held-out/em" in children[1].data.metrics
    assert {item.path for item in client.list_artifacts(parent)} >= {"table.md", "results.jsonl", "figures"}
    assert capsys.readouterr().out == (out / "table.md").read_text()
    assert (out / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert run(toy_yesno(tmp_path, output=str(tmp_path / "dry")), dry_run=True) == 0
    assert not (tmp_path / "dry").exists()


def by_hand() -> tuple[YesNoConfig, Task, list[Row]]:
    """Return a task with four held-out questions, and rows of two seeds."""
    held_out = [{"answers": [answer]} for answer in ("no", "yes", "no", "no")]
    task = Task([{"answers": ["yes"]}], held_out, [])  # what is trained on does not count
    config = YesNoConfig(output="o", adapter="s", seeds=2)
    curve = [[1, {"rollout/score": 0.25}], [2, {"rollout/score": 0.5}]]
    found = {
        "jade@s": (["No.", "no", "perhaps", "yes"], [1.0, 0.0, 0.0, 0.0]),
        "jade@o/seed-0/adapter": (["no", "yes", "no", "no"], [1.0] * 4),
        "jade@o/seed-1/adapter": (["no", "no", "yes", "no"], [1.0, 0.0, 0.0, 1.0]),
    }
    scores = {name: [values] for name, (_, values) in found.items()}
    answers = {name: [texts] for name, (texts, _) in found.items()}
    trained = [{"arm": "trained", "seed": seed, "curve": curve} for seed in (0, 1)]
    return config, task, [*trained, {"arm": COMPARISON, "scores": scores, "answers": answers}]


def test_the_tables_by_hand() -> None:
    config, task, rows = by_hand()
    shown = show(config, task, rows)
    assert "accuracy over 4 held-out questions" in shown
    lines = {line.split(" | ")[0].strip("| "): line for line in shown.splitlines()}
    assert "| 0.750 [" in lines["always “no”"] and lines["always “no”"].endswith("| 0.0% | 100.0% |")
    assert "| 0.250 [" in lines["before"] and lines["before"].endswith("| 25.0% | 50.0% |")
    assert "|  | 0.250" in lines["before"] and "| 2 | 0.750 [" in lines["after"]
    assert lines["after"].endswith("| 25.0% | 75.0% |")  # 2 of 8 yes, 6 of 8 no
    assert "| before → after | 0.250 | 0.750 | +0.500 [" in shown
    assert "| always “no” → before | 0.750 | 0.250 | -0.500 [" in shown
    assert "| always “no” → after | 0.750 | 0.750 | +0.000 [" in shown
    (figure,) = figures(config, task, rows).values()
    left, right = figure.axes
    assert [label.get_text() for label in left.get_xticklabels()] == ["before", "after"]
    assert 0.75 in {next(iter(line.get_ydata())) for line in left.lines if line.get_linestyle() == "--"}
    assert [list(line.get_ydata()) for line in right.lines] == [[0.25, 0.5]] * 2
    alone = show(config, task, rows[:2])  # the comparison failed
    assert "always “no”" in alone and "before" not in alone and figures(config, task, rows[:2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "mine.jsonl"], "data follows from the task"),
        (["--datasets", "['popqa']"], "datasets follows from the task"),
        (["--sample", "100", "--held_out", "100"], "sample=100 leaves none to train on"),
        (["--seeds", "0"], "seeds=0; must be at least 1"),
        (["--iterations", "0"], "iterations=0"),
    ],
)
def test_what_follows_from_the_task_is_not_an_option(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(YesNoConfig, arguments, PROGRAM)
