"""All credit estimators on one recorded batch, side by side: does it matter who gets the credit?

    python -m training.credit runs/ppo/ledger
    python -m training.credit my-ledger --adapter runs/sft/adapter --answers gold.jsonl

Takes the options of `python -m training.ppo`. Per role: mean and variance of the unwhitened advantages; per pair of
estimators, in all and per role: how often their advantages have the same sign, and the cosine of the policy gradients
they give. A ledger in the folder of a PPO run is read with that run's options, adapter and critic (its newest segment,
unless a file or --adapter is named); elsewhere values are those of a fresh critic (the batch's mean), so that
differences come from the estimators alone.
"""

from __future__ import annotations

import logging
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
from omegaconf import OmegaConf
from torch import Tensor

from agents.errors import ConfigError
from evaluation.config import read_config, run_command
from graphs.ledger import is_sealed
from training.buffer import Floats, RolloutBuffer
from training.checkpoint import find_checkpoint, load_checkpoint
from training.interference import cosines, policy_gradient, role_rows
from training.policies import PolicyStore
from training.ppo_config import PPOConfig
from training.ppo_setup import load_model, make_gold, prompts_of
from training.restored import options_of, read_past
from training.rollout import Rollout, prepare, replay
from training.session import Session, begin
from training.update import fill, start_critic

ESTIMATORS = ("tree_gae", "terminal_gae", "broadcast", "loo")
PROGRAM = "python -m training.credit"
FLAGS = ("-h", "--help", "--dry-run")
"""Options without a value."""


@dataclass(frozen=True)
class Comparison:
    """What the estimators made of one batch."""

    roles: tuple[str, ...]
    advantages: Mapping[str, Floats]
    """Estimator → (N,) mean unwhitened advantage of each trained call."""
    role_ids: npt.NDArray[np.int64]
    """(N,) index into `roles`."""
    gradients: Mapping[str, Tensor]
    """Estimator → flattened policy gradient of the batch."""
    role_cosines: Mapping[str, Mapping[tuple[str, str], float]]
    """Role → pair of estimators → cosine of the gradients of the role's calls; none where one is zero."""

    def agreement(self, one: str, other: str, role: str | None = None) -> float:
        """Return the share of calls, of a role or of all, whose advantages have the same sign."""
        mine = slice(None) if role is None else self.role_ids == self.roles.index(role)
        return float((np.sign(self.advantages[one][mine]) == np.sign(self.advantages[other][mine])).mean())

    def cosine(self, one: str, other: str, role: str | None = None) -> float:
        """Return the cosine of two policy gradients, of a role or of the batch; NaN where one is zero."""
        if role is not None:
            return self.role_cosines[role].get((one, other), math.nan)
        return cosines(self.gradients).get((one, other), math.nan)

    def table(self) -> str:
        """Return the comparison as Markdown."""
        names = list(self.advantages)
        lines = ["| role | calls | " + " | ".join(f"{name}: mean, variance" for name in names) + " |"]
        lines.append("|---" * (len(names) + 2) + "|")
        spoke = [role for index, role in enumerate(self.roles) if (self.role_ids == index).any()]
        for role in spoke:
            mine = self.role_ids == self.roles.index(role)
            cells = [f"{values[mine].mean():+.4f}, {values[mine].var():.4f}" for values in self.advantages.values()]
            lines.append(f"| {role} | {int(mine.sum())} | " + " | ".join(cells) + " |")
        lines += ["", "Same sign, gradient cosine:", ""]
        lines += ["| pair | all | " + " | ".join(spoke) + " |", "|---" * (len(spoke) + 2) + "|"]
        for one, other in combinations(names, 2):
            pairs = [f"{self.agreement(one, other, role):.2f}, {self.cosine(one, other, role):+.3f}" for role in
                     (None, *spoke)]  # fmt: skip
            lines.append(f"| {one}, {other} | " + " | ".join(pairs) + " |")
        return "\n".join(lines)


def compare(session: Session, rollout: Rollout) -> Comparison:
    """Apply every estimator to a prepared batch (with values per token) and measure what it gives.

    `loo` is left out where no question has two runs.
    """
    questions = [run.question_id or run.question for run in rollout.buffer.trajectories]
    names = [name for name in ESTIMATORS if name != "loo" or len(set(questions)) < len(questions)]
    advantages: dict[str, Floats] = {}
    filled: dict[str, RolloutBuffer] = {}
    trained = rollout.buffer.trained
    for name in names:
        config = replace(session.config, estimator=name, runs=max(2, session.config.runs))
        filled[name], plain, _ = fill(rollout.buffer, rollout.scored, rollout.team, config)
        assert plain.advantages is not None
        means = np.array([part.mean() if len(part) else 0.0 for part in plain.advantages], dtype=np.float32)
        advantages[name] = means[trained]
    totals: dict[str, Tensor] = {}
    by_role = {}
    for role, rows in role_rows(rollout.buffer, None, ()).items():
        mine = {name: policy_gradient(session.players, filled[name], rows, session.config) for name in names}
        by_role[role] = cosines(mine)
        totals = {name: totals[name] + mine[name] if totals else mine[name] for name in names}
    return Comparison(rollout.buffer.roles, advantages, rollout.buffer.role_ids[trained], totals, by_role)


def report(config: PPOConfig, run: Path | None = None) -> str:
    """Return the table for one batch of a ledger.

    Args:
        config: Names the ledger, and how to read it.
        run: Folder of the PPO run whose trained adapter, critic and older policies are used; None = a fresh critic.

    Raises:
        ConfigError: No ledger is given, or none of its runs can be used.
        LedgerError: No ledger at the path.
    """
    if config.ledger is None:
        raise ConfigError("no ledger is given; name a ledger file or folder: python -m training.credit LEDGER")
    prompts = prompts_of(config)
    shared = load_model(config, prompts)
    with tempfile.TemporaryDirectory() as scratch:
        # versions are only a matter of what may be learned from; nothing is learned here
        own = replace(config, output=scratch, estimator="broadcast", max_versions=10**6, max_drift=1e6)
        session = begin(own, shared, [], make_gold(config, []), prompts.style)
        known = run is not None and _take_over(session, run)
        runs = next(replay(Path(config.ledger).expanduser(), config.questions * config.runs), [])
        if not runs:
            raise ConfigError(f"ledger {config.ledger} holds no runs")
        rollout = prepare(runs, session.players, session.store, session.gold, own, version=session.state.version)
        if not known:
            start_critic(session.players, rollout.buffer, rollout.team, rollout.scored)
        told = "of the run's critic" if known else "of a fresh critic, the batch's mean"
        head = f"{len(rollout.buffer.trajectories)} of {len(runs)} runs of {config.ledger}; values {told}\n\n"
        return head + compare(session, rollout).table()


def _take_over(session: Session, run: Path) -> bool:
    """Put a run's trained adapter, policies and critic in place; return whether that critic has learned values."""
    past = read_past(run)
    start = session.players.start
    session.store = PolicyStore(run / "policies", past.config.keep_policies)
    if start is not None:
        session.store.known_as(past.state.start_policy, start)
    session.state.version = load_checkpoint(past.folder, session.players, session.optimiser).version
    return past.state.critic_started and past.config.estimator != "loo"


def read_arguments(arguments: Sequence[str]) -> tuple[PPOConfig, Path | None]:
    """Read the command line; the ledger may stand alone, and a ledger of a PPO run brings that run's options along.

    Returns:
        The configuration, and the folder of the PPO run that the ledger belongs to, if any.

    Raises:
        ConfigError: As `evaluation.config.read_config`, or several ledgers.
    """
    options, ledgers = _split(arguments)
    if len(ledgers) > 1:
        raise ConfigError(f"{len(ledgers)} ledgers are given ({', '.join(ledgers)}); give one file or folder")
    given = [*options, *(["--ledger", ledgers[0]] if ledgers else [])]
    config, _ = read_config(PPOConfig, given, PROGRAM)
    run = None if config.ledger is None else _run_of(Path(config.ledger).expanduser())
    if run is None or config.adapter is not None:
        return config, None
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        base = options_of(read_past(run).state)
        base["answers"] = base.get("answers") or base.get("data")
        OmegaConf.save({**base, "ledger": config.ledger}, file.name)
        config, _ = read_config(PPOConfig, ["--config", file.name, *given], PROGRAM)
    return replace(config, ledger=str(_newest(Path(str(config.ledger)).expanduser()))), run


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Tell options with their values from words that stand alone."""
    options: list[str] = []
    alone: list[str] = []
    queue = list(arguments)
    while queue:
        word = queue.pop(0)
        if not word.startswith("-"):
            alone.append(word)
            continue
        options.append(word)
        if word not in FLAGS and "=" not in word and queue:
            options.append(queue.pop(0))
    return options, alone


def _run_of(ledger: Path) -> Path | None:
    """Return the folder of the PPO run that a ledger file or folder belongs to."""
    near = (ledger.parent, ledger.parent.parent)
    return next((folder for folder in near if find_checkpoint(folder) is not None), None)


def _newest(ledger: Path) -> Path:
    """Return the newest segment of a PPO run's ledger folder, which its last policies made; a file as it is."""
    segments = [file for file in sorted(ledger.glob("iteration-*.jsonl")) if is_sealed(file)]
    return segments[-1] if segments else ledger


def main() -> int:
    """Print the report; a user's mistake is one line on standard error."""
    logging.basicConfig(level=logging.INFO)

    def work() -> int:
        sys.stdout.write(report(*read_arguments(sys.argv[1:])) + "\n")
        return 0

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
