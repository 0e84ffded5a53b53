"""Jobs of several real processes that speak gloo on loopback, forked from a warm server as `tests.ppo_child` does."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.ports import free_port
from tests.ppo_child import Untracked, arm, child

PATIENCE = 240.0
"""Seconds after which a process that should have ended counts as stuck."""


def job(work: Callable[..., None], size: int, log: Path, *arguments: Any) -> list[int]:
    """Run `work(*arguments)` as each of `size` ranks to their end; return their exit statuses in rank order."""
    port = free_port()
    processes = [child(be_rank, rank, size, port, str(log), work, arguments) for rank in range(size)]
    statuses = []
    for process in processes:
        process.join(PATIENCE)
        if process.exitcode is None:
            process.kill()
        statuses.append(-999 if process.exitcode is None else process.exitcode)
    return statuses


def be_rank(rank: int, size: int, port: int, log: str, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Take a rank's place, as a launcher would have arranged it."""
    from evaluation.config import run_command

    stream = os.open(f"{log}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1", "JADE_RANK_MINUTES": "2"})
    os.environ["JADE_HOME"] = f"{log}.home"

    def inside() -> int:
        work(*arguments)
        return 0

    sys.exit(run_command(inside))


def train(folder: str, start: str, changes: dict[str, Any], own: dict[int, dict[str, Any]]) -> None:
    """Begin or resume PPO on the toy model.

    Args:
        folder: Output.
        start: The start adapter.
        changes: Options.
        own: What differs by rank: "death" (see `tests.ppo_child.arm`), "stop" after so many iterations, options.
    """
    from evaluation.ranks import joined
    from tests.ppo_toy import toy_session
    from training.ppo import run

    with joined("cpu") as ranks:
        mine = dict(own.get(ranks.rank, {}))
        death, last = mine.pop("death", None), mine.pop("stop", None)
        session = toy_session(Path(folder), start=Path(start), ranks=ranks, **{**changes, **mine})
        if death is not None:
            arm(death)
        run(session, Untracked(), lambda: last is not None and session.state.iteration >= last)  # type: ignore[arg-type]


def warm_up(folder: str) -> None:
    """Take the supervised steps of `tests.test_sft`'s rows, and let rank 0 write the adapter."""
    from safetensors.torch import save_file

    from evaluation.ranks import joined
    from tests.test_sft import Silent, rows
    from tests.toy_model import toy_model
    from training.adapter import TRAINED, LoraShape, create_adapter, first_adapted_layer
    from training.learner import Learner
    from training.sft import agree
    from training.sft_config import SFTConfig
    from training.supervised import Warmup, supervised_buffer, supervised_calls

    with joined("cpu") as ranks:
        shared = toy_model()
        create_adapter(shared, LoraShape(rank=8, alpha=16, first_layer=1), seed=0)
        learner = Learner(shared, first_adapted_layer(shared, [TRAINED]))
        config = SFTConfig(lr=2e-2, epochs=2, rows_per_step=16, warmup=2, token_budget=512)
        buffer = supervised_buffer(supervised_calls(rows(), shared), {})
        agree(config, shared, buffer, ranks)
        Warmup(config, learner, buffer, ranks).run(Silent())  # type: ignore[arg-type]
        if ranks.leads:
            weights = {name: item.detach().clone() for name, item in shared.adapter_set.parameters(TRAINED).items()}
            save_file(weights, Path(folder) / f"{ranks.size}.safetensors")
