"""The launcher's logic, run for real by bash with stub Pythons on PATH; nothing is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("bash", "dirname", "readlink", "cat", "cksum", "df", "awk", "mkdir", "rm", "sed", "chmod", "touch")


class World:
    """A copy of the launcher in an empty project, and a PATH that holds only what a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.project, self.path = folder / "pro ject", folder / "bin"
        self.project.mkdir()
        self.path.mkdir()
        for name in ("jade", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.project / name)
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found, tool
            (self.path / tool).symlink_to(found)

    def program(self, name: str, body: str, folder: Path | None = None) -> Path:
        file = (folder or self.path) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_text(f"#!{shutil.which('bash')}\n{body}\n")
        file.chmod(0o755)
        return file

    def python(self, name: str, version: tuple[int, int], *, venv: bool = True) -> None:
        """Put a Python on the PATH that knows its version and makes environments of stubs."""
        made = (
            'v="${@: -1}"; mkdir -p "$v/bin"; for n in python pip jade ruff mypy lint-imports pytest; do '
            'printf \'#!/usr/bin/env bash\\necho "%s $*" >>"$LOG"\\n[ "$FAIL" != %s ]\\n\' "$n" "$n" '
            '>"$v/bin/$n"; chmod +x "$v/bin/$n"; done'
        )
        self.program(
            name,
            f'case "$*" in\n'
            f'  *"%d.%d"*) echo {version[0]}.{version[1]} ;;\n'
            f"  *version_info*) exit {int(version < (3, 11))} ;;\n"
            f"  *ensurepip*) exit {int(not venv)} ;;\n"
            f'  *"-m venv"*) {made} ;;\n'
            f"esac",
        )

    def run(self, *arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run ./jade with `arguments`; what the stubs were asked stands in `log`."""
        return subprocess.run(
            [str(self.project / "jade"), *arguments],
            env={"PATH": str(self.path), "LOG": str(self.log_file), "FAIL": "", **environment},
            cwd=cwd or self.project,
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def log_file(self) -> Path:
        return self.project.parent / "log"

    @property
    def log(self) -> list[str]:
        return self.log_file.read_text().splitlines() if self.log_file.exists() else []


@pytest.fixture
def world(tmp_path: Path) -> World:
    # `env` finds bash for the stubs' first line, as on any machine.
    made = World(tmp_path)
    (made.path / "env").symlink_to(shutil.which("env") or "/usr/bin/env")
    return made


def test_the_first_start_installs_by_the_constraints_and_later_starts_do_not(world: World) -> None:
    world.python("python3.12", (3, 12))
    first = world.run("ask", "Who?")
    assert first.returncode == 0, first.stderr
    assert first.stdout == ""  # stdout belongs to the answer alone
    assert [line for line in world.log if line.startswith("python -m pip install")] == [
        "python -m pip install --progress-bar off -c constraints.txt -e .[dev]"
    ]
    assert world.log[-1] == "jade ask Who?"
    world.log_file.unlink()
    second = world.run("runs")
    assert (second.returncode, second.stderr, world.log) == (0, "", ["jade runs"])


@pytest.mark.parametrize("file", ["pyproject.toml", "constraints.txt"])
def test_a_changed_pin_installs_again(world: World, file: str) -> None:
    world.python("python3", (3, 11))
    world.run("setup")
    world.log_file.unlink()
    with (world.project / file).open("a") as stream:
        stream.write("# changed\n")
    assert world.run("setup").returncode == 0
    assert any("pip install" in line for line in world.log)


def test_a_failed_installation_is_tried_again(world: World) -> None:
    world.python("python3", (3, 11))
    result = world.run("setup", FAIL="python")
    assert result.returncode == 1
    assert "pip could not install everything" in result.stderr
    world.log_file.unlink()
    assert world.run("setup").returncode == 0
    assert any("pip install" in line for line in world.log)


def test_a_moved_environment_is_made_anew(world: World) -> None:
    world.python("python3", (3, 11))
    world.run("setup")
    moved = world.project.parent / "moved"
    world.project.rename(moved)
    world.project = moved
    world.program("pip", "exit 126", moved / ".venv" / "bin")  # its first line names the old place
    result = world.run("setup")
    assert result.returncode == 0
    assert "making" in result.stderr


def test_python_too_old(world: World) -> None:
    world.python("python3", (3, 9))
    result = world.run("ask", "Who?")
    assert result.returncode == 1
    assert "Python 3.11 or newer is needed; found only: python3 (3.9)" in result.stderr
    assert not (world.project / ".venv").exists()


def test_no_python_at_all(world: World) -> None:
    result = world.run("ask", "Who?")
    assert result.returncode == 1
    assert "no Python found" in result.stderr


def test_a_newer_python_under_another_name_is_found(world: World) -> None:
    world.python("python3", (3, 9))
    world.python("python3.13", (3, 13))
    result = world.run("setup")
    assert result.returncode == 0
    assert "python3.13 (3.13)" in result.stderr


def test_missing_venv_module(world: World) -> None:
    world.python("python3", (3, 12), venv=False)
    result = world.run("ask", "Who?")
    assert result.returncode == 1
    assert "sudo apt install python3.12-venv" in result.stderr


def test_named_python_is_used_or_refused(world: World) -> None:
    world.python("python3", (3, 11))
    world.python("my python", (3, 12))
    assert "my python (3.12)" in world.run("setup", JADE_PYTHON=str(world.path / "my python")).stderr
    shutil.rmtree(world.project / ".venv")
    result = world.run("setup", JADE_PYTHON="/nowhere/python")
    assert result.returncode == 1
    assert "JADE_PYTHON=/nowhere/python" in result.stderr


def test_low_disk(world: World) -> None:
    world.python("python3", (3, 11))
    world.program("df", "echo header; echo /dev/x 10000000 9000000 1024000 90% /")
    result = world.run("ask", "Who?")
    assert result.returncode == 1
    assert "has 1000 MB free; setting up needs 4000 MB" in result.stderr
    assert not (world.project / ".venv").exists()


def test_help_installs_nothing(world: World) -> None:
    for arguments in ((), ("--help",)):
        result = world.run(*arguments)
        assert result.returncode == 0
        assert "./jade test" in result.stdout
    assert not (world.project / ".venv").exists()


def test_the_environment_may_stand_elsewhere_and_the_launcher_be_a_link(world: World, tmp_path: Path) -> None:
    world.python("python3", (3, 11))
    link = tmp_path / "link"
    link.symlink_to("pro ject/jade")
    environment = {"PATH": str(world.path), "LOG": str(world.log_file), "FAIL": "", "JADE_VENV": str(tmp_path / "v")}
    subprocess.run([str(link), "doctor"], env=environment, cwd="/", check=True, capture_output=True)
    assert (tmp_path / "v" / "bin" / "jade").exists()
    assert world.log[-1] == "jade doctor"


def test_test_runs_every_check_and_names_what_failed(world: World) -> None:
    world.python("python3", (3, 11))
    world.run("setup")
    world.log_file.unlink()
    result = world.run("test", "-k", "name", FAIL="mypy")
    assert result.returncode == 1
    assert "failed: mypy" in result.stderr
    assert [line.rstrip() for line in world.log] == [
        "ruff check .",
        "ruff format --check .",
        "mypy",
        "lint-imports",
        "pytest -n 2 -m not slow and not gpu and not learning -k name",
    ]
    assert world.run("test").returncode == 0
    assert world.log[-1].rstrip() == "pytest -q -m learning tests/test_learning.py"  # only with the whole suite


AUDITOR = 'echo "pip-audit $*" >>"$LOG"\necho "$SAYS" >&2\n[ "$FAIL" != pip-audit ]'


def test_known_vulnerabilities_are_looked_up_and_fail_the_checks(world: World) -> None:
    world.python("python3", (3, 11))
    world.program("pip-audit", AUDITOR)
    result = world.run("test", SAYS="No known vulnerabilities found")
    assert result.returncode == 0 and "No known vulnerabilities found" in result.stderr
    assert result.stderr.splitlines()[-1] == "jade: all checks passed"
    assert any(line.startswith("pip-audit --strict") and "constraints.txt" in line for line in world.log)
    for found in (
        "Found 2 known vulnerabilities in 1 package",
        "Dependency not found on PyPI and could not be audited",
    ):
        result = world.run("test", FAIL="pip-audit", SAYS=found)
        assert result.returncode == 1 and "failed: pip-audit" in result.stderr and found in result.stderr


def test_what_was_not_looked_up_is_said_twice_and_fails_nothing(world: World) -> None:
    """The service lacks vulnerabilities, as many mirrors do; or it goes away; or pip-audit cannot be installed."""
    world.python("python3", (3, 11))
    world.program("pip-audit", AUDITOR)
    result = world.run("test", FAIL="pip-audit", SAYS="requests.exceptions.ReadTimeout")
    assert result.returncode == 0 and "SKIPPED, it could not finish" in result.stderr
    assert result.stderr.splitlines()[-1] == "jade: all checks passed; known vulnerabilities were NOT looked up"
    (world.path / "pip-audit").unlink()
    result = world.run("test")
    assert result.returncode == 0 and "SKIPPED, it is not installed and could not be" in result.stderr
    world.log_file.unlink()
    result = world.run("test", FAIL="python")  # which asks the service
    assert result.returncode == 0 and "does not answer with vulnerabilities" in result.stderr
    assert not any("venv" in line or line.startswith("pip-audit ") for line in world.log), (
        "nothing is installed in vain"
    )


def test_a_fresh_clone_gets_pip_audit_in_an_environment_of_its_own(world: World) -> None:
    world.python("python3", (3, 11))
    world.run("setup")
    install = 'mkdir -p "${0%/*}"; printf \'#!/usr/bin/env bash\\necho "own $*" >>"$LOG"\\n\' >"${0%/*}/pip-audit"'
    own = world.program("install", f'echo "install $*" >>"$LOG"\n{install}; chmod +x "${{0%/*}}/pip-audit"')
    venv = world.project / ".venv"
    world.program(
        "python",
        f'case "$*" in *"-m venv"*) mkdir -p "{venv}/audit/bin"; cat "{own}" >"{venv}/audit/bin/python"; '
        f'chmod +x "{venv}/audit/bin/python" ;; esac',
        venv / "bin",
    )
    world.log_file.unlink()
    assert world.run("test").returncode == 0
    assert "install -m pip install --quiet --progress-bar off pip-audit" in world.log
    assert any(line.startswith("own --strict") for line in world.log)
    world.log_file.unlink()
    assert world.run("test").returncode == 0
    assert not any(line.startswith("install") for line in world.log), "once"


@pytest.mark.parametrize(("answer", "asked"), [('{"info": {}, "vulnerabilities": []}', True), ('{"info": {}}', False)])
def test_a_service_is_asked_whether_it_knows_vulnerabilities(world: World, answer: str, asked: bool) -> None:
    world.python("python3", (3, 11))
    world.run("setup")
    world.program("pip-audit", AUDITOR)
    world.program("python", f'exec "{sys.executable}" "$@"', world.project / ".venv" / "bin")
    (world.project / "service").write_text(answer)
    result = world.run("test", SAYS="", JADE_AUDIT_SERVICE=(world.project / "service").as_uri())
    assert result.returncode == 0 and ("SKIPPED" in result.stderr) is not asked
    assert any(line.startswith("pip-audit ") for line in world.log) is asked


def test_ci_runs_the_same_from_anywhere(world: World, tmp_path: Path) -> None:
    (world.project / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", world.project / ".ci" / "run")
    world.program("jade", 'echo "launcher $*" >>"$LOG"', world.project)
    environment = {"PATH": str(world.path), "LOG": str(world.log_file)}
    subprocess.run([str(world.project / ".ci" / "run")], env=environment, cwd=tmp_path, check=True)
    assert world.log == ["launcher test"]


def test_the_files_are_executable() -> None:
    assert os.access(ROOT / "jade", os.X_OK)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_constraints_pin_every_direct_dependency_and_nothing_of_this_machine() -> None:
    text = (ROOT / "constraints.txt").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all("==" in line and "/" not in line and "@" not in line and "+" not in line for line in lines)
    pinned = {line.split("==")[0] for line in lines}
    assert "llama-cpp-python" not in pinned
    assert {"torch", "transformers", "peft", "langgraph", "chromadb", "mlflow", "pytest", "ruff", "mypy"} <= pinned
