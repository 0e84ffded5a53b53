"""Coverage-guided fuzzing by name: `python -m fuzz TARGET [--runs N] [--seconds S]`; `all` is a table of all."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fuzz.target import load_targets

ALL, LIST = "all", "list"


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    found = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    found.add_argument("target", nargs="?", default=LIST, help=f"a target, {ALL!r}, or {LIST!r} (default)")
    found.add_argument("--runs", type=int, help="inputs; default: the target's own number")
    found.add_argument("--seconds", type=int, help="stop after so many, whatever the inputs")
    found.add_argument("--corpus", type=Path, help="folder that keeps what reached new code; default: none is kept")
    found.add_argument("--crashes", type=Path, default=Path("crashes"), help="folder for inputs that break a promise")
    found.add_argument("--seed", type=int, default=1, help="of the mutations")
    found.add_argument("--replay", type=Path, nargs="+", metavar="FILE", help="check these inputs only; no atheris")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz, and return the exit status: 0 = every promise was kept."""
    given = parser().parse_args(arguments)
    if given.target == LIST:
        for target in load_targets().values():
            print(f"{target.name:20} {target.runs:>9,}  {target.promise}")
        return 0
    if given.replay:
        return _replay(given.target, given.replay)
    from fuzz.engine import Run, fuzz, fuzz_all

    run = Run(given.runs, given.seconds, given.corpus, given.crashes, given.seed)
    return fuzz_all(run) if given.target == ALL else fuzz(given.target, run)


def _replay(name: str, files: Sequence[Path]) -> int:
    targets = load_targets()
    if name not in targets:
        sys.stderr.write(f"there is no target {name!r}; there are {', '.join(targets)}\n")
        return 2
    for file in files:
        targets[name].check(file.read_bytes())
        print(f"{file}: every promise is kept")
    return 0


if __name__ == "__main__":
    sys.exit(main())
