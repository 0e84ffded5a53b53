"""Tokens per second and memory of one update, side by side with TRL: `python -m benchmarks.updates --help`.

JADE (critic: head and adapter), TRL's PPO and TRL's GRPO make the same number of passes over the same number of rows
with the same adapter shape, each in a process of its own, one after the other and in two rounds. Generation and
rewards are not counted. Counted are: reference (and old) log-probabilities, values, credit, and the epochs of the
update. TRL's PPO gets its old log-probabilities free from generation; GRPO trains no values. TRL takes the whole batch
in one pass, JADE that and half of it (`token_budget`; the gradients are the same).

    python -m venv bench-ppo && bench-ppo/bin/pip install torch==2.13.0 trl==1.12.0 peft
    python -m venv bench-grpo && bench-grpo/bin/pip install torch==2.13.0 trl==1.16.0 peft
    python -m benchmarks.updates --trl-ppo bench-ppo/bin/python --trl-grpo bench-grpo/bin/python
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import numpy as np
import torch

from agents.call import Call
from agents.model import SharedModel
from graphs.trajectory import Trajectory
from training.buffer import RolloutBuffer
from training.players import make_players
from training.ppo_config import PPOConfig
from training.reward import TrajectoryReward
from training.scoring import score_buffer
from training.update import Optimiser, fill, start_critic

SIZES = ("batch", "prompt", "response", "epochs", "updates", "threads")


def rows(given: argparse.Namespace) -> RolloutBuffer:
    """Return B runs of one call each, random tokens, as in `trl_updates.data`; every prompt is another one."""
    generator = np.random.default_rng(0)
    runs = []
    for number in range(given.batch):
        prompt, response = (tuple(generator.integers(100, 40_000, n).tolist()) for n in (given.prompt, given.response))
        call = Call(
            id="c", role="answer_generator", path="c", parents=(), prompt_ids=prompt, response_ids=response,
            logprobs=(-8.0,) * given.response, mask=(1,) * given.response, temperature=1.0, greedy=False, text="",
            value=None, format_error=None, truncated=False,
        )  # fmt: skip
        runs.append(Trajectory(run=str(number), question="", answer="", outcome="ok", calls=(call,)))
    return RolloutBuffer.of(runs)


def ours(given: argparse.Namespace, critic: str) -> dict[str, object]:
    """Return seconds of each update, peak memory in GB, and trained parameters of JADE."""
    shared = SharedModel.load(None, dtype="fp32", threads=given.threads)
    shape = {"epochs": given.epochs, "minibatches": 1, "token_budget": given.budget}
    config = PPOConfig(critic=critic, estimator="tree_gae", target_kl=None, **shape)
    players, _ = make_players(shared, config)
    optimiser, generator, seconds = Optimiser(players, config), np.random.default_rng(1), []
    buffer = rows(given)
    for number in range(given.updates):
        began = time.perf_counter()
        scored = score_buffer(players, buffer, config.token_budget)
        scores = generator.random(len(buffer))
        team = [TrajectoryReward(float(score), 0.0, 0.0, float(score), {"c": 0.0}) for score in scores]
        if number == 0:
            start_critic(players, buffer, team, scored)
        filled, _, _ = fill(buffer, scored, team, config)
        optimiser.update(filled, number, 1.0)
        seconds.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"seconds": seconds, "peak": peak, "trained": sum(p.numel() for p in optimiser.policy)}


def measured(command: list[str]) -> dict[str, object]:
    """Run a worker and return what it printed last.

    Raises:
        RuntimeError: It failed; the message holds the end of what it said.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:3])} failed:\n{done.stderr[-2000:]}")
    found: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def commands(given: argparse.Namespace) -> dict[str, list[str]]:
    """Return name → command of each contestant that can run here."""
    from agents.embedded import embedded_model

    sizes = [part for name in SIZES for part in (f"--{name}", str(getattr(given, name)))]
    whole = given.batch * (given.prompt + given.response)
    found = {}
    for kind, budget in product(("head", "adapter"), given.budgets or (whole, whole // 2)):
        worker = [sys.executable, "-m", "benchmarks.updates", "--worker", kind, "--budget", str(budget), *sizes]
        found[f"JADE, critic: {kind}, {budget} tokens a pass"] = worker
    script = str(Path(__file__).with_name("trl_updates.py"))
    for which, python in (("ppo", given.trl_ppo), ("grpo", given.trl_grpo)):
        if python is not None:
            found[f"TRL {which.upper()}"] = [python, script, which, "--model", str(embedded_model()), *sizes]
    return found


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {"batch": 8, "prompt": 448, "response": 64, "epochs": 2, "updates": 3, "threads": 2}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--trl-ppo", help="python of an environment with trl 1.12.0")
    parser.add_argument("--trl-grpo", help="python of an environment with the newest trl")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--budgets", type=int, nargs="+", help="JADE's token_budget; default: the batch, and half of it"
    )
    parser.add_argument("--budget", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--worker", choices=("head", "adapter"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        torch.set_num_threads(given.threads)
        print(json.dumps(ours(given, given.worker)))
        return
    every: dict[str, list[dict[str, object]]] = {}
    for _ in range(given.rounds):
        for name, command in commands(given).items():
            every.setdefault(name, []).append(measured(command))
    tokens = given.batch * (given.prompt + given.response)
    print(f"batch {given.batch} x {given.prompt + given.response} tokens, {given.epochs} epochs, fp32\n")
    print("| | tokens/s (best of all updates) | tokens/s (median) | peak memory, GB | trained parameters |")
    print("|---|---|---|---|---|")
    for name, found in every.items():
        seconds = [float(s) for one in found for s in one["seconds"]]  # type: ignore[attr-defined]
        peak = max(float(str(one["peak"])) for one in found)
        best, median = tokens / min(seconds), tokens / float(np.median(seconds))
        print(f"| {name} | {best:.0f} | {median:.0f} | {peak:.2f} | {found[0]['trained']} |")


if __name__ == "__main__":
    main()
