"""Warm start: supervised fine-tuning of all roles on one adapter, from rows derived from data.

    python -m training.sft --output runs/sft --minutes 20
    python -m training.sft --adapter runs/sft/adapter --ledger runs/collected --derived false --output runs/best

A second source is rejection sampling: the best recorded run of each question of a ledger. The loss is the negative
log-likelihood of the response tokens alone, weighted per role; validity per role and F1 are measured before and after
on questions that were not trained on. The paper has no warm start for its 7B model; a small one needs it to hit the
roles' formats at all.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

from safetensors import SafetensorError

from agents.adapters import AdapterInfo, read_adapter
from agents.call import Call
from agents.errors import SetupError
from agents.model import SharedModel
from agents.passage import Retriever
from agents.roster import ROLES, prompts_digest
from evaluation.config import read_config, run_command
from evaluation.dataset import load_examples
from evaluation.ranks import ALONE, Ranks, joined
from evaluation.tracking import TrackedRun
from training.adapter import TRAINED, LoraShape, create_adapter, first_adapted_layer, save_adapter
from training.beforehand import refuse_ignored
from training.buffer import RolloutBuffer
from training.dropped import Dropped
from training.gold import Gold
from training.lead import log_as, tracked_by_first
from training.learner import Learner
from training.probe import probe
from training.rejection import Best, Rule, best_runs, ledger_gold, supervised
from training.rows import Row
from training.sft_config import SFTConfig
from training.sole_writer import sole_writer
from training.supervised import PROMPTS, Warmup, held_out_loss, row_weights, supervised_buffer, supervised_calls
from training.warmstart import WarmStart, bundled_sets, dev_questions, summary, warmstart_rows

_log = logging.getLogger("jade.sft")


def split_rows(rows: Sequence[Row], held_out: int) -> tuple[list[Row], list[Row]]:
    """Keep the first `held_out` rows of each role from training (rows come shuffled by content)."""
    seen: dict[str, int] = {}
    train: list[Row] = []
    held: list[Row] = []
    for row in rows:
        seen[row.role] = seen.get(row.role, 0) + 1
        (held if seen[row.role] <= held_out else train).append(row)
    return train, held


def derived_rows(config: SFTConfig) -> WarmStart:
    """Return the rows derived from the bundled sets; none where the configuration wants the ledger alone.

    Raises:
        ConfigError, RetrieverError: As named in their messages.
    """
    if not config.derived:
        return WarmStart(())
    from agents.retriever import open_retriever

    environments: dict[str, str] = {}

    def open_set(name: str) -> Retriever:
        retriever = open_retriever(config.index or name, k=config.top_k)
        environments[name] = retriever.identity["environment"]
        return retriever

    found = warmstart_rows(
        bundled_sets(open_set, config.datasets, config.plan_sets),
        per_role=config.per_role,
        role_rows=config.role_rows,
        questions_per_set=config.questions_per_set,
        top_k=config.top_k,
        seed=config.seed,
    )
    return replace(found, environments=environments)


def check_options(config: SFTConfig) -> Gold | None:
    """Refuse, before a model is loaded, what could not be learned from or measured.

    Returns:
        The scores of the ledger's runs; None where there is no ledger.

    Raises:
        ConfigError: An adapter that cannot be used or has another shape, unknown sets, or answers or a score function
            that cannot be used.
        LedgerError: No ledger at the path.
    """
    if config.adapter is not None:
        shape = LoraShape(config.rank, config.alpha, config.first_layer, tuple(config.targets))
        refuse_ignored(Path(config.adapter).expanduser(), shape, alpha="alpha")
    for name in config.eval_sets:
        load_examples(name, "dev", sample=config.eval_sample)
    for name in [*config.datasets, *config.plan_sets] if config.derived else ():
        load_examples(name, "train")
    if config.ledger is None:
        return None
    ledger = Path(config.ledger).expanduser()
    return ledger_gold(ledger, config.answers, [*config.datasets, *config.plan_sets], config.score)


def recorded_runs(config: SFTConfig, gold: Gold | None, shared: SharedModel) -> Best:
    """Return the best recorded run of each question of the ledger; none where there is no ledger.

    Args:
        config: Names the ledger, and how to choose.
        gold: Scores of its runs; None = there is no ledger.
        shared: The model that is to learn them.

    Raises:
        ConfigError: Nothing in the ledger can be learned from.
    """
    if gold is None:
        return Best((), (), 0, Dropped())
    rule = Rule(config.best_of, config.min_score, config.cost_turns, config.cost_retrievals)
    ledger = Path(str(config.ledger)).expanduser()
    return best_runs(ledger, gold, rule, text=shared.identity["text"], dev=dev_questions())


def hash_tags(shared: SharedModel, warm: WarmStart, best: Best) -> dict[str, str]:
    """Return the hashes of text and environment as tags of a run: what was searched, for each set and for the ledger.

    The environment is "none" where nothing was searched: all rows are plans and decompositions, or the ledger's graph
    had no retriever.
    """
    recorded = sorted({run.hashes.get("environment", "") for run in best.runs} - {""})
    found = [*warm.environments.items(), *(("ledger", value) for value in recorded)]
    environment = ", ".join(value if len(found) == 1 else f"{name} {value}" for name, value in found)
    return {"hash.text": shared.identity["text"], "hash.environment": environment or "none"}


def start(config: SFTConfig, shared: SharedModel) -> AdapterInfo:
    """Put the adapter to be trained on the model, fresh or from a folder, and return its card.

    Raises:
        ConfigError: The folder's adapter belongs to another base or text, or none can be made.
    """
    text = shared.identity["text"]
    if config.adapter is None:
        shape = LoraShape(config.rank, config.alpha, config.first_layer, tuple(config.targets))
        create_adapter(shared, shape, config.seed)
        return AdapterInfo(text, shared.name, shared.weights, PROMPTS.style)
    folder = Path(config.adapter).expanduser()
    before = read_adapter(folder, base_weights=shared.weights, text=text)
    shared.add_adapter(TRAINED, folder, trainable=True)
    return replace(before, base=shared.name)


def with_roles(card: AdapterInfo, roles: Iterable[str]) -> AdapterInfo:
    """Add roles to a card, JADE's own ones first."""
    every = {*card.roles, *roles}
    return replace(card, roles=(*(role for role in ROLES if role in every), *sorted(every - set(ROLES))))


def keep(shared: SharedModel, folder: Path, card: AdapterInfo) -> Path:
    """Write the adapter, in half precision, and return its folder.

    Raises:
        SetupError: The disk is full or read-only; what stood there before still does.
    """
    try:
        save_adapter(shared, TRAINED, folder, card, half=True)
    except (OSError, SafetensorError) as error:
        raise SetupError(
            f"{folder} cannot be written ({error}); free the disk and run the same command again"
        ) from None
    return folder


def agree(config: SFTConfig, shared: SharedModel, buffer: RolloutBuffer, ranks: Ranks) -> None:
    """Check that all ranks begin alike: options, base model, number format, rows.

    Raises:
        ConfigError: They do not; the message names the ranks that differ.
    """
    if ranks.size == 1:
        return
    options = {name: value for name, value in config.__dict__.items() if name not in ("device", "threads")}
    ranks.alike("the options", options, "start the same command on every machine")
    base = [shared.identity["text"], shared.weights, shared.identity["dtype"]]
    ranks.alike("base model or number format", base, "give the same --model and --dtype everywhere")
    rows = content_of(row.call for row in buffer.rows)
    ranks.alike("the rows", rows, "give every machine the same data, index and ledger")


def content_of(calls: Iterable[Call]) -> str:
    """Return a digest over the tokens of calls."""
    digest = blake2b(digest_size=16)
    for call in calls:
        digest.update(repr((call.prompt_ids, call.response_ids)).encode())
    return digest.hexdigest()


def train(config: SFTConfig, *, dry_run: bool = False, ranks: Ranks = ALONE) -> Path | None:
    """Run the whole warm start and return the adapter's folder (None for a dry run).

    Args:
        config: All options.
        dry_run: Only say what would be learned from.
        ranks: The processes that train together, each over a part of every step's rows; rank 0 measures and writes.

    Raises:
        ConfigError, LedgerError, RetrieverError, SetupError: As named in their messages, before any training.
    """
    with nullcontext() if dry_run else sole_writer(config.output, ranks):
        return _train(config, dry_run, ranks)


def _train(config: SFTConfig, dry_run: bool, ranks: Ranks) -> Path | None:
    gold = check_options(config)
    shared = SharedModel.load(
        config.model,
        dtype=config.dtype,
        device=config.device,
        threads=config.threads,
        text_digest=prompts_digest(PROMPTS),
    )
    card = start(config, shared)
    best, warm = recorded_runs(config, gold, shared), derived_rows(config)
    recorded = list(supervised(best.runs, shared.end_token))
    rows, held = split_rows(warm.rows, config.held_out)
    derived = supervised_calls(rows, shared)
    weights = [*row_weights(rows, derived), *(1.0 for _ in recorded)]
    buffer = supervised_buffer([*derived, *recorded], config.role_weights, weights)
    sources = "\n\n".join([summary(warm.rows)] * bool(warm.rows) + [best.summary()] * bool(recorded))
    _log.info("%s\n%d rows, %d tokens", sources, len(buffer), int(buffer.lengths.sum()))
    if dry_run:
        return None
    agree(config, shared, buffer, ranks)
    card = with_roles(card, [*(row.role for row in rows), *(call.role for call in recorded)])
    learner = Learner(shared, first_adapted_layer(shared, [TRAINED]))
    folder, tags = Path(config.output) / "adapter", hash_tags(shared, warm, best)
    with tracked_by_first(ranks, config.experiment, Path(config.output).name, config.__dict__, tags) as tracked:
        tracked.log_text(sources, "rows.md")
        warmup = Warmup(config, learner, buffer, ranks)
        if ranks.leads:
            _measured(warmup, held, tracked, lambda: keep(shared, folder, card))
            tracked.set_tags({"hash.policy": shared.policy_hash(TRAINED)})
            tracked.log_artifact_folder(folder, "adapter")
        else:
            warmup.run(tracked)
    return folder


def _measured(warmup: Warmup, held: Sequence[Row], tracked: TrackedRun, keep_it: Callable[[], object]) -> None:
    """Measure the speaker, warm it up, keep it, and measure it again."""
    config, shared = warmup.config, warmup.learner.shared
    asked = (config.eval_sets, config.eval_sample, config.index, config.top_k)
    counts = Counter(row.call.role for row in warmup.buffer.rows)
    before = probe(shared, None if config.adapter is None else TRAINED, held, PROMPTS, *asked)
    tracked.log_metrics({f"sft/rows/{role}": float(count) for role, count in counts.items()}, 0)
    tracked.log_metrics({**before.metrics(), **held_out_loss(warmup.learner, held, config)}, 0)
    warmup.run(tracked)
    shared.refresh(TRAINED)
    keep_it()
    after = probe(shared, TRAINED, held, PROMPTS, *asked)
    tracked.log_metrics({**after.metrics(), **held_out_loss(warmup.learner, held, config)}, warmup.step)
    _log.info("before\n%s\nafter\n%s", before.table(), after.table())
    tracked.log_text(f"before\n\n{before.table()}\n\nafter\n\n{after.table()}\n", "validity.md")


def main() -> int:
    """Run from the command line; a user's mistake is one line on standard error."""

    def work() -> int:
        config, dry_run = read_config(SFTConfig, sys.argv[1:], "python -m training.sft")
        with joined(config.device) as ranks:
            log_as(ranks)
            train(config, dry_run=dry_run, ranks=ranks)
        return 0

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
