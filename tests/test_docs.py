"""The documents' commands work: blocks marked `<!-- run -->` are run, all others are checked against the parsers.

A ```bash block directly after `<!-- run -->` runs line by line in the repository with an empty JADE home. In every
other block, each `jade …`, `./jade …` and `python -m …` line must name a command and options that exist.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from cli.main import app

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
LAUNCHER = ("test", "setup")
BLOCK = re.compile(r"(<!-- run -->\s*)?^```(?:bash|sh|console)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def commands(block: str) -> list[str]:
    """Return the commands of a block: continuations joined, prompts and comments dropped."""
    lines = re.sub(r"\\\n\s*", " ", block).splitlines()
    lines = [re.sub(r"^\$ ", "", line.strip()) for line in lines]
    return [line for line in lines if line and not line.startswith("#")]


def problem(command: str) -> str | None:
    """Return what is wrong with a command line, or None; commands of other programs are not judged."""
    words = shlex.split(command, comments=True)
    words = words[: next((place for place, word in enumerate(words) if word in ("|", "&&", ">", ";", "&")), None)]
    while words and re.fullmatch(r"\w+=.*", words[0]):
        words = words[1:]
    if not words:
        return None
    words[0] = words[0].removeprefix(".venv/bin/")
    if words[0] in ("jade", "./jade"):
        return _jade_problem(words[1:], launcher=words[0] == "./jade")
    if len(words) > 2 and words[0].startswith("python") and words[1] == "-m":
        return _module_problem(words[2], words[3:])
    return None


def _jade_problem(words: list[str], *, launcher: bool) -> str | None:
    if launcher and words and words[0] in LAUNCHER:
        return None
    group: Any = typer.main.get_command(app)
    if not words or words[0].startswith("-"):
        return None
    command = group.commands.get(words[0])
    if command is None:
        return f"no command {words[0]!r}"
    try:
        command.make_context(words[0], [word for word in words[1:] if word not in ("--help", "--debug")])
    except typer.TyperException as error:
        return error.format_message()
    return None


def _module_problem(module: str, words: list[str]) -> str | None:
    path = ROOT / module.replace(".", "/")
    if module.split(".")[0] not in {folder.name for folder in ROOT.iterdir() if folder.is_dir()}:
        return None
    if not path.with_suffix(".py").is_file() and not (path / "__main__.py").is_file():
        return f"no module {module!r}"
    if module == "experiments" and words and not words[0].startswith("-"):
        return _module_problem(f"experiments.{words[0]}", words[1:])
    options = [word.split("=")[0] for word in words if word.startswith("--")]
    missing = [option for option in options if not re.search(rf"{re.escape(option)}\b", _help(module))]
    return f"python -m {module} has no option {missing}" if missing else None


@cache
def _help(module: str) -> str:
    command = [sys.executable, "-m", module, "--help"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, f"python -m {module} --help failed: {result.stderr}"
    return result.stdout


@pytest.mark.parametrize(
    "command, wrong",
    [
        ("jade ask 'Who?' --workflow R,AG --json", None),
        ("./jade ask 'Who?'  # a comment", None),
        ("JADE_HOME=/tmp/x ./jade test -k name", None),
        ("jade runs --outcome ok | head", None),
        ("git clone somewhere && cd there", None),
        ("python -m venv .venv", None),
        ("python -m cli.main --version", None),
        ("jade", None),
        ("jade aks 'Who?'", "no command 'aks'"),
        ("jade test", "no command 'test'"),
        ("jade ask 'Who?' --colection x", "No such option"),
        ("jade feedback abc", "--score"),
        ("python -m cli.mian", "no module"),
        ("python -m cli.main --bogus", "has no option"),
        (".venv/bin/python -m cli.main --bogus", "has no option"),
        (".venv/bin/jade ask 'Who?' --colection x", "No such option"),
        (".venv/bin/python -m experiments credit --seeds 2", None),
        (".venv/bin/python -m experiments credit --sedes 2", "has no option"),
    ],
)
def test_the_check_itself(command: str, wrong: str | None) -> None:
    found = problem(command)
    assert (found is None) if wrong is None else (found is not None and wrong in found)


def test_blocks_are_cut_into_commands() -> None:
    text = "a\n<!-- run -->\n```bash\n# hi\n$ jade runs \\\n    --limit 1\n```\n```bash\njade show\n```\n"
    assert [(bool(run), commands(block)) for run, block in BLOCK.findall(text)] == [
        (True, ["jade runs  --limit 1"]),
        (False, ["jade show"]),
    ]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_documented_commands_exist(document: Path) -> None:
    blocks = BLOCK.findall(document.read_text(encoding="utf-8"))
    wrong = {line: problem(line) for _, block in blocks for line in commands(block) if problem(line)}
    assert not wrong


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_marked_blocks_run(document: Path, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "JADE_HOME": str(tmp_path / "home")}
    for run, block in BLOCK.findall(document.read_text(encoding="utf-8")):
        for line in commands(block) if run else ():
            result = subprocess.run(
                ["bash", "-ec", line], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
            )
            assert result.returncode == 0, f"{line}\n{result.stdout}\n{result.stderr}"
