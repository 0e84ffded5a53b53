"""The experiments by name: `python -m experiments NAME [options]`.

Every module of this folder with a `main` is one; its first sentence is what the list says of it. Nothing is imported
until a name is given.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

from agents.errors import ConfigError
from evaluation.config import run_command

FOLDER = Path(__file__).parent


def experiments(folder: Path = FOLDER) -> dict[str, str]:
    """Return experiment name → what it is, of all modules that have a `main`."""
    found = {}
    for file in sorted(folder.glob("[a-z]*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            first = (ast.get_docstring(tree) or "").split("\n\n")[0]
            found[file.stem] = " ".join(first.split())
    return found


def usage() -> str:
    """Return what `python -m experiments` prints."""
    known = experiments()
    width = max(map(len, known))
    lines = [f"  {name:{width}}  {text}" for name, text in known.items()]
    return "\n".join(
        [
            "usage: python -m experiments NAME [options]",
            "",
            *lines,
            "",
            "`python -m experiments NAME --help` lists an experiment's options. Those in the tiny world have --seeds,",
            "--iterations, --steps, --processes and --output; finished arms are never run again.",
            "",
        ]
    )


def run_named(arguments: Sequence[str]) -> int:
    """Run the experiment that the first argument names, with the others.

    Raises:
        ConfigError: There is no such experiment.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(usage())
        return 0
    name, known = arguments[0], experiments()
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ";"
        raise ConfigError(f"no experiment {name!r}{hint} allowed: {', '.join(known)}")
    sys.argv = [f"python -m experiments {name}", *arguments[1:]]
    status: int = import_module(f"experiments.{name}").main()
    return status


if __name__ == "__main__":
    sys.exit(run_command(lambda: run_named(sys.argv[1:])))
