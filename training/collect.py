"""Record runs to learn from later: n executions of each train question into a ledger, resumable file by file.

    python -m training.collect --adapter runs/sft/adapter --datasets '["hotpotqa"]' --runs 4 --output runs/collected

What comes out feeds rejection sampling (`python -m training.sft --ledger …`) and the replay of
`python -m training.ppo --ledger …`. Questions are answered in lock-step, some at a time; each such batch is one sealed
file, and a command that was killed goes on with the first file that is not sealed.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from agents.adapters import read_adapter
from agents.errors import ConfigError
from agents.model import SharedModel
from agents.role import Prompts
from agents.roster import prompts_digest
from evaluation.config import read_config, run_command
from evaluation.dataset import Example
from evaluation.ranks import refuse_ranks
from graphs.ledger import is_sealed, read_ledger
from graphs.trajectory import Trajectory
from training.gold import Gold, load_score
from training.ppo_config import PPOConfig
from training.ppo_setup import load_model, make_worlds, prompts_of
from training.rollout import World, questions_of, record, run_options
from training.sole_writer import sole_writer

if TYPE_CHECKING:
    from agents.remote import RemotePolicy

_log = logging.getLogger("jade.collect")
_OPTIONS = "collect.json"
_FREE = ("output", "in_flight", "device", "threads", "server")
"""Options that a resumed collection may change; none of them changes what is recorded in fp32."""


@dataclass
class CollectConfig:
    """Record runs of train questions into a ledger."""

    output: str = "runs/collected"
    """Folder of the ledger; a second ledger needs another one."""
    model: str | None = None
    """Base model: a folder or hub id; none = the embedded one."""
    adapter: str | None = None
    """Adapter folder that plays all roles; none = the bare base."""
    prompts: str | None = None
    """bare or examples; none = what the adapter was trained under, examples without one. `training.sft` needs bare."""
    datasets: list[str] = field(default_factory=lambda: ["hotpotqa"])
    """Bundled sets whose train questions are asked; each needs its index (`jade index --dataset`)."""
    graph: str | None = None
    """Your own graph as module:name (a compiled graph, a recorded one, or a function returning one)."""
    data: str | None = None
    """Your own questions: a file with question and answers; every tenth one is held out, as `training.ppo` does."""
    score: str | None = None
    """Your own score as module:function (answer, golds) → number, for the log; none = token F1."""
    questions: int | None = 200
    """Questions of each set, drawn by the seed; none = all."""
    runs: int = 4
    """Executions of each question."""
    batch: int = 32
    """Questions of one ledger file: what a killed command loses at most."""
    in_flight: int = 64
    """Most executions at once."""
    temperature: float = 1.0
    """τ of sampling; `training.ppo` scores a replayed call at the one that it was sampled at."""
    decoding: str | None = None
    """free or constrained; none = the graph's default, free in JADE's. An untuned model needs constrained."""
    select: str = "role"
    """What a role sees: its own view, or everything (ablation)."""
    max_depth: int = 1
    """Deepest decomposition."""
    max_turns: int | None = 8
    """Budget of turns of one execution."""
    max_retrievals: int | None = 8
    """Budget of retrievals of one execution."""
    server: str | None = None
    """Address of a llama.cpp or vLLM server that runs `model`, which then is not loaded here; JADE_SERVER_KEY holds its
    key, if it wants one. Only vLLM takes an adapter while it runs."""
    workflow: str | None = None
    """Force a plan, such as "R,AG"."""
    top_k: int = 5
    """Passages a search."""
    seed: int = 0
    """Key of everything random."""
    dtype: str = "auto"
    """auto, bf16, fp16, fp32."""
    device: str = "auto"
    """auto, cpu, cuda."""
    threads: int | None = None
    """CPU threads."""

    def __post_init__(self) -> None:
        """Refuse impossible values by name."""
        for name in ("questions", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value}; must be at least 1")
        if self.prompts not in (None, "bare", "examples"):
            raise ConfigError(f"prompts={self.prompts!r}; allowed: bare, examples, none")
        if self.prompts is not None and self.adapter is not None:
            raise ConfigError("prompts is given beside adapter, which has its own prompt set; leave prompts out")
        self.sampling()

    def sampling(self) -> PPOConfig:
        """Return the same options as training reads them.

        Raises:
            ConfigError: An impossible value.
        """
        shared = {item.name for item in fields(PPOConfig)} & {item.name for item in fields(self)} - {"questions"}
        given = {name: getattr(self, name) for name in shared}
        return PPOConfig(**given, eval_every=0, estimator="tree_gae")  # on which nothing that is recorded depends


def load_speaker(config: CollectConfig) -> tuple[SharedModel | RemotePolicy, Prompts]:
    """Load the model, or reach the server that runs it, and load the adapter under the name "default".

    Raises:
        ConfigError, SetupError: It cannot be loaded, or the adapter belongs to another base or text.
        ServerError: The server does not answer, or refuses the adapter.
    """
    options = config.sampling()
    prompts = Prompts("bare") if config.prompts == "bare" else prompts_of(options)
    if config.server is not None:
        return _served(config, config.server, prompts), prompts
    shared = load_model(options, prompts)
    if config.adapter is not None:
        folder = Path(config.adapter).expanduser()
        info = read_adapter(folder, base_weights=shared.weights, text=shared.identity["text"])
        shared.add_adapter("default", folder)
        shared.adapter, shared.version = "default", str(info.version)
    return shared, prompts


def _served(config: CollectConfig, server: str, prompts: Prompts) -> RemotePolicy:
    from agents.remote import RemotePolicy
    from agents.remote_reach import reach, seat

    remote = reach(RemotePolicy, server, config.model, prompts_digest(prompts))
    if config.adapter is not None:
        folder = Path(config.adapter).expanduser()
        read_adapter(folder, text=remote.identity["text"])
        seat(remote, "default", folder)
    return remote


def collect_world(
    config: CollectConfig, world: World, shared: SharedModel | RemotePolicy
) -> Iterator[tuple[int, list[Trajectory]]]:
    """Record the questions of one world; yield how many are done and the runs of each batch.

    Raises:
        ConfigError: An impossible option.
        LedgerError: The disk is full, or every run of a batch failed; sealed files stay.
    """
    size = len(world.train)
    examples = questions_of(world.train, 0, min(config.questions or size, size), config.seed)
    graph = world.graph.with_recorder(adapters={"*": shared.adapter})
    options = run_options(config.sampling(), config.seed)
    for number, begin in enumerate(range(0, len(examples), config.batch)):
        part: Sequence[Example] = examples[begin : begin + config.batch]
        file = Path(config.output) / f"{world.name}-{number:06d}.jsonl"
        if not is_sealed(file):
            record(graph, shared, part, file, config, **options)
        yield begin + len(part), list(read_ledger(file))


def keep_options(config: CollectConfig, policy: str) -> None:
    """Write down what a ledger is recorded with, or refuse to add runs of other options to one.

    Raises:
        ConfigError: The folder holds runs that were recorded otherwise; the message names each difference.
    """
    folder = Path(config.output)
    file, fresh = folder / _OPTIONS, folder / f".{_OPTIONS}.new"
    now = {name: value for name, value in asdict(config).items() if name not in _FREE} | {"policy": policy}
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        fresh.write_text(json.dumps(now, indent=1), encoding="utf-8")
        fresh.replace(file)
    try:
        before = dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{file} is corrupt ({error}); give another output, or remove {folder}") from None
    changed = [f"{name}: {before.get(name)!r} → {value!r}" for name, value in now.items() if before.get(name) != value]
    if changed:
        raise ConfigError(
            f"{folder} holds runs recorded with other options ({'; '.join(changed)}); use them, or another output"
        )


def collect(config: CollectConfig, *, dry_run: bool = False) -> Path:
    """Record everything and return the ledger's folder.

    Raises:
        JadeError: As named in its message.
    """
    with nullcontext() if dry_run else sole_writer(config.output):
        return _collect(config, dry_run)


def _collect(config: CollectConfig, dry_run: bool) -> Path:
    shared, prompts = load_speaker(config)
    worlds = make_worlds(config.sampling(), shared, prompts)
    if dry_run:
        sizes = {world.name: min(config.questions or len(world.train), len(world.train)) for world in worlds}
        _log.info("%d runs of each question: %s", config.runs, sizes)
        return Path(config.output)
    keep_options(config, shared.identity["policy"])
    gold = Gold([example for world in worlds for example in world.train], load_score(config.score))
    for world in worlds:
        for done, runs in collect_world(config, world, shared):
            scores = [score for run in runs if run.outcome == "ok" and (score := gold(run)) is not None]
            mean = sum(scores) / len(scores) if scores else 0.0
            told = (world.name, done, len(runs), len(scores), mean)
            _log.info("%s: %d questions; last file: %d runs, %d valid, their mean score %.3f", *told)
    _log.info("recorded in %s; next: python -m training.sft --ledger %s …", config.output, config.output)
    return Path(config.output)


def main() -> int:
    """Run from the command line; a user's mistake is one line on standard error."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")

    def work() -> int:
        config, dry_run = read_config(CollectConfig, sys.argv[1:], "python -m training.collect")
        refuse_ranks("python -m training.collect")
        collect(config, dry_run=dry_run)
        return 0

    return run_command(work, "interrupted: sealed files stay; run the same command again to go on")


if __name__ == "__main__":
    sys.exit(main())
