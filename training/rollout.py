"""The executions of one iteration: collected with the current adapter into a sealed ledger segment, or replayed.

What an update learns from is always read back from disk, so a run that was killed after the seal learns from exactly
what the run that was never killed would have. A segment without its seal is thrown away and collected again from the
same seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from agents.call import Policy
from agents.errors import LedgerError
from evaluation.dataset import Example
from evaluation.ranks import ALONE, Ranks
from graphs.collection import Timing, collect
from graphs.ledger import LedgerWriter, read_ledger
from graphs.recorded import RecordedGraph
from graphs.trajectory import FAILED, Trajectory
from training.buffer import RolloutBuffer
from training.dropped import Dropped, NothingLeftError, in_company
from training.duals import Prices
from training.gold import Gold
from training.permuted import permuted
from training.players import Players
from training.policies import PolicyStore
from training.ppo_config import PPOConfig
from training.reward import TrajectoryReward, rewards
from training.scoring import Scored
from training.screening import limits_of, screen
from training.shares import collect_share, complete, drop_others, segment_file


class Amount(Protocol):
    """The part of a configuration that says how much is recorded."""

    runs: int
    """Executions of each question."""
    in_flight: int
    """Most executions at once."""


@dataclass(frozen=True)
class World:
    """Questions of one environment, and the graph that answers them."""

    name: str
    graph: RecordedGraph
    train: Sequence[Example]
    dev: Sequence[Example]


@dataclass
class Rollout:
    """One iteration's executions, scored and screened."""

    runs: Sequence[Trajectory]
    """All of them, failed and refused ones included."""
    rewards: Mapping[str, TrajectoryReward]
    """By run id, of those with a score."""
    buffer: RolloutBuffer
    scored: Scored
    dropped: Dropped
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def team(self) -> list[TrajectoryReward]:
        """Return the reward of each trajectory in the buffer."""
        return [self.rewards[run.run] for run in self.buffer.trajectories]


def questions_of(examples: Sequence[Example], visit: int, count: int, seed: int) -> list[Example]:
    """Return the questions of the `visit`-th batch: shuffled passes over all, each question once a pass.

    A pure function, so that the data position is a number. A batch that crosses the end of a pass goes on in the
    next one.
    """
    size = len(examples)
    order: dict[int, Any] = {}
    chosen = []
    for place in range(visit * count, (visit + 1) * count):
        turn, offset = divmod(place, size)
        if turn not in order:
            order[turn] = np.random.default_rng([seed, turn]).permutation(size)
        chosen.append(examples[int(order[turn][offset])])
    return chosen


def seed_of(seed: int, iteration: int) -> int:
    """Return the run seed of an iteration's executions."""
    return int.from_bytes(blake2b(f"{seed}/{iteration}".encode(), digest_size=4).digest(), "big") >> 1


def gather(
    world: World,
    players: Players,
    config: PPOConfig,
    iteration: int,
    visit: int,
    *,
    policy: Policy | None = None,
    timing: Timing | None = None,
    on_done: Callable[[Trajectory], None] | None = None,
) -> list[Trajectory]:
    """Return the executions of an iteration: from its sealed segment if there is one, else collected now.

    The model of `players` plays, or another `policy` that has the adapters of the same names.

    Several ranks each collect a share (`training.shares`), and each returns the executions of all.

    Raises:
        LedgerError: The segment cannot be written or sealed, or every run failed.
    """
    output, ranks, speaker = Path(config.output), players.ranks, players.shared if policy is None else policy

    def collect_into(file: Path) -> None:
        examples = questions_of(world.train, visit, config.questions, config.seed)
        graph = world.graph.with_recorder(adapters=players.adapters())
        options = run_options(config, seed_of(config.seed, iteration))
        record(graph, speaker, examples, file, config, timing=timing, on_done=on_done, ranks=ranks, **options)

    names = ranks.first(lambda: [file.name for file in complete(output, iteration)])
    files = [output / "ledger" / name for name in names]
    if not files:
        ranks.first(lambda: drop_others(output, iteration, ranks.size))
        if ranks.size > 1:
            return sorted(collect_share(output, iteration, ranks, collect_into), key=lambda run: run.run)
        files = [segment_file(output, iteration)]
        collect_into(files[0])
    return sorted((run for file in files for run in read_ledger(file)), key=lambda run: run.run)


def record(
    graph: RecordedGraph,
    policy: Policy,
    examples: Sequence[Example],
    file: Path,
    amount: Amount,
    *,
    timing: Timing | None = None,
    on_done: Callable[[Trajectory], None] | None = None,
    ranks: Ranks = ALONE,
    **options: Any,
) -> None:
    """Run a graph on questions and seal what was recorded as one ledger file; what an earlier try left is replaced.

    Args:
        graph: A recorded graph with its adapters.
        policy: Who plays.
        examples: The questions.
        file: The segment.
        amount: Runs of each question, and most runs at once.
        timing: Filled with where the wall time went.
        on_done: Called with each trajectory as its run ends.
        ranks: Where there are several, only this one's share is recorded, and left unsealed.
        **options: Of each run.

    Raises:
        ConfigError: An impossible option or question; nothing has run then.
        LedgerError: The file cannot be written or sealed, or every run failed.
    """
    try:
        file.unlink(missing_ok=True)
    except OSError as error:  # a read-only disk says so even where there is nothing to remove
        raise LedgerError(
            f"{file} cannot be replaced ({error}); make its disk writable and run the same command again"
        ) from error
    writer, ended = LedgerWriter(file.parent, file.stem), 0

    def note(run: Trajectory) -> None:
        nonlocal ended
        ended += 1
        if on_done is not None:
            on_done(run)

    questions = [{graph.recorder.input: example.question, "id": example.id} for example in examples]
    try:
        collect(
            graph,
            questions,
            policy=policy,
            ledger=writer,
            in_flight=amount.in_flight,
            runs=amount.runs,
            timing=timing,
            on_done=note,
            share=(ranks.rank, ranks.size),
            **options,
        )
    except Exception as error:
        if ended < len(questions) * amount.runs:
            raise  # refused, not failed
        raise LedgerError(
            f"all {ended} runs of {len(questions)} questions failed, the first with {type(error).__name__}: {error}. "
            f"`jade show --ledger {file}` shows the last one; mend that and run the same command again: nothing else "
            "was changed"
        ) from error
    if ranks.size == 1:
        writer.seal()


def run_options(config: PPOConfig, seed: int) -> dict[str, Any]:
    """Return the options of a training execution; what is not set is the graph's own default."""
    options = {
        "record": "train",
        "temperature": config.temperature,
        "decoding": config.decoding,
        "select": config.select,
        "max_depth": config.depth,
        "max_turns": config.max_turns,
        "max_retrievals": config.max_retrievals,
        "workflow": config.workflow,
        "seed": seed,
    }
    return {name: value for name, value in options.items() if value is not None}


def replay(ledger: Path, size: int) -> Iterator[list[Trajectory]]:
    """Stream batches of recorded runs, each of one environment; what is left over comes last.

    Raises:
        LedgerError: No ledger at the path.
    """
    buckets: dict[str, list[Trajectory]] = {}
    for run in read_ledger(ledger):
        bucket = buckets.setdefault(run.hashes.get("environment", ""), [])
        bucket.append(run)
        if len(bucket) == size:
            yield bucket[:]
            bucket.clear()
    yield from (bucket for bucket in buckets.values() if bucket)


def prepare(
    runs: Sequence[Trajectory],
    players: Players,
    store: PolicyStore,
    gold: Gold,
    config: PPOConfig,
    *,
    version: int,
    prices: Prices | None = None,
) -> Rollout:
    """Score and screen the executions of one iteration.

    Args:
        runs: The executions.
        players: Who recomputes log-probabilities and values.
        store: Older policies.
        gold: Scores.
        config: All options.
        version: Policy version of the trained adapter.
        prices: α and β in force; None = those of `config`.

    Raises:
        NothingLeftError: Nothing is left to learn from; the message counts why.
    """
    ended = [run for run in runs if run.outcome not in FAILED]
    scored = players.ranks.spread(ended, lambda part: [gold(run) for run in part])
    scores = {run.run: score for run, score in zip(ended, scored, strict=True)}
    unmatched = [("unmatched", run) for run, score in scores.items() if score is None]
    known = [run for run in runs if scores.get(run.run, 0.0) is not None]
    if config.estimator == "loo":
        known, alone = in_company(known)
        unmatched += alone
    limits = limits_of(players, config.parity_mean, config.parity_total, config.max_versions, config.max_drift)
    found = screen(
        players,
        store,
        known,
        version=version,
        limits=limits,
        token_budget=config.token_budget,
        tokens=config.estimator == "broadcast",
    )
    dropped = Dropped.of(unmatched) + found.dropped
    if not found.buffer.trajectories:
        where = config.ledger or segment_file(Path(config.output), 0).parent
        raise NothingLeftError(dropped.counts, str(where))
    alpha, beta = (config.alpha, config.beta) if prices is None else (prices.alpha, prices.beta)
    terms = {"alpha": alpha, "beta": beta, "penalty": config.format_penalty}
    paid = {run.run: rewards(run, score, **terms) for run in known if (score := scores.get(run.run)) is not None}
    if config.permute_rewards:
        paid = permuted(known, paid, config.seed + version)
    metrics = {**found.metrics, **{f"rollout/dropped/{name}": float(n) for name, n in dropped.counts.items()}}
    return Rollout(runs, paid, found.buffer, found.scored, dropped, metrics)
