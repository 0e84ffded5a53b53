"""Joint PPO over recorded graph executions: planner and executors learn from the outcome of whole runs.

    python -m training.ppo --adapter runs/sft/adapter --datasets '["hotpotqa"]' --output runs/ppo

One iteration: collect (or replay) → check → reward → values → credit → minibatch epochs → log → evaluate →
checkpoint. It commits twice, when its ledger segment is sealed and when its checkpoint stands, and can be killed at
any moment in between. Ctrl-C ends it after the current update.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from evaluation.config import read_config, run_command
from evaluation.ranks import ALONE, Ranks, joined
from evaluation.tracking import PARENT, TrackedRun
from graphs.trajectory import Trajectory
from training.beforehand import check_options
from training.buffer import RolloutBuffer
from training.checkpoint import keep_healthy
from training.clock import Clock
from training.duals import in_force, move
from training.ending import ends_gently
from training.health import AlarmLimits, alarms, collapsing, remember, remember_evaluation
from training.heldout import evaluate
from training.history import add_metrics
from training.interference import interference
from training.lead import log_as, tracked_by_first
from training.ppo_config import PPOConfig
from training.ppo_estimate import estimate
from training.ppo_setup import load_model, make_gold, make_worlds, prompts_of, read_questions
from training.progress import following
from training.replayed import check_learned, summary
from training.report import hash_tags, report_figures, report_ledger, run_credit
from training.rollout_metrics import credit_metrics, ledger_metrics, rollout_metrics
from training.schedule import rate
from training.session import Session, begin
from training.sole_writer import sole_writer
from training.source import ledger_batches, ledger_of, next_rollout, recorded_segments
from training.update import Outcome, fill

_log = logging.getLogger("jade.ppo")
ENDED_BY_ALARM = 3
"""Exit status of a run that an alarm stopped."""


def run(
    session: Session, tracked: TrackedRun, stop: Callable[[], bool] = lambda: False, clock: Clock | None = None
) -> int:
    """Run the remaining iterations.

    Args:
        session: As `begin` returned it.
        tracked: Where metrics and traces go.
        stop: Asked between iterations.
        clock: Counts where the time goes; default: one that nobody else sees.

    Returns:
        0, or `ENDED_BY_ALARM`.

    Raises:
        ConfigError: Nothing of what was collected, or of a whole replayed ledger, can be trained on.
        LedgerError, SetupError: The disk is full; the last checkpoint stands.
    """
    config, state, ranks = session.config, session.state, session.ranks
    if _named(session, tracked):
        session.save()  # killed in its first iteration, it must go on in the same tracked run
    batches = ledger_batches(session)
    first = state.iteration
    if first == 0 and config.eval_every:
        _note(session, tracked, _held_out(session), 0)
    status, clock = 0, clock or Clock()
    runs = len([*ranks.mine(range(config.questions))]) * config.runs if batches is None else 0
    with following(first, config.iterations, runs, shown=ranks.leads) as follow:
        while session.state.iteration < config.iterations and not ranks.any(stop()):
            metrics, healthy = iterate(session, tracked, batches, clock, follow.recorded)
            if metrics is None:
                check_learned(session.state, str(config.ledger))
                break
            if not healthy and not _recover(session, metrics):
                status = ENDED_BY_ALARM
                break
            _named(session, tracked)
            with clock.stage("checkpoint"):
                session.save()
            with clock.stage("log"):
                follow.finished(session.state.iteration, metrics)
                if ranks.leads and any(name.startswith("eval/") for name in metrics):
                    report_figures(session.output, tracked)
    if ranks.leads:
        report_figures(session.output, tracked)
        report_ledger(ledger_of(config), tracked)
        tracked.set_tags(hash_tags(session))
    if status == 0:
        if batches is not None and ranks.leads:
            _log.info("%s", summary(session.state, str(config.ledger)))
        tracked.log_artifact_folder(session.ship(), "adapter")
    return status


def iterate(
    session: Session,
    tracked: TrackedRun,
    batches: Iterator[Sequence[Trajectory]] | None,
    clock: Clock,
    on_done: Callable[[Trajectory], None] | None = None,
) -> tuple[dict[str, float] | None, bool]:
    """Do one iteration, all but its checkpoint.

    Args:
        session: Who learns.
        tracked: Where metrics and traces go.
        batches: Of a replayed ledger; None = executions are collected.
        clock: Counts where the time goes, from the end of the iteration before on.
        on_done: Called with each execution as it is recorded.

    Returns:
        Its metrics (None when the replayed ledger is at its end), and whether the iteration counts: no alarm rang, or
        `on_alarm` says to continue.
    """
    config, state = session.config, session.state
    number = state.iteration + 1  # an iteration that does not count keeps its own, and never takes the one before
    # collect or replay; check, reward, old and reference log-probabilities, values
    rollout = next_rollout(session, batches, clock, on_done)
    if rollout is None:
        return None, True
    runs, recorded = rollout.runs, recorded_segments(session) if batches is None else []
    # credit, weights, whitening
    with clock.stage("credit"):
        buffer, plain, credits = fill(rollout.buffer, rollout.scored, rollout.team, config)
        metrics = rollout.metrics | rollout_metrics(runs, rollout.rewards, session.gold.f1)
        metrics |= ledger_metrics(runs, recorded)
        metrics |= credit_metrics(plain, [reward.score for reward in rollout.team], critic=config.estimator != "loo")
    evaluates = config.eval_every > 0 and (state.iteration + 1) % config.eval_every == 0
    with clock.stage("interference"):
        metrics |= interference(session.players, buffer, config, state.iteration) if evaluates else {}
    # minibatch epochs
    critic_only = config.estimator != "loo" and state.iteration < config.critic_warmup
    with clock.stage("update"):
        outcome = _updated(session, buffer, critic_only)
    metrics |= outcome.metrics
    clock.updated(float(buffer.lengths.sum()) * outcome.metrics["update/epochs"])
    metrics = session.ranks.tell(metrics)
    remember(state.history, metrics, config.alarm_window)
    ringing = alarms(metrics, outcome.finite, state.history, _limits(config))
    counts = not ringing or config.on_alarm == "continue"
    # log
    with clock.stage("log"):
        tracked.export_traces(rollout.buffer.trajectories[: config.traces], run_credit(plain, rollout, credits))
    if config.on_alarm == "rollback":
        with clock.stage("checkpoint"):
            collapses = collapsing(state.history, config.alarm_topology)
            session.ranks.first(lambda: keep_healthy(session.output, collapses))
    if counts:
        state.segment = recorded[0].name if recorded else ""
        state.iteration += 1
        if not critic_only:
            move(config, state, metrics)
            with clock.stage("checkpoint"):
                session.advance()
        if evaluates:
            with clock.stage("eval"):
                metrics |= _held_out(session)
    metrics |= {f"alarm/{name}": 1.0 for name in ringing} | clock.metrics()
    with clock.stage("log"):
        _note(session, tracked, metrics, number)
    for name, seen in ringing.items():
        _log.warning("alarm %s: %s", name, seen)
    return metrics, counts


def _updated(session: Session, buffer: RolloutBuffer, critic_only: bool) -> Outcome:
    """Take the minibatch epochs at the learning rate in force."""
    config, state = session.config, session.state
    factor = state.factor * rate(state.iteration, config.iterations, config.warmup, config.schedule)  # type: ignore[arg-type]
    outcome = session.optimiser.update(buffer, state.iteration, factor, critic_only=critic_only)
    prices = in_force(config, state)
    outcome.metrics |= {"update/alpha": prices.alpha, "update/beta": prices.beta}
    return outcome


def _held_out(session: Session) -> dict[str, float]:
    """Evaluate, and let the alarms know."""
    found = evaluate(session)
    remember_evaluation(session.state.history, found)
    return found


def _note(session: Session, tracked: TrackedRun, metrics: dict[str, float], step: int) -> None:
    """Log metrics to the tracking store, and keep them beside the checkpoint."""
    if session.ranks.leads:
        tracked.log_metrics(metrics, step)
        add_metrics(session.output, step, metrics)


def _named(session: Session, tracked: TrackedRun) -> bool:
    """Keep the tracked run's id, which a store that was away gives later, in the state; return whether it is new."""
    before = session.state.mlflow_run
    session.state.mlflow_run = tracked.run_id or before
    return session.ranks.any(session.state.mlflow_run != before)


def _limits(config: PPOConfig) -> AlarmLimits:
    return AlarmLimits(config.alarm_entropy, config.alarm_topology, config.alarm_gap, config.alarm_window)


def _recover(session: Session, metrics: Mapping[str, float]) -> bool:
    """Stop or roll back, as `on_alarm` says; return whether training goes on."""
    config, state = session.config, session.state
    if config.on_alarm == "stop" or state.rollbacks >= config.max_rollbacks:
        healthy = session.healthy(metrics) / "adapter"
        _log.error("stopped; the last healthy adapter is in %s; %s", healthy, _ways_on(config))
        return False
    session.roll_back(metrics)
    prices = in_force(config, session.state)
    _log.warning(
        "rolled back to policy version %d at half the learning rate, α %.3f, β %.3f",
        session.state.version, prices.alpha, prices.beta,
    )  # fmt: skip
    return True


def _ways_on(config: PPOConfig) -> str:
    """Return what to do after an alarm that ended the run."""
    back = "--on_alarm rollback goes back to it, and on with other questions at half the learning rate"
    if config.on_alarm == "rollback":
        back = f"--max_rollbacks allows more than {config.max_rollbacks}"
    other = "--on_alarm continue goes on regardless; or begin anew with other options and another --output"
    return f"the same command would stop here again: {back}; {other}"


def train(config: PPOConfig, *, dry_run: bool = False, ranks: Ranks = ALONE) -> int:
    """Set everything up and train; return the exit status.

    Args:
        config: All options.
        dry_run: Only say what to expect.
        ranks: The processes that train together.

    Raises:
        JadeError: As named in its message, before any training where that can be known.
    """
    with nullcontext() if dry_run else sole_writer(config.output, ranks):
        return _train(config, dry_run, ranks)


def _train(config: PPOConfig, dry_run: bool, ranks: Ranks) -> int:
    prompts, asks = prompts_of(config), config.ledger is None or bool(config.eval_every)
    check_options(config)
    questions = read_questions(config) if asks else []
    gold = make_gold(config, questions)
    shared = load_model(config, prompts)
    worlds = make_worlds(config, shared, prompts, questions)
    if dry_run:
        with tempfile.TemporaryDirectory() as scratch:
            trial = begin(replace(config, output=scratch), shared, worlds, gold, prompts.style)
            _log.info("%s", estimate(trial))
        return 0
    session = begin(config, shared, worlds, gold, prompts.style, ranks)
    tags = {**hash_tags(session), **({} if config.parent is None else {PARENT: config.parent})}
    name, resumed = Path(config.output).name, session.state.mlflow_run
    tracking = tracked_by_first(ranks, config.experiment, name, config.__dict__, tags, resumed)
    with tracking as tracked, ends_gently() as stop:
        return run(session, tracked, stop)


def main() -> int:
    """Run from the command line; a user's mistake is one line on standard error."""

    def work() -> int:
        config, dry_run = read_config(PPOConfig, sys.argv[1:], "python -m training.ppo")
        with joined(config.device) as ranks:
            log_as(ranks)
            return train(config, dry_run=dry_run, ranks=ranks) if ranks.leads or not dry_run else 0

    return run_command(work, "stopped at once; the same command goes on from the last checkpoint")


if __name__ == "__main__":
    sys.exit(main())
