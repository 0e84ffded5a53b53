import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.errors import ConfigError
from graphs.ledger import LedgerWriter, is_sealed, read_ledger
from tests.ppo_toy import EXAMPLES, start_adapter, toy_config, toy_session
from training.adapter import TRAINED
from training.gold import Gold
from training.ppo import ENDED_BY_ALARM, run
from training.rollout import gather, prepare, questions_of, replay, segment_file
from training.session import Session


class Notes:
    """A tracked run that remembers what it was told."""

    run_id = "run-1"

    def __init__(self) -> None:
        self.metrics: list[tuple[int, dict[str, float]]] = []
        self.traced: list[str] = []
        self.stored: dict[str, Any] = {}
        self.tags: dict[str, str] = {}

    def set_tags(self, tags: dict[str, str]) -> None:
        self.tags |= tags

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        from evaluation.glossary import check_metrics

        check_metrics(values)
        self.metrics.append((step, dict(values)))

    def export_traces(self, runs: Any, credit: Any, decode: Any = None) -> None:
        for item in runs:
            found = credit[item.run]
            earned, formats = (sum(call[name] for call in found.calls.values()) for name in ("reward", "format"))
            assert earned == pytest.approx(found.reward["total"] + formats)
        self.traced += [item.run for item in runs]

    def log_figure(self, figure: Any, name: str) -> None:
        self.stored[name] = figure

    def log_text(self, text: str, name: str) -> None:
        self.stored[name] = text

    def log_artifact_folder(self, folder: Path, path: str = "") -> None:
        assert (folder / "jade.json").is_file()


class Killed(BaseException):
    """As sudden as kill -9: nothing of ours catches it."""


def killed_in_update(session: Session, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until the update after so many, which kills the run."""
    update, done = type(session.optimiser).update, []

    def dies(self: Any, *args: Any, **options: Any) -> Any:
        if len(done) == after:
            raise Killed
        done.append(1)
        return update(self, *args, **options)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(type(session.optimiser), "update", dies)
        run(session, Notes())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return start_adapter(tmp_path_factory.mktemp("start") / "adapter")


def state_of(session: Session) -> dict[str, torch.Tensor]:
    players = session.players
    tensors = {key: p.detach().clone() for key, p in players.shared.adapter_set.parameters(TRAINED).items()}
    return tensors | {f"head.{key}": value.clone() for key, value in players.head.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def lines_of(file: Path) -> list[Any]:
    """Return a segment's lines without what may differ: clocks."""

    def strip(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: strip(value) for key, value in item.items() if key not in ("at", "started", "seconds", "code")}
        return [strip(part) for part in item] if isinstance(item, list) else item

    return [strip(json.loads(line)) for line in file.read_text().splitlines()]


def test_a_run_ends_with_metrics_traces_policies_and_an_adapter(tmp_path: Path, start: Path) -> None:
    session, notes = toy_session(tmp_path, start=start, traces=2, eval_every=1), Notes()
    assert run(session, notes) == 0  # type: ignore[arg-type]
    steps = [step for step, _ in notes.metrics]
    assert steps == [0, 1, 2] and len(notes.traced) == 4
    last = notes.metrics[-1][1]
    for name in ("rollout/reward", "update/policy_loss", "update/kl/planner", "rollout/valid/planner", "time/update",
                 "eval/toy/score", "replay/parity_mean", "update/advantage/planner"):  # fmt: skip
        assert name in last, name
    assert last["time/idle_share"] < 0.2
    hashes = session.worlds[0].graph.recorder.hashes()
    assert notes.tags == {f"hash.{name}": value for name, value in hashes.items()} and all(hashes.values())
    assert is_sealed(segment_file(tmp_path, 0)) and is_sealed(segment_file(tmp_path, 1))
    card = json.loads((tmp_path / "adapter" / "jade.json").read_text())
    assert card["version"] == 2 and "planner" in card["roles"] and card["prompts"] == "bare"
    assert sorted(item.name for item in (tmp_path / "policies").iterdir()) == ["000000", "000001", "000002"]
    recorded = next(iter(read_ledger(segment_file(tmp_path, 1))))
    assert recorded.identity["version"] == "1" and recorded.identity["adapter"] == TRAINED


def test_a_buffer_replayed_from_the_ledger_is_the_live_one(tmp_path: Path) -> None:
    session = toy_session(tmp_path)
    world, live = session.worlds[0], []
    runs = gather(world, session.players, session.config, 0, 0, on_done=live.append)
    live.sort(key=lambda item: item.run)
    config = session.config
    one = prepare(live, session.players, session.store, session.gold, config, version=0)
    other = prepare(runs, session.players, session.store, session.gold, config, version=0)
    assert [row.call.id for row in one.buffer.rows] == [row.call.id for row in other.buffer.rows]
    for name in ("prompt_ids", "response_ids", "logprobs", "mask", "parents", "temperature", "constraint"):
        pairs = zip(one.buffer.rows, other.buffer.rows, strict=True)
        assert all(getattr(a.call, name) == getattr(b.call, name) for a, b in pairs), name
    assert one.rewards == other.rewards and one.buffer.edges == other.buffer.edges
    for a, b in zip(one.scored.current, other.scored.current, strict=True):
        assert np.array_equal(a, b)


def test_resumed_after_the_seal_the_next_update_is_bit_identical(
    tmp_path: Path, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = toy_session(tmp_path / "whole", start=start)
    assert run(whole, Notes()) == 0  # type: ignore[arg-type]
    killed_in_update(toy_session(tmp_path / "killed", start=start), 1, monkeypatch)
    segment = segment_file(tmp_path / "killed", 1)
    assert is_sealed(segment)
    before = segment.read_bytes()
    resumed = toy_session(tmp_path / "killed", start=start)
    assert resumed.state.iteration == 1 and resumed.state.mlflow_run == "run-1"
    assert run(resumed, Notes()) == 0  # type: ignore[arg-type]
    assert segment.read_bytes() == before  # replayed, not collected again
    assert same(state_of(whole), state_of(resumed))
    moments = [item.optimiser.adam.state_dict()["state"] for item in (whole, resumed)]
    assert all(torch.equal(moments[0][key]["exp_avg_sq"], moments[1][key]["exp_avg_sq"]) for key in moments[0])


def test_killed_while_collecting_it_collects_the_same_lines(tmp_path: Path, start: Path) -> None:
    whole = toy_session(tmp_path / "whole", start=start, iterations=1)
    run(whole, Notes())  # type: ignore[arg-type]
    killed = toy_session(tmp_path / "killed", start=start, iterations=1)
    seen: list[str] = []

    def dies(item: Any) -> None:
        seen.append(item.run)
        if len(seen) == 3:
            raise Killed

    with pytest.raises(Killed):
        gather(killed.worlds[0], killed.players, killed.config, 0, 0, on_done=dies)
    segment = segment_file(tmp_path / "killed", 0)
    assert segment.is_file() and not is_sealed(segment)
    resumed = toy_session(tmp_path / "killed", start=start, iterations=1)
    run(resumed, Notes())  # type: ignore[arg-type]
    assert is_sealed(segment)
    assert lines_of(segment) == lines_of(segment_file(tmp_path / "whole", 0))
    assert same(state_of(whole), state_of(resumed))


def poisoned(session: Session) -> None:
    """Make every score of the trained adapter not a number from the next update on."""
    score = session.players.score

    def broken(*args: Any, **options: Any) -> Any:
        scores = score(*args, **options)
        if torch.is_grad_enabled():
            scores.logprobs.mul_(float("nan"))
        return scores

    session.players.score = broken  # type: ignore[method-assign]


def test_a_gradient_that_is_no_number_stops_with_a_named_alarm(tmp_path: Path, start: Path) -> None:
    session, notes = toy_session(tmp_path, start=start), Notes()
    before = state_of(session)
    poisoned(session)
    assert run(session, notes) == ENDED_BY_ALARM  # type: ignore[arg-type]
    assert notes.metrics[-1][1]["alarm/nan"] == 1.0
    after = state_of(session)
    assert all(torch.isfinite(value).all() for value in after.values())
    assert all(torch.equal(before[key], after[key]) for key in before if "head" not in key)
    assert toy_session(tmp_path, start=start).state.iteration == 0  # nothing was committed


def test_an_alarm_can_roll_back_and_go_on(tmp_path: Path, start: Path) -> None:
    session, notes = toy_session(tmp_path, start=start, on_alarm="rollback", iterations=3, max_rollbacks=1), Notes()
    before = state_of(session)
    poisoned(session)
    assert run(session, notes) == ENDED_BY_ALARM  # type: ignore[arg-type]
    assert session.state.rollbacks == 1 and session.state.factor == 0.5 and session.state.version == 0
    assert all(torch.equal(before[key], value) for key, value in state_of(session).items() if "head" not in key)
    assert is_sealed(segment_file(tmp_path, 1))  # it went on with other questions


def test_a_recorded_ledger_can_be_replayed_by_another_run(tmp_path: Path, start: Path) -> None:
    first = toy_session(tmp_path / "first", start=start)
    gather(first.worlds[0], first.players, first.config, 0, 0)
    ledger = tmp_path / "first" / "ledger"
    again = toy_session(tmp_path / "second", start=start, ledger=str(ledger), iterations=5)
    notes = Notes()
    assert run(again, notes) == 0  # type: ignore[arg-type]
    assert again.state.iteration == 1 and again.state.version == 1  # one batch, then the ledger is at its end
    assert notes.metrics[-1][1]["rollout/trajectories"] == 6
    assert not (tmp_path / "second" / "ledger").exists()


def test_what_may_not_be_trained_on_is_refused_by_name_and_counted(tmp_path: Path, start: Path) -> None:
    from dataclasses import replace

    session = toy_session(tmp_path, start=start)
    runs = gather(session.worlds[0], session.players, session.config, 0, 0)
    call = runs[3].calls[0]
    shifted = replace(call, logprobs=tuple(value - 0.4 for value in call.logprobs))
    batch = [
        replace(runs[0], hashes={**runs[0].hashes, "text": "other"}),
        replace(runs[1], hashes={**runs[1].hashes, "environment": "elsewhere"}),
        replace(runs[2], hashes={**runs[2].hashes, "policy": "gone"}),
        replace(runs[3], calls=(shifted, *runs[3].calls[1:])),
        replace(runs[4], calls=(replace(runs[4].calls[0], greedy=True), *runs[4].calls[1:])),
        replace(runs[4], run="x1", identity={**runs[4].identity, "version": "9"}),
        replace(runs[4], run="x2", outcome="crashed"),
        replace(runs[4], run="x3", question_id=None, question="never asked"),
        replace(runs[4], run="x4", calls=(replace(runs[4].calls[0], mask=()), *runs[4].calls[1:])),
        replace(runs[4], run="x5", identity={**runs[4].identity, "roles": {"mine": "new"}}),
        replace(runs[5], identity={**runs[5].identity, "roles": {"mine": "old"}}),
    ]
    batch = [batch[-1], *batch[:-1]]
    found = prepare(batch, session.players, session.store, session.gold, session.config, version=0)
    assert found.dropped.counts == {
        "unmatched": 1, "other-text": 1, "other-environment": 1, "unknown-policy": 1, "parity-mean": 1, "greedy": 1,
        "newer-policy": 1, "crashed": 1, "damaged": 1, "other-roles": 1,
    }  # fmt: skip
    assert [item.run for item in found.buffer.trajectories] == [runs[5].run]
    assert found.metrics["replay/refused/parity-mean"] == 1.0 and found.metrics["rollout/dropped/unmatched"] == 1.0
    with pytest.raises(ConfigError, match=r"none of 1 recorded runs can be trained on: 1 other-text"):
        prepare(batch[1:2], session.players, session.store, session.gold, session.config, version=0)


def test_runs_of_an_older_policy_are_checked_by_that_policy(tmp_path: Path, start: Path) -> None:
    session = toy_session(tmp_path, start=start, lr=2e-4)
    runs = gather(session.worlds[0], session.players, session.config, 0, 0)
    run(session, Notes())  # type: ignore[arg-type]
    assert session.state.version == 2
    found = prepare(runs, session.players, session.store, session.gold, session.config, version=2)
    assert not found.dropped.counts and found.metrics["replay/versions"] == 2.0
    assert found.metrics["replay/staleness"] > 10 * found.metrics["replay/parity_mean"]
    found = prepare(
        runs, session.players, session.store, session.gold, toy_config(tmp_path, max_drift=9.0), version=5 - 1
    )
    assert not found.dropped.counts
    with pytest.raises(ConfigError, match="6 stale-versions"):
        prepare(runs, session.players, session.store, session.gold, toy_config(tmp_path, max_drift=9.0), version=5)


def test_questions_come_once_a_pass_whatever_the_batch() -> None:
    items = list(EXAMPLES)
    drawn = [item.id for visit in range(5) for item in questions_of(items, visit, 3, seed=1)]
    assert sorted(drawn[:5]) == sorted(drawn[5:10]) == sorted(drawn[10:]) == sorted(item.id for item in items)
    assert questions_of(items, 1, 3, seed=1) == questions_of(items, 1, 3, seed=1)
    assert [item.id for item in questions_of(items, 0, 5, 2)] != [item.id for item in questions_of(items, 0, 5, 3)]


def test_replayed_batches_hold_one_environment_each(tmp_path: Path) -> None:
    from graphs.trajectory import Trajectory

    writer = LedgerWriter(tmp_path)
    for index in range(7):
        run = Trajectory(f"r{index}", "q", "a", "ok", (), hashes={"environment": f"e{index % 2}"})
        writer.close(run)
    batches = [[run.run for run in batch] for batch in replay(tmp_path, 2)]
    assert batches == [["r0", "r2"], ["r1", "r3"], ["r4", "r6"], ["r5"]]


def test_gold_joins_by_feedback_then_id_then_question() -> None:
    from graphs.trajectory import Trajectory

    gold = Gold(EXAMPLES, feedback={"r9": 0.25})
    by_id = Trajectory("r1", "another wording", "Frank Herbert", "ok", (), question_id="q0")
    assert gold(by_id) == pytest.approx(2 / 3)
    by_question = Trajectory("r2", "who wrote  the book DUNE", "Herbert", "ok", (), question_id="unknown")
    assert gold(by_question) == 1.0
    assert gold(Trajectory("r9", "?", "", "ok", ())) == 0.25
    assert gold(Trajectory("r3", "?", "", "ok", ())) is None
    with pytest.raises(ConfigError, match="finite"):
        Gold(EXAMPLES, lambda answer, golds: float("nan"))(by_id)
