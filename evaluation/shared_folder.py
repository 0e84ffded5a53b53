"""Is a job's output folder one folder, or has each machine its own of that name?"""

from __future__ import annotations

import secrets
from pathlib import Path

from agents.errors import ConfigError
from evaluation.ranks import Ranks


def check_folder(output: Path, ranks: Ranks) -> None:
    """Check that all ranks see the same folder: checkpoints, policies and segments are written once and read by all.

    Raises:
        ConfigError: They do not.
    """
    if ranks.size == 1:
        return
    sign = output / f".shared-{ranks.tell(secrets.token_hex(8))}"

    def leave() -> None:
        output.mkdir(parents=True, exist_ok=True)
        sign.touch()

    ranks.first(leave)
    blind = [str(rank) for rank, sees in enumerate(ranks.gather(sign.is_file())) if not sees]
    ranks.first(lambda: sign.unlink(missing_ok=True))
    if blind:
        raise ConfigError(
            f"output {output} is another folder for rank {', '.join(blind)} than for rank 0; give one on a file system "
            "that all machines share"
        )
