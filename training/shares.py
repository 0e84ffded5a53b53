"""One iteration's executions on many ranks: each records its share of the questions in a segment of its own.

A share is every `size`-th question with all of its runs, under the run ids and seeds of the whole, so that all shares
together are what one process would have recorded. Segments that were recorded by another number of ranks serve as well
if they are whole; if not, the executions are recorded again and the old segments are removed, so that no run stands in
the ledger twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from agents.errors import LedgerError
from evaluation.ranks import Ranks
from graphs.ledger import LedgerWriter, is_sealed, read_ledger
from graphs.trajectory import FAILED, Trajectory

_SHARE = re.compile(r"\.rank\d+of(\d+)\.jsonl$")


def segment_file(output: Path, iteration: int, ranks: Ranks | None = None) -> Path:
    """Return the ledger segment of an iteration, or of a rank's share of it."""
    share = "" if ranks is None else ranks.suffix
    return output / "ledger" / f"iteration-{iteration:06d}{share}.jsonl"


def segments(output: Path, iteration: int) -> dict[int, list[Path]]:
    """Return the segments of an iteration that stand in the ledger: number of ranks that recorded → its files."""
    whole = segment_file(output, iteration)
    found = {1: [whole]} if whole.is_file() else {}
    for file in sorted(whole.parent.glob(f"{whole.stem}.rank*of*.jsonl")):
        share = _SHARE.search(file.name)
        if share is not None:
            found.setdefault(int(share[1]), []).append(file)
    return found


def complete(output: Path, iteration: int) -> list[Path]:
    """Return sealed segments that together hold an iteration, whoever recorded them; none where there are none."""
    for size, files in sorted(segments(output, iteration).items()):
        if len(files) == size and all(is_sealed(file) for file in files):
            return files
    return []


def drop_others(output: Path, iteration: int, size: int) -> None:
    """Remove an iteration's segments that another number of ranks began and did not finish."""
    for other, files in segments(output, iteration).items():
        for file in files if other != size else ():
            file.unlink(missing_ok=True)


def collect_share(output: Path, iteration: int, ranks: Ranks, record: Callable[[Path], None]) -> list[Trajectory]:
    """Record this rank's share unless that is done, and return the runs of all shares.

    Args:
        output: Folder of the run, which all ranks see.
        iteration: Which.
        ranks: Two or more.
        record: Records the share in the file it is given, and leaves it unsealed.

    Raises:
        LedgerError: The segment cannot be written or sealed, or the runs of all shares failed.
        SetupError: Another rank is gone.
    """
    own = segment_file(output, iteration, ranks)
    if not is_sealed(own):
        record(own)
    runs = everyones(list(read_ledger(own)) if own.is_file() else [], ranks)
    if all(run.outcome in FAILED for run in runs):
        raise LedgerError(
            f"all {len(runs)} runs failed, one with {runs[0].error if runs else 'no question'}; `jade show --ledger "
            f"{own.parent}` shows the last one; mend that and run the same command again: nothing else was changed"
        )
    if not is_sealed(own):
        LedgerWriter(own.parent, own.stem).seal()
    return runs


def everyones(runs: Sequence[Trajectory], ranks: Ranks) -> list[Trajectory]:
    """Return the runs of all ranks, one rank after the other."""
    if ranks.size == 1:
        return list(runs)
    return [Trajectory.from_json(item) for part in ranks.gather([run.to_json() for run in runs]) for item in part]
