"""Joint PPO over recorded graph executions: planner and executors learn from the outcome of whole runs.

    python -m training.ppo --adapter runs/sft/adapter --datasets '["hotpotqa"]' --output runs/ppo

One iteration: collect (or replay) → check → reward → values → credit → minibatch epochs → log → evaluate →
checkpoint. It commits twice, when its ledger segment is sealed and when its checkpoint stands, and can be killed at
any moment in between. Ctrl-C ends it after the current update.
"""

from __future__ import annotations

import logging
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path

from agents.errors import JadeError
from evaluation.metrics import token_f1
from evaluation.traces import RunCredit
from evaluation.tracking import TrackedRun, track
from graphs.collection import Timing, collect
from graphs.trajectory import FAILED, Trajectory
from training.buffer import RolloutBuffer
from training.clock import Clock
from training.config import read_config
from training.credit import Credit
from training.health import AlarmLimits, alarms, remember
from training.ppo_config import PPOConfig
from training.ppo_estimate import estimate
from training.ppo_setup import load_model, make_gold, make_worlds, prompts_of
from training.rollout import Rollout, World, gather, prepare, replay, run_options, segment_file
from training.rollout_metrics import credit_metrics, rollout_metrics
from training.schedule import rate
from training.session import Session, begin
from training.update import fill, returns_of, start_critic

_log = logging.getLogger("jade.ppo")
ENDED_BY_ALARM = 3
"""Exit status of a run that an alarm stopped."""


def run(session: Session, tracked: TrackedRun, stop: Callable[[], bool] = lambda: False) -> int:
    """Run the remaining iterations.

    Args:
        session: As `begin` returned it.
        tracked: Where metrics and traces go.
        stop: Asked between iterations.

    Returns:
        0, or `ENDED_BY_ALARM`.

    Raises:
        ConfigError: Nothing of an iteration can be trained on.
        LedgerError, SetupError: The disk is full; the last checkpoint stands.
    """
    config, state, clock = session.config, session.state, Clock()
    state.mlflow_run = tracked.run_id or state.mlflow_run
    batches = _ledger_batches(session)
    first = state.iteration
    if first == 0 and config.eval_every:
        tracked.log_metrics(evaluate(session), 0)
    while session.state.iteration < config.iterations and not stop():
        metrics, healthy = iterate(session, tracked, batches, clock)
        if metrics is None:
            _log.info("the ledger has no more runs")
            break
        if not healthy and not _recover(session):
            return ENDED_BY_ALARM
        session.save()
        _progress(session.state.iteration, first, config.iterations, metrics, clock)
    tracked.log_artifact_folder(session.ship(), "adapter")
    return 0


def iterate(
    session: Session, tracked: TrackedRun, batches: Iterator[Sequence[Trajectory]] | None, clock: Clock
) -> tuple[dict[str, float] | None, bool]:
    """Do one iteration, all but its checkpoint.

    Returns:
        Its metrics (None when the replayed ledger is at its end), and whether no alarm rang.
    """
    config, state, players = session.config, session.state, session.players
    clock.start()
    # collect, or replay
    runs = _runs(session, batches, clock)
    if runs is None:
        return None, True
    # check, reward, old and reference log-probabilities, values
    with clock.stage("score"):
        rollout = prepare(runs, players, session.store, session.gold, config, version=state.version)
        if not state.critic_started:
            start_critic(players, rollout.buffer, rollout.team, rollout.scored)
            state.critic_started = True
    session.name_roles({row.call.role for row in rollout.buffer.rows if row.trained})
    # credit, weights, whitening
    with clock.stage("credit"):
        buffer, plain, credits = fill(rollout.buffer, rollout.scored, rollout.team, config)
        metrics = {**rollout.metrics, **rollout_metrics(runs, rollout.rewards)}
        metrics |= credit_metrics(plain, [reward.score for reward in rollout.team])
    # minibatch epochs
    with clock.stage("update"):
        critic_only = config.estimator != "loo" and state.iteration < config.critic_warmup
        factor = state.factor * rate(state.iteration, config.iterations, config.warmup, config.schedule)  # type: ignore[arg-type]
        outcome = session.optimiser.update(buffer, state.iteration, factor, critic_only=critic_only)
    metrics |= outcome.metrics
    remember(state.history, metrics, config.alarm_window)
    ringing = alarms(metrics, outcome.finite, state.history, _limits(config))
    # log
    with clock.stage("log"):
        tracked.export_traces(rollout.buffer.trajectories[: config.traces], run_credit(plain, rollout, credits))
    if not ringing:
        state.segment = segment_file(session.output, state.iteration).name if batches is None else ""
        state.iteration += 1
        if not critic_only:
            session.advance()
        if config.eval_every and state.iteration % config.eval_every == 0:
            with clock.stage("eval"):
                metrics |= evaluate(session)
    metrics |= {f"alarm/{name}": 1.0 for name in ringing}
    tracked.log_metrics(metrics | clock.metrics(), state.iteration)
    for name, seen in ringing.items():
        _log.warning("alarm %s: %s", name, seen)
    return metrics, not ringing


def _runs(
    session: Session, batches: Iterator[Sequence[Trajectory]] | None, clock: Clock
) -> Sequence[Trajectory] | None:
    if batches is not None:
        return next(batches, None)
    iteration, worlds, timing = session.state.iteration, session.worlds, Timing()
    world = worlds[iteration % len(worlds)]  # one environment an update
    started = time.perf_counter()
    runs = gather(world, session.players, session.config, iteration, iteration // len(worlds), timing=timing)
    parts = {"model": timing.model, "retrieval": timing.retrieval, "graph": timing.graph}
    tokens = sum(len(call.prompt_ids) + len(call.response_ids) for item in runs for call in item.calls)
    clock.add(parts, time.perf_counter() - started, tokens if timing.total else 0)
    return runs


def _ledger_batches(session: Session) -> Iterator[Sequence[Trajectory]] | None:
    """Return the ledger's batches from where the run stands; None when executions are collected."""
    config = session.config
    if config.ledger is None:
        return None
    batches = replay(Path(config.ledger).expanduser(), config.questions * config.runs)
    return islice(batches, session.state.iteration, None)


def _limits(config: PPOConfig) -> AlarmLimits:
    return AlarmLimits(config.alarm_entropy, config.alarm_topology, config.alarm_gap, config.alarm_window)


def _recover(session: Session) -> bool:
    """Do what `on_alarm` says; return whether training goes on."""
    config, state = session.config, session.state
    if config.on_alarm == "continue":
        state.iteration += 1
        session.advance()
        return True
    if config.on_alarm == "stop" or state.rollbacks >= config.max_rollbacks:
        _log.error("stopped; the last healthy adapter is in %s", session.output / "checkpoint" / "adapter")
        return False
    session.roll_back()
    _log.warning("rolled back to policy version %d at half the learning rate", session.state.version)
    return True


def evaluate(session: Session) -> dict[str, float]:
    """Answer held-out questions greedily with the trained adapter; failed runs score 0."""
    found: dict[str, float] = {}
    for world in session.worlds:
        if not world.dev:
            continue
        runs = greedy_runs(session, world)
        pairs = list(zip(runs, world.dev, strict=True))
        scores = [0.0 if item.outcome in FAILED else session.gold.score(item.answer, ex.answers) for item, ex in pairs]
        found[f"eval/{world.name}/score"] = sum(scores) / len(scores)
        found[f"eval/{world.name}/f1"] = sum(token_f1(item.answer, ex.answers) for item, ex in pairs) / len(pairs)
        found[f"eval/{world.name}/turns"] = sum(item.turns for item in runs) / len(runs)
        found[f"eval/{world.name}/retrievals"] = sum(len(item.retrievals) for item in runs) / len(runs)
    return found


def greedy_runs(session: Session, world: World) -> list[Trajectory]:
    """Return greedy runs of the held-out questions, unrecorded."""
    graph = world.graph.with_recorder(adapters=session.players.adapters())
    options = {**run_options(session.config, 0), "record": "off", "temperature": 0.0}
    questions = [{graph.recorder.input: example.question, "id": example.id} for example in world.dev]
    return collect(graph, questions, policy=session.players.shared, in_flight=session.config.in_flight, **options)


def run_credit(buffer: RolloutBuffer, rollout: Rollout, credits: Sequence[Credit]) -> dict[str, RunCredit]:
    """Return reward and credit of each run, for the trace view."""
    values, _ = returns_of(buffer)
    by_call: dict[tuple[int, str], float] = {
        (row.trajectory, row.call.id): float(values[place, 0]) for place, row in enumerate(buffer.rows)
    }
    found = {}
    for index, (item, credit, reward) in enumerate(zip(buffer.trajectories, credits, rollout.team, strict=True)):
        calls = {
            call: {
                "format": reward.format[call],
                "value": by_call[index, call],
                "return": credit.returns[call],
                "advantage": credit.total[call],
            }
            for call in credit.returns
        }
        parts = {name: getattr(reward, name) for name in ("total", "score", "turn_cost", "retrieval_cost")}
        found[item.run] = RunCredit(parts, calls)
    return found


def _progress(done: int, first: int, total: int, metrics: dict[str, float], clock: Clock) -> None:
    spent = time.monotonic() - clock.begun
    left = spent / max(1, done - first) * (total - done) / 60
    shown = ("rollout/reward", "rollout/score", "update/kl", "update/entropy", "update/clip_fraction")
    numbers = "  ".join(f"{name.split('/')[1]} {metrics[name]:.3f}" for name in shown if name in metrics)
    _log.info("%d/%d  %s  %.1f min, %.0f min left", done, total, numbers, spent / 60, left)


@contextmanager
def ends_gently() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a request to stop after the current update; the second one is what it was."""
    asked: list[int] = []

    def note(number: int, frame: object) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, before)
        _log.warning("ending after the current update; press Ctrl-C again to end at once")

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)


def train(config: PPOConfig, *, dry_run: bool = False) -> int:
    """Set everything up and train; return the exit status.

    Raises:
        JadeError: As named in its message, before any training where that can be known.
    """
    prompts = prompts_of(config)
    shared = load_model(config, prompts)
    worlds = make_worlds(config, shared, prompts) if config.ledger is None or config.eval_every else []
    gold = make_gold(config, worlds)
    if dry_run:
        with tempfile.TemporaryDirectory() as scratch:
            trial = begin(replace(config, output=scratch, ledger=None), shared, worlds, gold, prompts.style)
            _log.info("%s", estimate(trial))
        return 0
    session = begin(config, shared, worlds, gold, prompts.style)
    tags = {f"hash.{name}": value for name, value in shared.identity.items() if name in ("text", "policy")}
    name, resumed = Path(config.output).name, session.state.mlflow_run
    with track(config.experiment, name, config.__dict__, tags, resumed) as tracked, ends_gently() as stop:
        return run(session, tracked, stop)


def main() -> int:
    """Run from the command line; a user's mistake is one line on standard error."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        config, dry_run = read_config(PPOConfig, sys.argv[1:], "python -m training.ppo")
        return train(config, dry_run=dry_run)
    except JadeError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
