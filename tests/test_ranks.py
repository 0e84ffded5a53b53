"""Training on many processes: real ranks that speak gloo, compared with the one process that they stand for."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from agents.errors import ConfigError, SetupError
from evaluation.ranks import ALONE, Ranks, joined
from graphs.ledger import LedgerWriter, is_sealed, read_ledger
from tests.ppo_child import Untracked
from tests.ppo_toy import start_adapter, toy_session
from tests.rank_jobs import job, train, warm_up
from training.checkpoint import LATEST, read_state
from training.collect import main as collect_main
from training.gradients import shared_gradients
from training.history import read_metrics
from training.ppo import run
from training.shares import complete, drop_others, segment_file, segments

SMALL: dict[str, Any] = {"iterations": 1, "token_budget": 400}
"""One iteration, in many micro-batches, so that every rank has some of each step."""
WEIGHT, METRIC = 1e-5, 1e-5
"""Bounds in fp32 between one process and several: of a weight (the learning rate is 2e-3), of a metric."""


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return start_adapter(tmp_path_factory.mktemp("start") / "adapter")


def trained(folder: Path, start: Path, size: int, own: dict[int, Any] | None = None, **changes: Any) -> list[int]:
    return job(train, size, folder.with_suffix(".log"), str(folder), str(start), {**SMALL, **changes}, own or {})


def said(folder: Path, rank: int) -> str:
    return Path(f"{folder.with_suffix('.log')}.{rank}").read_text()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    adapter = load_file(folder / LATEST / "adapter" / "adapter_model.safetensors")
    return {**adapter, **load_file(folder / LATEST / "heads.safetensors")}


def furthest(one: Path, other: Path) -> float:
    """Return the greatest difference of a weight; both have the same ones."""
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


def essence(folder: Path) -> dict[str, Any]:
    """Return what was recorded: run id → (question, answer, tokens); no run stands there twice."""
    runs = list(read_ledger(folder / "ledger"))
    assert all(count == 1 for count in Counter(run.run for run in runs).values())
    return {run.run: (run.question, run.answer, [call.response_ids for call in run.calls]) for run in runs}


@pytest.mark.parametrize(("size", "questions"), [(2, 3), (3, 2)])
def test_ranks_with_unequal_shares_learn_what_one_process_learns(
    size: int, questions: int, tmp_path: Path, start: Path
) -> None:
    alone, many = tmp_path / "alone", tmp_path / "many"
    assert trained(alone, start, 1, questions=questions) == [0]
    assert trained(many, start, size, questions=questions) == [0] * size, said(many, 0) + said(many, 1)
    assert essence(many) == essence(alone) and len(essence(many)) == 2 * questions
    shares = [segment_file(many, 0, Ranks(rank, size)) for rank in range(size)]
    assert sorted((many / "ledger").iterdir()) == shares and all(is_sealed(file) for file in shares)
    assert [len(list(read_ledger(file))) // 2 for file in shares] == ([2, 1] if size == 2 else [1, 1, 0])
    moved = max(float((weights(alone)[key] - value).abs().max()) for key, value in before(start).items())
    assert furthest(alone, many) < WEIGHT < moved
    ((_, once),), ((_, shared),) = read_metrics(alone), read_metrics(many)
    timed = ("time/", "speed/", "memory/", "ledger/bytes")
    names = [name for name in once if not name.startswith(timed)]
    assert len(names) > 40 and {name: shared[name] for name in names} == pytest.approx(
        {name: once[name] for name in names}, rel=METRIC, abs=METRIC
    )


def before(start: Path) -> dict[str, torch.Tensor]:
    return load_file(start / "adapter_model.safetensors")


def test_a_checkpoint_of_one_process_resumes_on_two_and_back(tmp_path: Path, start: Path) -> None:
    whole, moving = tmp_path / "whole", tmp_path / "moving"
    assert trained(whole, start, 1, iterations=3) == [0]
    for size, iterations in ((1, 1), (2, 2), (1, 3)):
        assert trained(moving, start, size, iterations=iterations) == [0] * size, said(moving, 0)
    assert read_state(moving / LATEST).iteration == 3
    assert [len(segments(moving, 1)[2]), *segments(moving, 0), *segments(moving, 2)] == [2, 1, 1]
    assert essence(moving).keys() == essence(whole).keys()
    assert furthest(whole, moving) < 3 * WEIGHT


def test_a_killed_rank_ends_the_job_by_name_and_the_rerun_goes_on(tmp_path: Path, start: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert trained(whole, start, 2) == [0, 0]
    assert trained(killed, start, 2, {1: {"death": "update:2"}}) == [2, -9]
    message = said(killed, 0)
    assert "rank 0 of 2 waits in vain: rank 1 (process" in message and "has ended" in message
    assert "run the same command again" in message and "Traceback" not in message
    assert read_state(killed / LATEST).iteration == 0
    recorded = {file: file.read_bytes() for files in segments(killed, 0).values() for file in files}
    assert trained(killed, start, 2) == [0, 0], said(killed, 0)
    assert {file: file.read_bytes() for files in segments(killed, 0).values() for file in files} == recorded
    assert all(torch.equal(item, weights(whole)[name]) for name, item in weights(killed).items())


def test_shares_of_a_dead_job_serve_if_whole_and_are_made_again_if_not(tmp_path: Path, start: Path) -> None:
    folder = tmp_path / "run"
    statuses = trained(folder, start, 2, {1: {"death": "collect:1"}})
    assert statuses == [2, -9] and not complete(folder, 0)
    assert trained(folder, start, 1) == [0], said(folder, 0)
    assert [*segments(folder, 0)] == [1] and len(essence(folder)) == 6  # nothing of the dead job is left
    assert trained(folder, start, 2, {0: {"death": "update:1"}}, iterations=2) == [-9, 2]
    assert "rank 0 (process" in said(folder, 1)
    assert trained(folder, start, 1, iterations=2) == [0]
    assert [*segments(folder, 1)] == [2] and len(essence(folder)) == 12  # read, and not recorded again


def test_any_rank_may_ask_to_end_and_all_end_together(tmp_path: Path, start: Path) -> None:
    folder = tmp_path / "run"
    assert trained(folder, start, 2, {1: {"stop": 1}}, iterations=5) == [0, 0], said(folder, 0)
    assert read_state(folder / LATEST).iteration == 1 and (folder / "adapter" / "jade.json").is_file()


def test_evaluation_a_critic_of_its_own_and_the_target_kl_keep_the_ranks_together(tmp_path: Path, start: Path) -> None:
    changes: dict[str, Any] = {
        "iterations": 2, "eval_every": 1, "critic": "adapter", "estimator": "broadcast", "target_kl": 1e-6,
    }  # fmt: skip
    alone, many = tmp_path / "alone", tmp_path / "many"
    assert trained(alone, start, 1, **changes) == [0], said(alone, 0)
    assert trained(many, start, 2, **changes) == [0, 0], said(many, 0) + said(many, 1)
    assert furthest(alone, many) < 2 * WEIGHT
    ours, theirs = dict(read_metrics(alone))[1], dict(read_metrics(many))[1]
    assert ours["update/epochs"] == theirs["update/epochs"] < 2  # the target KL ended both at the same step
    assert ours["eval/toy/f1"] == theirs["eval/toy/f1"]


def test_all_ranks_roll_back_together(tmp_path: Path, start: Path) -> None:
    folder = tmp_path / "run"
    assert job(roll_back, 2, folder.with_suffix(".log"), str(folder), str(start)) == [0, 0], said(folder, 0)
    state = read_state(folder / LATEST)
    assert (state.iteration, state.version, state.rollbacks, state.factor) == (2, 1, 1, 0.5)


def roll_back(folder: str, start: str) -> None:
    """Make an iteration and save it, spoil the weights of one rank, and roll back: saving checks that all are alike."""
    with joined("cpu") as ranks:
        session = toy_session(Path(folder), start=Path(start), ranks=ranks, **SMALL)
        run(session, Untracked())  # type: ignore[arg-type]
        saved = session.players.fingerprint()
        with torch.no_grad():
            session.players.policy_parameters()[0].add_(float(ranks.rank))
        if not ranks.leads:
            assert session.players.fingerprint() != saved
        with pytest.raises(ConfigError, match="the weights of rank 1 differ from rank 0's; processors of another kind"):
            session.save()
        session.roll_back()
        assert session.players.fingerprint() == saved
        session.save()


def test_ranks_with_other_options_or_another_folder_are_refused(tmp_path: Path, start: Path) -> None:
    assert trained(tmp_path / "run", start, 2, {1: {"lr": 0.5}}) == [2, 2]
    assert "the options of rank 1 differ from rank 0's; start the same command" in said(tmp_path / "run", 0)
    assert not (tmp_path / "run").exists()


def test_a_warm_start_on_two_ranks_is_that_of_one(tmp_path: Path) -> None:
    for size in (1, 2):
        assert job(warm_up, size, tmp_path / f"log{size}", str(tmp_path)) == [0] * size
    one, two = (load_file(tmp_path / f"{size}.safetensors") for size in (1, 2))
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-4  # of weights that moved by 0.05
    assert max(float(item.abs().max()) for name, item in one.items() if "lora_B" in name) > 0.05


# ---- one process


@given(st.lists(st.integers()), st.integers(1, 7))
def test_shares_are_a_partition(items: list[int], size: int) -> None:
    shares = [list(Ranks(rank, size).mine(items)) for rank in range(size)]
    assert sorted(item for share in shares for item in share) == sorted(items)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_process_alone_speaks_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined() as ranks:
        assert ranks is ALONE and ranks.leads
    tensor, parameter = torch.ones(2), torch.nn.Parameter(torch.ones(1))
    assert ranks.sum(tensor) is tensor and ranks.gather("x") == ["x"] and ranks.first(lambda: 3) == 3
    assert ranks.spread([1, 2], lambda part: [2 * item for item in part]) == [2, 4]
    assert shared_gradients(ranks, [parameter], [1.5]) == [1.5] and parameter.grad is None
    assert not torch.distributed.is_initialized()
    with pytest.raises(ValueError, match="nothing"):
        ranks.first(lambda: (_ for _ in ()).throw(ValueError("nothing")))


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE='two'"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE and no RANK"),
        ({"WORLD_SIZE": "2", "RANK": "0", "ACCELERATE_USE_FSDP": "true"}, "accelerate-cpu.yaml"),
        ({"WORLD_SIZE": "2", "RANK": "0", "JADE_RANK_MINUTES": "0"}, "JADE_RANK_MINUTES='0'"),
    ],
)
def test_what_a_launcher_got_wrong_is_named(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "ACCELERATE_USE_FSDP"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message), joined("cpu"):
        pass


def test_a_command_for_one_process_refuses_several(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(sys, "argv", ["collect"])
    assert collect_main() == 2 and "training.collect runs in one process" in capsys.readouterr().err


def test_segments_of_other_numbers_of_ranks(tmp_path: Path) -> None:
    def leave(iteration: int, rank: int, size: int, sealed: bool) -> Path:
        file = segment_file(tmp_path, iteration, Ranks(rank, size))
        writer = LedgerWriter(file.parent, file.stem)
        writer.open("r", {"question": "?"})
        if sealed:
            writer.seal()
        return file

    assert segment_file(tmp_path, 3, ALONE).name == "iteration-000003.jsonl"
    first, second = leave(3, 0, 2, True), leave(3, 1, 2, False)
    assert first.name == "iteration-000003.rank0of2.jsonl" and complete(tmp_path, 3) == []
    other = leave(4, 0, 2, True)
    drop_others(tmp_path, 3, 2)
    assert first.is_file() and second.is_file()
    drop_others(tmp_path, 3, 1)
    assert not first.exists() and not second.exists() and other.is_file()
    pair = [leave(5, 0, 2, True), leave(5, 1, 2, True)]
    assert complete(tmp_path, 5) == pair


def test_an_error_of_rank_zero_reaches_every_rank(tmp_path: Path) -> None:
    assert job(fail_first, 2, tmp_path / "log") == [2, 2]
    assert "SetupError: the disk is full" in (tmp_path / "log.0").read_text()
    assert "rank 0 could not go on (SetupError: the disk is full)" in (tmp_path / "log.1").read_text()


def fail_first() -> None:
    def write() -> None:
        raise SetupError("the disk is full")

    with joined("cpu") as ranks:
        assert ranks.gather({"rank": ranks.rank, "nan": float("nan")})[1]["rank"] == 1
        assert float(ranks.sum(torch.tensor(1.0 + ranks.rank))) == 3.0 and ranks.any(ranks.rank == 1)
        assert ranks.spread([1, 2, 3], lambda part: [item * item for item in part]) == [1, 4, 9]
        ranks.first(write)
