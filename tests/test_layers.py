"""The house: layers, doors of heavy dependencies, file sizes, and a README that lists every file."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests import tree

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("agents", "graphs", "evaluation", "training", "serving", "cli", "experiments", "faults", "fuzz")
LONGEST = 320
MODELS = ("agents/model*.py", "agents/embedded.py", "agents/embedder.py", "training/*.py")
DOORS = {
    "torch": (*MODELS, "agents/sampling.py", "experiments/*.py", "faults/*.py", "evaluation/ranks.py"),
    "transformers": (*MODELS, "fuzz/constraints.py"),
    "peft": ("agents/model*.py", "training/*.py"),
    "sentence_transformers": ("agents/embedder.py",),
    "chromadb": ("agents/chroma*.py",),
    "mlflow": ("evaluation/tracking.py", "agents/adapters.py"),
    "langgraph": ("graphs/*.py",),
    "fastapi": ("serving/*.py",),
    "uvicorn": ("serving/*.py",),
    "prometheus_client": ("serving/*.py",),
}
"""Which files may import a heavy dependency at run time (DESIGN §4)."""


def sources() -> list[str]:
    return sorted(file.relative_to(ROOT).as_posix() for package in PACKAGES for file in (ROOT / package).rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield the top-level names that a module imports when it runs, however deep; not those for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from imports(ast.Module(node.orelse, []))
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]
        yield from imports(node)


def test_the_import_scan_sees_lazy_imports_and_skips_those_for_types() -> None:
    code = "if TYPE_CHECKING:\n  import a\nelse:\n  import b\ndef f():\n  from c.d import e\nimport g.h"
    assert sorted(imports(ast.parse(code))) == ["b", "c", "g"]


def test_packages_import_only_to_their_right() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    result = subprocess.run([*command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 kept, 0 broken" in result.stdout


@pytest.mark.parametrize("file", sources())
def test_heavy_dependencies_enter_by_their_doors_only(file: str) -> None:
    found = set(imports(ast.parse((ROOT / file).read_text(encoding="utf-8"))))
    wrong = [name for name, doors in DOORS.items() if name in found and not any(fnmatch(file, door) for door in doors)]
    assert not wrong, f"{file} imports {wrong}; allowed are {[DOORS[name] for name in wrong]}"


@pytest.mark.parametrize("statement", ["import agents, graphs, cli.main", "import graphs.ledger, graphs.trajectory"])
def test_importing_loads_nothing_heavy(statement: str) -> None:
    heavy = [*DOORS, "scipy", "sklearn", "matplotlib"]
    code = f"{statement}\nimport sys\nprint([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_tracking_folder_cannot_shadow_mlflow() -> None:
    assert not list((ROOT / "mlflow").rglob("*.py"))
    code = "import importlib.util; print(importlib.util.find_spec('mlflow').origin)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "site-packages" in result.stdout


def test_no_source_file_is_too_long() -> None:
    sizes = {file: len((ROOT / file).read_text(encoding="utf-8").splitlines()) for file in sources()}
    assert not {file: size for file, size in sizes.items() if size > LONGEST}


def test_no_file_is_named_after_nothing() -> None:
    forbidden = {"utils", "util", "common", "helpers", "helper", "base", "misc"}
    assert not [file for file in sources() if Path(file).stem in forbidden]


def test_pickle_and_foreign_code_stay_out() -> None:
    for file in sources():
        text = (ROOT / file).read_text(encoding="utf-8")
        assert "pickle" not in set(imports(ast.parse(text))), file
        assert not re.search(r"trust_remote_code\s*=\s*True|weights_only\s*=\s*False", text), file


def test_every_file_says_what_it_is() -> None:
    silent = [file for file in sources() if not tree.describe(ROOT / file)]
    assert not silent


def test_the_readme_has_one_line_for_every_file() -> None:
    found = tree.BLOCK.search((ROOT / "README.md").read_text(encoding="utf-8"))
    assert found, "README.md has no <!-- tree --> … <!-- /tree -->"
    assert found[1] == tree.render(), "the tree is out of date: run `python -m tests.tree`"
    listed = [line.split()[0] for line in found[1].splitlines() if line.startswith("  ")]
    assert len(listed) >= len([file for file in sources() if not file.endswith("__init__.py")])
