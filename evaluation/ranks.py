"""The processes of one job, called ranks: who I am, what is mine, and how all come to the same numbers.

`accelerate launch -m training.ppo …` (or torchrun) starts the same command several times. In training every rank has
the whole batch and adapter, does its share of the work, and what must be one number is summed over all; in an
evaluation it asks its share. A process that was started alone speaks to nobody and imports nothing for it. Tensors
travel as they are and everything else as JSON: nothing is pickled.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from agents.errors import ConfigError, SetupError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
R = TypeVar("R")
PATIENCE = "JADE_RANK_MINUTES"
"""Environment variable: minutes that a rank waits for the others before the job ends; 60 without it."""
SHARDING = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM")
"""What a launcher sets where a model is to be split over the ranks, which adapters need not and this trainer cannot."""
SETTLED = 2.0
"""Seconds between the last word of a killed process and its end in the process table, at most."""
MACHINES = "processors of another kind round differently: run the job on machines of one kind"
"""What to do when ranks that took the same steps have different weights."""


@dataclass(eq=False)
class Ranks:
    """The ranks of a job as one of them sees them; by default the only one there is."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    """Where tensors must lie to be sent."""
    places: Sequence[tuple[str, int]] = ()
    """Host and process id of each rank, for messages."""
    said: int = 0
    """How often this rank has spoken to the others: all ranks speak in the same order."""

    @property
    def leads(self) -> bool:
        """Return whether this is rank 0, which tracks and writes."""
        return self.rank == 0

    @property
    def suffix(self) -> str:
        """Return how names of this rank's own files end, such as ".rank0of2"; alone they have no such ending."""
        return "" if self.size == 1 else f".rank{self.rank}of{self.size}"

    def mine(self, items: Iterable[T]) -> Iterator[T]:
        """Yield this rank's share: every `size`-th item, from the `rank`-th on."""
        return islice(items, self.rank, None, self.size)

    def sum(self, tensor: Tensor) -> Tensor:
        """Return a tensor added up over all ranks, where the given one lies; the same bits on every rank.

        Raises:
            SetupError: Another rank is gone or silent; so do all methods below.
        """
        if self.size == 1:
            return tensor
        import torch

        whole = tensor.detach().to(self.device, copy=True).contiguous()
        with self._together():
            torch.distributed.all_reduce(whole)
        return whole.to(tensor.device)

    def gather(self, item: Any) -> list[Any]:
        """Return every rank's item, in rank order.

        Args:
            item: Plain JSON, NaN included; tuples come back as lists.
        """
        if self.size == 1:
            return [item]
        import torch

        own = torch.frombuffer(bytearray(_encoded(item)), dtype=torch.uint8).to(self.device)
        with self._together():
            sizes = [torch.zeros(1, dtype=torch.int64, device=self.device) for _ in range(self.size)]
            torch.distributed.all_gather(sizes, torch.tensor([len(own)], device=self.device))
            lengths = [int(length) for length in sizes]
            padded = torch.zeros(max(lengths), dtype=torch.uint8, device=self.device)
            padded[: len(own)] = own
            parts = [torch.empty_like(padded) for _ in range(self.size)]
            torch.distributed.all_gather(parts, padded)
        return [json.loads(bytes(part[:length].cpu().numpy())) for part, length in zip(parts, lengths, strict=True)]

    def tell(self, item: T) -> T:
        """Return rank 0's item on every rank; plain JSON."""
        if self.size == 1:
            return item
        found: T = self.gather(item if self.leads else None)[0]
        return found

    def any(self, wish: bool) -> bool:
        """Return whether any rank wishes it."""
        return any(self.gather(wish))

    def first(self, work: Callable[[], T]) -> T:
        """Let rank 0 alone do something, and return its result, plain JSON, on every rank once it is done.

        Raises:
            JadeError: What rank 0 raised, on every rank.
        """
        if self.size == 1:
            return work()
        told: dict[str, Any] = {}
        failure: Exception | None = None
        if self.leads:
            try:
                told = {"found": work()}
            except Exception as error:
                failure, told = error, {"error": f"{type(error).__name__}: {error}"}
        told = self.tell(told)
        if failure is not None:
            raise failure
        if "error" in told:
            raise SetupError(f"rank 0 could not go on ({told['error']})")
        found: T = told["found"]
        return found

    def spread(self, items: Sequence[T], work: Callable[[Sequence[T]], Iterable[R]]) -> list[R]:
        """Share some work out over the ranks.

        Args:
            items: The same on every rank.
            work: Items → one result each, plain JSON where there are several ranks.

        Returns:
            The result of every item, in order.
        """
        if self.size == 1:
            return list(work(items))
        mine = list(self.mine(items))
        found: list[Any] = [None] * len(items)
        for rank, part in enumerate(self.gather(list(work(mine)) if mine else [])):
            found[rank :: self.size] = part
        return found

    def alike(self, what: str, mine: Any, remedy: str) -> None:
        """Check that something is the same on every rank.

        Args:
            what: Its name, in the plural.
            mine: This rank's; plain JSON.
            remedy: What to do where it is not.

        Raises:
            ConfigError: It is not; the message names the ranks that differ from rank 0.
        """
        everyone = self.gather(mine)
        others = [str(rank) for rank, item in enumerate(everyone) if _encoded(item) != _encoded(everyone[0])]
        if others:
            raise ConfigError(f"{what} of rank {', '.join(others)} differ from rank 0's; {remedy}")

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Name who is missing when the ranks cannot speak to each other."""
        self.said += 1
        try:
            _board().set(f"jade/{self.rank}", str(self.said))
            yield
        except RuntimeError as error:
            raise SetupError(
                f"rank {self.rank} of {self.size} waits in vain: {self._missing()} "
                f"({' '.join(str(error).split())[:160]}). What was finished stands: run the same command again, with "
                f"any number of processes; {PATIENCE} sets how long ranks wait for each other"
            ) from error

    def _missing(self) -> str:
        """Say which ranks have ended on this machine, else which have not come as far as this one."""
        here = [(rank, pid) for rank, (host, pid) in enumerate(self.places) if host == socket.gethostname()]
        until = time.monotonic() + SETTLED
        while not (gone := [rank for rank, pid in here if _ended(pid)]) and time.monotonic() < until:
            time.sleep(0.05)
        if gone:
            return f"{self.named(gone)} has ended"
        try:
            steps = {rank: int(_board().get(f"jade/{rank}")) for rank in range(self.size) if rank != self.rank}
        except RuntimeError:
            return f"{self.named([0])} and the launcher do not answer"
        late = [rank for rank, step in steps.items() if step < self.said]
        return f"{self.named(late or list(steps))} does not answer"

    def named(self, ranks: Sequence[int]) -> str:
        """Name ranks with their processes, for messages."""
        return ", ".join(
            f"rank {rank} (process {self.places[rank][1]} on {self.places[rank][0]})" if self.places else f"rank {rank}"
            for rank in ranks
        )


ALONE = Ranks()
"""A process that was started alone."""


@contextmanager
def joined(device: str = "auto") -> Iterator[Ranks]:
    """Join the ranks that a launcher started beside this process, for as long as the block lasts.

    Args:
        device: As the command was given it; "cpu" joins by gloo even where there are GPUs.

    Yields:
        The ranks; `ALONE` where no launcher said otherwise.

    Raises:
        ConfigError: The launcher asks for a sharded model, or its variables are not numbers.
        SetupError: The other ranks do not come.
    """
    if _number("WORLD_SIZE", 1) <= 1:
        yield ALONE
        return
    asked = [name for name in SHARDING if os.environ.get(name, "false").lower() in ("1", "true")]
    if asked:
        raise ConfigError(
            f"{asked[0]} asks for a model split over the ranks, and what learns here is an adapter, whole on every "
            "rank; launch with configs/accelerate-cpu.yaml or configs/accelerate-gpu.yaml"
        )
    if "RANK" not in os.environ:
        raise ConfigError(
            "the environment has WORLD_SIZE and no RANK; start the command by `accelerate launch` or torchrun, or "
            "remove WORLD_SIZE"
        )
    yield _join(device)
    from torch.distributed import destroy_process_group

    destroy_process_group()  # after a failure there may be nobody left to take leave of


def refuse_ranks(command: str) -> None:
    """Refuse to be one of many processes, for a command that would do all of its work in each.

    Raises:
        ConfigError: A launcher started several.
    """
    if _number("WORLD_SIZE", 1) > 1:
        raise ConfigError(f"{command} runs in one process, and a launcher started several; start it without one")


def _join(device: str) -> Ranks:
    import torch
    from accelerate import PartialState

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun has it; `threads` gives a rank more
    wait = timedelta(minutes=_number(PATIENCE, 60))
    try:
        state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available(), timeout=wait)
    except (RuntimeError, ValueError) as error:
        raise SetupError(f"the ranks cannot find each other: {' '.join(str(error).split())[:300]}") from error
    ranks = Ranks(state.process_index, state.num_processes, str(state.device))
    ranks.places = [(host, pid) for host, pid in ranks.gather([socket.gethostname(), os.getpid()])]
    return ranks


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"{name}={text!r} in the environment; must be a whole number of at least 1")
    return int(text)


def _board() -> Any:
    """Return the launcher's key-value store, which tells how far each rank has come."""
    from torch.distributed import distributed_c10d

    return distributed_c10d._get_default_store()


def _ended(pid: int) -> bool:
    """Return whether a process of this machine is gone, or dead and not yet buried."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return True
    return state in "ZX"


def _encoded(item: Any) -> bytes:
    return json.dumps(item, separators=(",", ":"), default=_plain).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON, so ranks cannot exchange it")
