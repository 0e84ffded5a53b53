"""Faults, counted: `python -m faults [NAME ...]` does them to a toy job and prints a table of what came of it.

Each name is a part that is killed, stalled, filled up or cut off while questions are collected and trained on. The
table says of each fault how often it was done, how the questions ended, what was lost or torn (sealed ledger lines,
checkpoints, tracked numbers), and whether training that was killed and resumed left the same bytes. The exit status is
1 if any promise was broken.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from agents.errors import ConfigError
from evaluation.config import run_command

FAULTS = ("process", "model", "chroma", "tracking", "disk", "network")
"""Modules of this folder, each with `run(plan)`."""
_log = logging.getLogger("jade.faults")


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Return names and options.

    Raises:
        ConfigError: An unknown name, or numbers that cannot be used.
    """
    parser = argparse.ArgumentParser(
        prog="python -m faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(FAULTS)} (default: all)")
    parser.add_argument("--kills", type=int, default=200, help="of the process; the disk fails an eighth as often")
    parser.add_argument("--questions", type=int, default=200, help="asked under each fault (default 200)")
    parser.add_argument("--batch", type=int, default=8, help="questions of one iteration (default 8)")
    parser.add_argument(
        "--steps", type=int, default=150, help="of the toy model's warm start; 0 = random (default 150)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all random moments")
    parser.add_argument("--output", type=Path, help="Markdown file that the table is written to as well")
    parser.add_argument("--keep", type=Path, help="folder for everything that is made; it must be empty or absent")
    given = parser.parse_args(arguments)
    unknown = [name for name in given.names if name not in FAULTS]
    if unknown:
        raise ConfigError(f"no fault {', '.join(unknown)}; allowed: {', '.join(FAULTS)}")
    for name, least in (("kills", 1), ("questions", 1), ("batch", 1), ("steps", 0)):
        if getattr(given, name) < least:
            raise ConfigError(f"--{name} {getattr(given, name)}; give {least} or more")
    if given.questions % given.batch or given.questions > 300:
        raise ConfigError(
            f"--questions {given.questions} with --batch {given.batch}; give a multiple of the batch, at most 300"
        )
    if given.keep is not None and given.keep.exists() and any(given.keep.iterdir()):
        raise ConfigError(f"--keep {given.keep} is not empty; name another folder")
    return given


def conduct(given: argparse.Namespace, folder: Path) -> int:
    """Warm the toy model up, do all faults, and print the table; return 1 if a promise was broken."""
    from faults.lives import lived
    from faults.rows import Plan, Row, table
    from faults.toy import warm

    model = folder / "start"
    ended = lived(warm, str(model), given.steps, 64)
    if ended.status != 0:
        raise RuntimeError(f"the toy model could not be made (status {ended.status})")
    _log.info("the toy model is warm after %.0f s", ended.seconds)
    rows: list[Row] = []
    broken: list[str] = []
    for name in given.names or FAULTS:
        plan = Plan(folder / name, str(model / "model"), given.questions, given.batch, given.kills, given.seed)
        plan.folder.mkdir(parents=True)
        try:
            for row in import_module(f"faults.{name}").run(plan):
                _log.info("%s", " | ".join(row.cells()))
                rows.append(row)
                if given.output is not None:
                    given.output.write_text(f"{table(rows)}\n\n{machine()}\n", encoding="utf-8")
        except Exception:  # the other faults are counted all the same
            hint = "" if given.keep else "; --keep FOLDER keeps the logs"
            _log.exception("the fault %s could not be done%s", name, hint)
            broken.append(name)
    sys.stdout.write(f"{table(rows)}\n\n{machine()}\n")
    return 0 if not broken and all(row.held for row in rows) else 1


def machine() -> str:
    """Return on what this ran."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{platform.system()} {platform.machine()}, {cores} core(s), Python {platform.python_version()}."


@contextmanager
def workplace(keep: Path | None) -> Iterator[Path]:
    """Yield the folder for everything that is made: the one to keep, or one that is gone afterwards, come what may."""
    if keep is not None:
        yield keep.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="jade-faults-", ignore_cleanup_errors=True) as folder:
        try:
            yield Path(folder).resolve()
        finally:
            for process in multiprocessing.active_children():  # a job would write on into what is removed
                process.kill()
                process.join()


def main() -> int:
    """Run from the command line."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for every request to Chroma

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that servers are ended too

    def work() -> int:
        given = read_arguments(sys.argv[1:])
        with workplace(given.keep) as folder:
            os.environ["JADE_HOME"] = str(folder / "home")  # what servers and indexes leave, too
            return conduct(given, folder)

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
