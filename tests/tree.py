"""The README's tree of files, made from the files' own first lines: `python -m tests.tree` writes it anew."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = (
    "agents", "graphs", "evaluation", "training", "serving", "experiments", "faults", "fuzz", "cli", "examples",
    "benchmarks",
)  # fmt: skip
OTHERS = {
    "configs/": "configurations of training and experiments",
    "data/": "the benchmarks with sources and licences, and the starter corpus with its vectors",
    "adapters/": "the trained adapter that ships",
    "docs/": "decisions, results, and how to use each door",
    "tests/": "one file per source file; scripted.py and toy_model.py are real implementations at toy size",
    "mlflow/": "home of the tracking store; holds no Python",
    "jade": "the launcher: sets up .venv, then asks or tests",
    ".ci/run": "continuous integration: ./jade test",
    "constraints.txt": "versions known to work together",
    "langgraph.json": "the graphs that `langgraph dev` serves",
    "pyproject.toml": "dependencies, and the rules of ruff, mypy, pytest and the layers",
}
BLOCK = re.compile(r"<!-- tree -->\n(.*?)<!-- /tree -->", re.DOTALL)
WIDTH = 116


def describe(file: Path) -> str:
    """Return the first sentence of a module's docstring, cut at a colon or a word where it is long."""
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    line = re.split(r"(?<=[^.])\.(?:\s|$)", " ".join(docstring.split("\n\n")[0].split()))[0]
    if len(line) > WIDTH:
        line = re.split(r": |; ", line)[0]
    return line if len(line) <= WIDTH else line[:WIDTH].rsplit(" ", 1)[0].rstrip(",;:") + " …"


def render() -> str:
    """Return the tree as a fenced block: one line per file."""
    lines = []
    for folder in FOLDERS:
        files = [file for file in sorted((ROOT / folder).rglob("*.py")) if file.name != "__init__.py"]
        if not files:
            continue
        opening = ROOT / folder / "__init__.py"
        lines.append(f"{folder}/  {describe(opening) if opening.is_file() else ''}".rstrip())
        names = [file.relative_to(ROOT / folder).as_posix() for file in files]
        width = max(map(len, names))
        lines += [f"  {name:{width}}  {describe(file)}" for name, file in zip(names, files, strict=True)]
    lines += [f"{name:15}  {text}" for name, text in OTHERS.items() if (ROOT / name).exists()]
    return "\n".join(["```text", *lines, "```", ""])


def main() -> None:
    """Write the tree into README.md."""
    readme = ROOT / "README.md"
    text, count = BLOCK.subn(lambda _: f"<!-- tree -->\n{render()}<!-- /tree -->", readme.read_text(encoding="utf-8"))
    if count != 1:
        sys.exit(f"{readme} needs exactly one <!-- tree --> … <!-- /tree -->, it has {count}")
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
