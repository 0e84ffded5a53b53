"""Configuration of a command: a dataclass with defaults, a YAML file over it, the command line over both.

    python -m training.ppo --config configs/nq.yaml --lr 2e-4 --train planner

The dataclass is the documentation: each field has a type, a default and a sentence. OmegaConf merges and checks
types; unknown keys and impossible values are refused by name before anything heavy is imported.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from agents.errors import ConfigError, JadeError

C = TypeVar("C")


def run_command(work: Callable[[], int], interrupted: str | None = None) -> int:
    """Run a command's work and return its exit status; a user's mistake is one line on standard error, and 2.

    Args:
        work: Returns the status of what went well.
        interrupted: What to say to Ctrl-C before ending with 130; None = let it pass.
    """
    try:
        return work()
    except JadeError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 2
    except KeyboardInterrupt:
        if interrupted is None:
            raise
        sys.stderr.write(f"{interrupted}\n")
        return 130


def read_config(kind: type[C], arguments: Sequence[str], program: str) -> tuple[C, bool]:
    """Build a configuration from command-line arguments.

    Args:
        kind: A dataclass whose fields all have defaults; its `__post_init__` checks values.
        arguments: Such as ["--config", "my.yaml", "--lr", "2e-4"].
        program: Name in the help text.

    Returns:
        The configuration, and whether `--dry-run` was given.

    Raises:
        ConfigError: An unknown key, a value of the wrong type or range, or an unreadable file.
    """
    parser = ArgumentParser(
        prog=program, description=describe(cast(Any, kind)), formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", action="append", default=[], metavar="FILE", help="YAML file; may be repeated")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, and stop")
    known, rest = parser.parse_known_args(arguments)
    layers = [_read_yaml(Path(file)) for file in known.config] + [_read_overrides(rest)]
    return merge_config(kind, *layers), bool(known.dry_run)


def merge_config(kind: type[C], *layers: Mapping[str, Any]) -> C:
    """Merge mappings over the defaults of a dataclass, later ones winning.

    Raises:
        ConfigError: An unknown key, or a value of the wrong type or range.
    """
    names = [item.name for item in fields(cast(Any, kind))]
    for layer in layers:
        for key in layer:
            if key not in names:
                near = get_close_matches(str(key), names, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ";"
                raise ConfigError(f"unknown configuration key {key!r}{hint} allowed: {', '.join(names)}")
            _check_items(key, layer[key])
    lists = {item.name for item in fields(cast(Any, kind)) if str(item.type).startswith("list[")}
    layers = tuple({key: _listed(layer[key], key in lists) for key in layer} for layer in layers)
    try:
        merged = OmegaConf.merge(_defaults(cast(Any, kind)), *map(dict, layers))
        return cast(C, OmegaConf.to_object(merged))  # resolves ${…}, which may lead nowhere
    except OmegaConfBaseException as error:
        raise ConfigError(f"impossible value: {str(error).splitlines()[0]} (key {error.full_key})") from None
    except ConfigError:
        raise
    except (TypeError, ValueError, ArithmeticError) as error:  # a mapping for a list, a number beyond all floats
        raise ConfigError(f"impossible value: {error}") from None


@cache
def _defaults(kind: type[Any]) -> DictConfig:
    """Return the tree of a dataclass's defaults; merging copies it, which takes a tenth of the time of building it."""
    tree: DictConfig = OmegaConf.structured(kind)
    return tree


def _check_items(key: str, value: Any) -> None:
    """Refuse a list in a list and a mapping in a list, which OmegaConf lets pass as elements of any list."""
    if isinstance(value, list | tuple):
        wrong = next((item for item in value if isinstance(item, list | tuple | Mapping)), None)
        if wrong is not None:
            raise ConfigError(f"impossible value: {key} holds {wrong!r:.60}; wanted a list of texts or numbers")


def _listed(value: Any, wanted: bool) -> Any:
    """Return a lone text or number as the list that is wanted: `--sets nq` means ['nq']."""
    alone = isinstance(value, str | int | float) and not isinstance(value, bool)
    return [value] if wanted and alone else value


def _read_yaml(path: Path) -> Mapping[str, Any]:
    try:
        data = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, ValueError, OmegaConfBaseException) as error:
        raise ConfigError(f"configuration file {path} cannot be read: {error}") from None
    except Exception as error:  # the YAML library's own errors share no base with ours
        raise ConfigError(f"configuration file {path} is not YAML: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"configuration file {path} holds no key: value pairs")
    return cast(Mapping[str, Any], data)


def _read_overrides(rest: Sequence[str]) -> dict[str, Any]:
    """Read `--key value` and `--key=value` pairs; values are YAML scalars."""
    values: dict[str, Any] = {}
    queue = list(rest)
    while queue:
        word = queue.pop(0)
        if not word.startswith("--"):
            raise ConfigError(f"unexpected argument {word!r}; give --key value pairs, or --help for the keys")
        key, equals, value = word[2:].partition("=")
        if not equals:
            if not queue or queue[0].startswith("--"):
                raise ConfigError(f"--{key} has no value; give --{key} VALUE")
            value = queue.pop(0)
        values[key.replace("-", "_")] = _scalar(value)
    return values


def _scalar(text: str) -> Any:
    """Return numbers, booleans, None and lists as such, anything else as text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text.lower() in ("none", "null"):
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # {[]: 1}, and ((((…
        return text


@cache
def describe(kind: type[Any]) -> str:
    """Return help text: one line per field with its default and the docstring below it."""
    notes: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        notes |= _field_notes(base)
    default = kind()
    lines = [inspect.getdoc(kind) or "", "", "keys (--key value, or key: value in the YAML file):"]
    for item in fields(kind):
        note = textwrap.fill(notes.get(item.name, ""), 100, initial_indent="      ", subsequent_indent="      ")
        lines.append(f"  --{item.name} = {getattr(default, item.name)!r}\n{note}")
    return "\n".join(lines)


def _field_notes(kind: type[Any]) -> dict[str, str]:
    """Return the string below each field of a dataclass."""
    body = cast(ast.ClassDef, ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]).body
    notes: dict[str, str] = {}
    for field, note in pairwise(body):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(note, ast.Expr) and isinstance(note.value, ast.Constant):
            notes[field.target.id] = " ".join(str(note.value.value).split())
    return notes
