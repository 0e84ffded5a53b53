"""`jade`: the entry point. Mistakes become one message and an exit code, never a traceback.

Exit codes: 0 done; 1 a check failed or the run crashed; 2 bad input, or something needed is missing (the message says
what to do); 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from agents.errors import JadeError
from cli.ask import ask
from cli.doctor import doctor
from cli.export import export
from cli.feedback import feedback
from cli.index import index
from cli.runs import runs
from cli.serve import serve
from cli.show import show
from cli.terminal import show_error
from cli.why import why

OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    name="jade",
    help="Agentic RAG that can be trained: ask questions over a corpus, see and keep every run.",
    epilog="Exit codes: 0 done, 1 a check failed or the run crashed, 2 bad input or something missing.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (ask, serve, index, runs, show, why, feedback, export, doctor):
    app.command()(command)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        sys.stdout.write(f"jade {version('jade-rag')}\n")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; allowed after any command, too.")] = False,
) -> None:
    """Hold the options of all commands; `run` acts on --debug itself."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    own, separator, rest = _split(arguments)
    debug, as_json = "--debug" in own, "--json" in own
    own = [argument for argument in own if argument != "--debug"]
    try:
        return int(app([*own, *separator, *rest], prog_name="jade", standalone_mode=False) or OK)
    except BaseException as error:
        if debug and not isinstance(error, typer.Abort | KeyboardInterrupt):
            traceback.print_exc()
        return _explain(error, own, as_json)


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Split at "--", after which nothing is an option."""
    items = list(arguments)
    place = items.index("--") if "--" in items else len(items)
    return items[:place], items[place : place + 1], items[place + 1 :]


def _explain(error: BaseException, given: Sequence[str], as_json: bool) -> int:
    """Print what went wrong with the arguments `given`, and return the exit code."""
    if isinstance(error, typer.Abort | KeyboardInterrupt):
        show_error("interrupted", as_json=False)
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at exit
        return OK
    if isinstance(error, JadeError):
        show_error(str(error), as_json=as_json)
        return BAD_INPUT
    if isinstance(error, typer.TyperException):
        return _usage(error, given, as_json)
    if not isinstance(error, Exception):
        raise error
    show_error(
        f"failed: {type(error).__name__}: {error}\nRun it again with --debug for the traceback.", as_json=as_json
    )
    return FAILED


def _usage(error: Any, given: Sequence[str], as_json: bool) -> int:
    """Print a usage error of the command line itself; without arguments typer has shown the help already."""
    message = error.format_message().rstrip(".")
    path = getattr(getattr(error, "ctx", None), "command_path", "jade")
    value = _value_of(getattr(getattr(error, "param", None), "opts", ()), given)
    if value is not None and repr(value) not in message:
        message += f", not {value!r}"
    if "unexpected extra argument" in message and path.endswith(" ask"):
        message += "; put the question into quotes"
    if message:
        show_error(f"{message}. See `{path} --help`.", as_json=as_json)
    return BAD_INPUT


def _value_of(names: Sequence[str], given: Sequence[str]) -> str | None:
    """Return what an option of these names was last given on the command line, if anything."""
    found = None
    for place, argument in enumerate(given):
        name, equals, value = argument.partition("=")
        if name in names:
            found = value if equals else next(iter(given[place + 1 :]), None)
    return found


def main() -> None:
    """Run the process's command line."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
