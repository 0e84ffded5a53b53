"""What became of a replayed ledger: how far it was read, what was learned from and what was left out, and why.

A batch of which nothing can be used is left out and counted, and the ledger goes on behind it; only a ledger of which
nothing at all could be learned from is refused. The counts are part of the checkpoint, so that a resumed run goes on
with the same batch and says the same at its end.
"""

from __future__ import annotations

from collections.abc import Mapping

from training.checkpoint import State
from training.dropped import NothingLeftError, counted, remedy

ROLLED_BACK = "rolled-back"
"""Reason of runs that were learned from, until an alarm undid it."""


def position(state: State) -> int:
    """Return how many batches were read; every iteration reads one at least, also in checkpoints that do not say."""
    return max(state.read, state.iteration)


def note_batch(state: State, learned: int, left_out: Mapping[str, int]) -> None:
    """Count one more batch that was read.

    Args:
        state: Changed.
        learned: Its runs that are learned from.
        left_out: Reason → its runs that are not.
    """
    state.read = position(state) + 1
    state.learned += learned
    for reason, count in left_out.items():
        state.left_out[reason] = state.left_out.get(reason, 0) + count


def note_rollback(state: State, lost: State) -> None:
    """Go on behind what was read before a rollback, and count what it undid as left out.

    Args:
        state: As restored; changed.
        lost: As it was before.
    """
    state.read, state.left_out = lost.read, dict(lost.left_out)
    if lost.learned > state.learned:
        undone = lost.learned - state.learned
        state.left_out[ROLLED_BACK] = state.left_out.get(ROLLED_BACK, 0) + undone


def summary(state: State, ledger: str) -> str:
    """Return what to say when a ledger has been replayed: how much was learned from, how much left out, and why.

    Args:
        state: Where the run stands.
        ledger: Its name, for the message.
    """
    size = state.learned + sum(state.left_out.values())
    said = f"learned from {state.learned} of the {size} runs that were read of the ledger {ledger}"
    if not state.left_out:
        return said
    return f"{said}; left out: {counted(state.left_out)}; {remedy(state.left_out)}"


def check_learned(state: State, ledger: str) -> None:
    """Refuse a ledger that has been read to its end without anything to learn from.

    Raises:
        NothingLeftError: Nothing was learned from it; the message counts why.
    """
    if state.learned == 0 and (state.left_out or position(state) == 0):
        raise NothingLeftError(state.left_out, ledger)
