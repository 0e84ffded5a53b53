"""Rejection sampling: which recorded run of a question is learned from, and how; and the way there at toy size."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.call import Constraint
from agents.errors import ConfigError, LedgerError, SetupError
from evaluation.dataset import Example
from graphs.ledger import LedgerWriter, read_ledger
from graphs.options import Options
from graphs.trajectory import Trajectory
from tests.full_disk import full_disk
from tests.ppo_toy import toy_session
from tests.scripted import PASSAGES, ListRetriever
from tests.test_ledger import CALL, RUN
from tests.test_sft import rows
from tests.toy_model import toy_module, toy_tokenizer
from training import collect as command
from training import sft
from training.collect import CollectConfig, collect
from training.gold import Gold
from training.rejection import Rule, best_runs, supervised
from training.rollout import gather
from training.rows import letters
from training.sft import train
from training.sft_config import SFTConfig
from training.supervised import supervised_buffer
from training.warmstart import WarmStart

GOLD = Gold([Example("q", "Where?", ("Zürich on the lake",)), Example("r", "Who?", ("Ada",))])


def written(folder: Path, *runs: Trajectory) -> Path:
    for run in runs:
        assert LedgerWriter(folder, "a").close(run) is None
    return folder


def named(run: str, answer: str, **changes: Any) -> Trajectory:
    return replace(RUN, run=run, answer=answer, **changes)


def chosen(folder: Path, **rule: Any) -> list[str]:
    return [run.run for run in best_runs(folder, GOLD, Rule(**rule), text="t").runs]


# against "zürich on lake" (articles go): "Zürich" has precision 1, recall 1/3 → F1 .5; "Zürich lake" 1, 2/3 → .8
def test_the_best_run_of_each_question_wins(tmp_path: Path) -> None:
    one, two, other = named("a", "Zürich"), named("b", "Zürich lake"), named("c", "Ada", question="Who?")
    found = best_runs(written(tmp_path, one, two, other, named("d", "Linz")), GOLD, Rule(), text="t")
    assert [run.run for run in found.runs] == ["b", "c"] and found.questions == 2
    assert found.scores == pytest.approx((0.8, 1.0))
    assert found.dropped.runs == {"beaten": ("a",), "low-score": ("d",)}
    assert "2 of 2 questions, mean score 0.900; calls: answer_generator 2" in found.summary()


def test_the_reward_decides_and_ties_go_to_the_cheaper_run(tmp_path: Path) -> None:
    slow = named("slow", "Ada", question="Who?", turns=4)
    fast = named("fast", "Ada Byron", question="Who?")  # F1 2/3
    folder = written(tmp_path, slow, fast)
    assert chosen(folder) == ["slow"]
    assert chosen(folder, alpha=0.5) == ["fast"]  # 1 − .5 < 2/3
    tied = [replace(slow, run="first"), replace(slow, run="short", turns=3), replace(slow, run="last", turns=3)]
    assert chosen(written(tmp_path / "tied", *tied)) == ["short"]


def test_only_the_first_runs_compete_where_that_is_asked(tmp_path: Path) -> None:
    folder = written(tmp_path, named("a", "on the lake"), named("b", "Zürich on the lake"))
    assert chosen(folder) == ["b"]
    assert chosen(folder, best_of=1) == ["a"]


def test_what_is_left_out_is_counted_by_name(tmp_path: Path) -> None:
    folder = written(
        tmp_path,
        named("good", "Zürich on the lake"),
        named("worse", "on the lake"),
        named("bad", "Zürich on the lake", calls=(CALL, replace(CALL, id="x", format_error="no <answer> tag"))),
        named("dead", "", outcome="crashed"),
        named("empty", "Zürich on the lake", calls=()),
        named("torn", "Zürich on the lake", calls=(replace(CALL, response_ids=(), logprobs=(), mask=()),)),
        named("foreign", "Zürich on the lake", hashes={"text": "other"}),
        named("unknown", "Zürich", question="Never asked?"),
        named("dev", "Ada", question="Who?"),
    )
    found = best_runs(folder, GOLD, Rule(), text="t", dev={letters("Who?")})
    assert [run.run for run in found.runs] == ["good"]
    assert found.dropped.counts == {
        "beaten": 1, "invalid": 1, "crashed": 1, "no-calls": 1, "damaged": 1, "other-text": 1, "unmatched": 1,
        "dev-question": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (
            named("a", "Zürich", hashes={"text": "x"}),
            r"none of the 1 runs in ledger .*a/l can.*1 other-text.*record one",
        ),
        (named("a", "Zürich", question="?"), "1 unmatched; give the gold answers.*--answers FILE"),
        (named("a", "nowhere"), "1 low-score; record more runs a question, or lower min_score"),
        (named("a", "", outcome="crashed"), "1 crashed.*jade show RUN"),
    ],
)
def test_a_ledger_of_which_nothing_is_left_is_refused(tmp_path: Path, run: Trajectory, message: str) -> None:
    folder = written(tmp_path / "a" / "l", run)
    with pytest.raises(ConfigError, match=message):
        best_runs(folder, GOLD, Rule(), text="t")


def test_a_missing_or_empty_ledger_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"no ledger at .*nowhere"):
        best_runs(tmp_path / "nowhere", GOLD, Rule(), text="t")
    with pytest.raises(ConfigError, match=r"holds no finished run.*training\.collect"):
        best_runs(tmp_path, GOLD, Rule(), text="t")


def test_calls_are_learned_from_as_recorded_but_decoding_freely() -> None:
    split = replace(CALL, role="serial_decomposer", constraint=Constraint(regex="x*"))
    answer, hops = supervised([replace(RUN, calls=(replace(CALL, greedy=True), split))], end_token=9)
    assert (answer.prompt_ids, answer.response_ids) == (CALL.prompt_ids, CALL.response_ids)
    assert answer.mask == (1, 1) and answer.constraint is None and answer.temperature == 1.0 and not answer.greedy
    assert answer.parents == () and answer.id == "run-1/root/AG"
    assert hops.response_ids == (*CALL.response_ids, 9) and hops.mask == (1, 1, 1)
    (free,) = supervised([replace(RUN, calls=(replace(split, constraint=None),))], end_token=9)
    assert free.response_ids == CALL.response_ids  # decoded freely: what ended it was sampled


def test_the_graph_s_own_runs_become_a_buffer(tmp_path: Path) -> None:
    session = toy_session(tmp_path, decoding="constrained", questions=3, runs=4)
    world = session.worlds[0]
    world = replace(world, graph=world.graph.with_recorder(defaults=Options()))  # each role's own token budget
    runs = gather(world, session.players, session.config, 0, 0)
    text = session.players.shared.identity["text"]
    found = best_runs(tmp_path / "ledger", session.gold, Rule(min_score=0.0), text=text)
    assert 1 <= len(found.runs) <= 3 and found.dropped.counts["invalid"] > 0
    for run, score in zip(found.runs, found.scores, strict=True):
        rivals = [item for item in runs if item.question_id == run.question_id]
        valid = [item for item in rivals if all(call.format_error is None for call in item.calls)]
        assert score == max(session.gold(item) or 0.0 for item in valid)
    calls = list(supervised(found.runs, session.players.shared.end_token))
    buffer = supervised_buffer(calls, {})
    assert buffer.weights is not None and float((buffer.weights * buffer.counts).sum()) == pytest.approx(1.0)


# ---- the commands, end to end


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder with a toy model and questions; tracking waits on disk for a store that does not answer."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JADE_HOME", str(folder / "jade"))
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        toy_module().save_pretrained(folder / "toy")
        toy_tokenizer().save_pretrained(folder / "toy")
        asked = [{"id": f"q{i}", "question": f"Is it right number {i}?", "answers": ["yes"]} for i in range(5)]
        (folder / "my.jsonl").write_text("\n".join(json.dumps(row) for row in asked))
        yield folder


def collecting(home: Path, output: Path, **changes: Any) -> CollectConfig:
    fields: dict[str, Any] = {
        "output": str(output), "model": str(home / "toy"), "prompts": "bare", "graph": "examples.own_graph:graph",
        "data": str(home / "my.jsonl"), "score": "tests.ppo_toy:graded", "runs": 5, "batch": 2, "questions": 5,
        "dtype": "fp32", "threads": 1,
    }  # fmt: skip
    return CollectConfig(**{**fields, **changes})


def tuning(home: Path, output: Path, **changes: Any) -> SFTConfig:
    fields: dict[str, Any] = {
        "output": str(output), "model": str(home / "toy"), "derived": False, "answers": str(home / "my.jsonl"),
        "score": "tests.ppo_toy:graded", "min_score": 0.0, "eval_sets": [], "first_layer": 1, "rank": 4, "lr": 2e-2,
        "epochs": 6.0, "rows_per_step": 4, "warmup": 1, "dtype": "fp32", "threads": 1,
    }  # fmt: skip
    return SFTConfig(**{**fields, **changes})


@pytest.fixture(scope="module")
def ledger(home: Path) -> Path:
    return collect(collecting(home, home / "ledger"))


def test_a_ledger_is_recorded_in_sealed_files_and_a_killed_command_goes_on(home: Path, ledger: Path) -> None:
    files = sorted(ledger.glob("*.jsonl"))
    assert [file.name for file in files] == [f"graph-00000{number}.jsonl" for number in range(3)]
    runs = list(read_ledger(ledger))
    assert len(runs) == 25 and len({run.run for run in runs}) == 25 and "ok" in {run.outcome for run in runs}
    before = {file: file.read_bytes() for file in files}
    files[1].write_bytes(before[files[1]][:-40])  # killed while the second file was written
    collect(collecting(home, ledger, in_flight=2))
    assert files[0].read_bytes() == before[files[0]] and files[2].read_bytes() == before[files[2]]
    again = {run.run: [call.response_ids for call in run.calls] for run in read_ledger(ledger)}
    assert again == {run.run: [call.response_ids for call in run.calls] for run in runs}
    with pytest.raises(ConfigError, match=r"recorded with other options \(runs: 5 → 2\); use them, or another output"):
        collect(collecting(home, ledger, runs=2))


@pytest.mark.filterwarnings("ignore:tracking:RuntimeWarning")
def test_recorded_runs_teach_an_adapter_which_goes_on_from_there(
    home: Path, ledger: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="jade.sft"):
        first = train(tuning(home, home / "sft", ledger=str(ledger)))
    assert first is not None and re.search(r"rejection sampling: [1-5] of 5 questions.*\nleft out: ", caplog.text)
    losses = [float(record.args[2]) for record in caplog.records if record.msg.startswith("step")]  # type: ignore
    assert losses[-1] < 0.8 * losses[0]
    card = json.loads((first / "jade.json").read_text())
    assert card["prompts"] == "bare" and card["roles"] == ["judge", "writer"]
    better = collecting(home, home / "second", prompts=None, adapter=str(first), questions=2)
    assert {call.adapter for run in read_ledger(collect(better)) for call in run.calls} == {"default"}
    second = train(tuning(home, home / "more", ledger=str(home / "second"), adapter=str(first), epochs=1.0))
    assert second is not None
    weights = [(folder / "adapter_model.safetensors").read_bytes() for folder in (first, second)]
    assert len(weights[0]) == len(weights[1]) and weights[0] != weights[1]
    untuned = collecting(home, home / "examples", prompts="examples", questions=1, runs=1)
    collect(untuned)
    with pytest.raises(ConfigError, match=r"ledger .*examples can be learned from: 1 other-text.*prompt set"):
        train(tuning(home, home / "never", ledger=str(home / "examples")))
    assert not (home / "never").exists()


def test_bundled_questions_are_scored_by_their_own_train_files(
    home: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.retriever.open_retriever", lambda name, k: ListRetriever(PASSAGES[:k]))
    jade = {"graph": None, "data": None, "score": None, "datasets": ["nq"], "decoding": "constrained", "top_k": 1}
    folder = collect(collecting(home, home / "nq", **jade, questions=4, runs=4, batch=3, workflow="AG"))
    assert [file.name for file in sorted(folder.glob("*.jsonl"))] == ["nq-000000.jsonl", "nq-000001.jsonl"]
    options = {"ledger": str(folder), "answers": None, "score": None, "datasets": ["nq"], "plan_sets": []}
    with caplog.at_level(logging.INFO, logger="jade.sft"):
        assert train(tuning(home, home / "never", **options), dry_run=True) is None
    assert re.search(r"rejection sampling: [1-4] of 4 questions.*calls: answer_generator", caplog.text)
    assert "unmatched" not in caplog.text
    with pytest.raises(ConfigError, match=r"none of the 16 runs .*\d+ low-score"):
        train(tuning(home, home / "never", **options, min_score=1.0), dry_run=True)


def test_recorded_and_derived_rows_can_be_mixed(
    home: Path, ledger: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sft, "derived_rows", lambda config: WarmStart(tuple(rows(10))))  # needs no index
    with caplog.at_level(logging.INFO, logger="jade.sft"):
        assert train(tuning(home, home / "mix", ledger=str(ledger), derived=True, held_out=3), dry_run=True) is None
    recorded = re.search(r"calls: judge (\d+), writer (\d+)", caplog.text)
    assert recorded is not None and "| planner | 10 | " in caplog.text
    assert f"\n{14 + int(recorded[1]) + int(recorded[2])} rows, " in caplog.text  # 2 roles × 10 rows, 3 each held out


@pytest.mark.filterwarnings("ignore:tracking:RuntimeWarning")
def test_a_full_disk_is_one_line_and_the_older_adapter_stands(home: Path, ledger: Path, tmp_path: Path) -> None:
    config = tuning(home, tmp_path, ledger=str(ledger), epochs=0.1)
    folder = train(config)
    assert folder is not None
    before = (folder / "adapter_model.safetensors").read_bytes()
    with full_disk(len(before) // 2), pytest.raises(SetupError, match=r"adapter cannot be written.*free the disk"):
        train(config)
    assert (folder / "adapter_model.safetensors").read_bytes() == before


def test_impossible_options_are_refused_by_name(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    for options, message in (
        ({"batch": 0}, "batch=0"),
        ({"prompts": "bar"}, "prompts='bar'; allowed: bare, examples"),
        ({"prompts": "bare", "adapter": "x"}, "leave prompts out"),
        ({"decoding": "beam"}, "decoding='beam'"),
    ):
        with pytest.raises(ConfigError, match=message):
            CollectConfig(**options)  # type: ignore[arg-type]
    for options, message in (
        ({"best_of": 0, "ledger": "l"}, "best_of=0"),
        ({"derived": False}, "derived=false needs a ledger"),
        ({"answers": "a.jsonl"}, "answers needs a ledger"),
    ):
        with pytest.raises(ConfigError, match=message):
            SFTConfig(**options)  # type: ignore[arg-type]
    monkeypatch.setattr("sys.argv", ["collect", "--datasets", "['hotpot']", "--batsh", "3"])
    assert command.main() == 2
    assert "unknown configuration key 'batsh'; did you mean 'batch'" in capsys.readouterr().err
