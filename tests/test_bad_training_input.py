"""What bad input gets from the training commands: one line that names the file and the remedy, and nothing is lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph

from graphs.acting import act
from graphs.ledger import read_ledger
from graphs.recorded import RecordedGraph, trainable
from tests.ppo_toy import start_adapter
from tests.test_acting import ECHO
from tests.toy_model import toy_module, toy_tokenizer
from training import collect, ppo, sft
from training.checkpoint import LATEST

Say = Callable[..., tuple[int, str]]


class State(TypedDict, total=False):
    question: str
    answer: str


def broken() -> RecordedGraph:
    """Return a graph whose node fails after its role has spoken."""

    def fail(state: State, config: RunnableConfig) -> State:
        act(ECHO, {"question": state["question"]}, config)
        raise ZeroDivisionError("the service is down")

    builder = StateGraph(State)
    builder.add_node("fail", fail)
    builder.add_edge(START, "fail")
    builder.add_edge("fail", END)
    return trainable(builder.compile())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two models, an adapter of neither, questions, and a ledger that was recorded under the second model."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JADE_HOME", str(folder / "jade"))
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        for name, seed in (("toy", 0), ("other", 1)):
            toy_module(seed=seed).save_pretrained(folder / name)
            toy_tokenizer().save_pretrained(folder / name)
        rows = [{"id": f"q{i}", "question": f"Is it right number {i}?", "answers": ["yes"]} for i in range(3)]
        (folder / "my.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
        (folder / "nobody.jsonl").write_text('{"question": "Never asked?", "answers": ["no"]}\n')
        (folder / "empty.jsonl").write_text("")
        (folder / "gold.jsonl").write_text('{"question": "Is it?", "answers": []}\n')
        start_adapter(folder / "foreign")
        for name in ("toy", "other"):
            fields = {"questions": 2, "runs": 1, "dtype": "fp32", "threads": 1, "graph": "examples.own_graph:graph"}
            config = collect.CollectConfig(
                output=str(folder / f"by-{name}"), model=str(folder / name), data=str(folder / "my.jsonl"), **fields
            )  # type: ignore[arg-type]
            collect.collect(config)
        yield folder


@pytest.fixture
def say(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a training command; return its exit status and the one line that it says. HOME stands for the fixture's."""

    def run(module: Any, **options: Any) -> tuple[int, str]:
        common = {"model": "HOME/toy", "output": str(tmp_path / "run"), "dtype": "fp32", "threads": 1}
        words = [
            word.replace("HOME", str(home))
            for name, value in {**common, **options}.items()
            for word in (f"--{name}", str(value))
        ]
        monkeypatch.setattr("sys.argv", ["command", *words])
        capsys.readouterr()
        status = module.main()
        told = [line for line in capsys.readouterr().err.splitlines() if "Error: " in line or "Traceback" in line]
        assert len(told) <= 1, told
        return status, told[0] if told else ""

    return run


OWN = {
    "graph": "examples.own_graph:graph", "data": "HOME/my.jsonl", "score": "tests.ppo_toy:graded", "iterations": 1,
    "questions": 2, "runs": 1, "first_layer": 1, "rank": 4, "eval_every": 0, "traces": 0, "critic_warmup": 0,
    "estimator": "tree_gae",
}  # fmt: skip
REPLAY = {**{name: value for name, value in OWN.items() if name not in ("graph", "data")}, "answers": "HOME/my.jsonl"}


@pytest.mark.parametrize(
    ("module", "options", "words"),
    [
        (ppo, {"datasets": "['hotpot']"}, ["no dataset or file 'hotpot' (did you mean 'hotpotqa'?)", "bundled: nq"]),
        (sft, {"datasets": "['hotpot']"}, ["no dataset or file 'hotpot' (did you mean 'hotpotqa'?)"]),
        (collect, {"datasets": "['hotpot']"}, ["no dataset or file 'hotpot' (did you mean 'hotpotqa'?)"]),
        (ppo, {**OWN, "data": "HOME/empty.jsonl"}, ["empty.jsonl holds no questions; expected"]),
        (ppo, {**OWN, "data": "HOME/nowhere.jsonl"}, ["no dataset or file", "nowhere.jsonl"]),
        (ppo, {**OWN, "data": "HOME/gold.jsonl"}, ["gold.jsonl: 1 row(s) cannot be used; mend or remove them"]),
        (ppo, {**OWN, "adapter": "HOME/foreign"}, ["foreign was trained", "load that base, or choose an adapter"]),
        (ppo, {**OWN, "adapter": "HOME/nowhere"}, ["adapter folder", "nowhere does not exist"]),
        (collect, {"data": "HOME/my.jsonl", "adapter": "HOME/foreign"}, ["foreign was trained", "choose an adapter"]),
        (ppo, {**REPLAY, "ledger": "HOME/nowhere"}, ["no ledger at", "nowhere"]),
        (ppo, {**REPLAY, "ledger": "HOME/my.jsonl"}, ["my.jsonl is not a ledger", "give a file or folder that JADE"]),
        (
            ppo,
            {**REPLAY, "ledger": "HOME/by-other"},
            ["none of 2 recorded runs", "2 other-text (ledger ", "by-other)", "Nothing was changed", "load that one"],
        ),
        (
            ppo,
            {**REPLAY, "ledger": "HOME/by-toy", "answers": "HOME/nobody.jsonl"},
            ["none of 2 recorded runs", "2 unmatched (ledger ", "by-toy)", "--answers FILE"],
        ),
        (
            sft,
            {"ledger": "HOME/by-toy", "derived": False, "answers": "HOME/my.jsonl"},
            ["none of the 2 runs in ledger", "2 other-text", "python -m training.collect"],
        ),
        (sft, {"adapter": "HOME/foreign", "derived": False, "ledger": "HOME/by-toy"}, ["foreign was trained"]),
    ],
)  # fmt: skip
def test_one_line_names_the_file_and_the_remedy(say: Say, module: Any, options: Any, words: list[str]) -> None:
    status, told = say(module, **options)
    assert status == 2, told
    for word in words:
        assert word in told


@pytest.mark.parametrize("module", [ppo, collect])
def test_all_questions_failed(say: Say, home: Path, tmp_path: Path, module: Any) -> None:
    options = OWN if module is ppo else {name: OWN[name] for name in ("data", "score", "questions", "runs")}
    status, told = say(module, **{**options, "graph": "tests.test_bad_training_input:broken"})
    assert status == 2
    assert "all 2 runs of 2 questions failed, the first with ZeroDivisionError: the service is down" in told
    (file,) = (tmp_path / "run").rglob("*.jsonl")
    assert str(file) in told and "run the same command again" in told
    runs = list(read_ledger(file))  # nothing is lost: the calls that were made are there
    assert [run.outcome for run in runs] == ["crashed"] * 2 and all(len(run.calls) == 1 for run in runs)


def test_a_batch_that_cannot_be_used_is_left_out_and_the_adapter_is_there_at_the_end(
    say: Say, home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for number, name in enumerate(("by-toy", "by-other")):
        for file in (home / name).glob("*.jsonl"):
            shutil.copy(file, mixed / f"{number}-{file.name}")
    caplog.set_level("INFO", "jade.ppo")
    for _ in range(2):  # the same command again ends in the same way
        assert say(ppo, **{**REPLAY, "ledger": mixed, "iterations": 5}) == (0, "")
        state = json.loads((tmp_path / "run" / LATEST / "state.json").read_text())["state"]
        assert state["iteration"] == state["version"] == 1 and (tmp_path / "run" / "adapter" / "jade.json").is_file()
        assert caplog.messages[-1].startswith(f"learned from 2 of the 4 runs that were read of the ledger {mixed}; ")
        assert "left out: 2 other-text; they were recorded under another base" in caplog.messages[-1]


def test_a_damaged_checkpoint_is_named_by_the_command(say: Say, tmp_path: Path) -> None:
    assert say(ppo, **OWN) == (0, "")
    heads = tmp_path / "run" / LATEST / "heads.safetensors"
    heads.write_bytes(heads.read_bytes()[:-1])
    status, told = say(ppo, **{**OWN, "iterations": 2})
    assert status == 2 and f"{heads} is missing or truncated" in told and "checkpoint.previous" in told
    shutil.rmtree(tmp_path / "run" / LATEST)
    assert say(ppo, **{**OWN, "iterations": 2}) == (0, "")
