"""What can be evaluated: a workflow (planned, forced, solo, oracle, or your graph) and the adapters that play it.

    jade                        the planner decides, the shipped adapter ("shipped"; "none": the untuned model)
    R,AG@none                   a forced plan, untuned
    jade@runs/ppo/adapter       one adapter for all roles: a folder, or the id of the MLflow run that logged it
    jade@planner=runs/a;*=runs/b    adapters by role
    jade@planner=runs/a;*=other     executors on a second base model, there with "other:runs/c" on an adapter of it

All systems of an evaluation share these models; adapters are switched by name.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from agents.adapters import adapter_folder, read_adapter, read_merged
from agents.errors import ConfigError
from agents.named import load_object
from agents.role import Prompts, PromptStyle
from agents.roster import ROLES
from agents.workflow import BY_TEXT, Budgets, check_forced, parse_forced
from graphs.app import shipped_adapter

Bases = tuple[str | None, str | None]
"""The base model and the second one."""
Kind = Literal["planned", "forced", "solo", "oracle", "own"]
PLANNED, SOLO, ORACLE = "jade", "solo", "oracle"
_NAMES = (PLANNED, SOLO, ORACLE, *BY_TEXT)
UNTUNED, OTHER, SHIPPED = "none", "other", "shipped"


@dataclass(frozen=True)
class System:
    """One thing to evaluate."""

    label: str
    """As the user wrote it; its name in records and reports."""
    kind: Kind
    workflow: str | None = None
    """The forced plan."""
    graph: str | None = None
    """Your graph as "package.module:name"."""
    folders: Mapping[str, Path | None] = field(default_factory=dict)
    """Role name ("*": all not named) → adapter folder; None = the untuned model."""
    other: frozenset[str] = frozenset()
    """The names in `folders` that speak on the second base model."""
    prompts: Prompts = field(default_factory=Prompts)
    base_trained: bool = False
    """Whether the base model itself was trained (`jade export` wrote it)."""

    @property
    def trained(self) -> bool:
        """Return whether every role is spoken by a trained model."""
        return self.base_trained or (self.folders.get("*") is not None and None not in self.folders.values())

    @property
    def content(self) -> Hashable:
        """Return what is asked, whatever it is called: workflow and speakers."""
        found = {role: (folder and folder.resolve(), role in self.other) for role, folder in self.folders.items()}
        rest = found.get("*", (None, False))
        speakers = {("*", rest), *((role, speaker) for role, speaker in found.items() if speaker != rest)}
        return self.kind, self.workflow, self.graph, frozenset(speakers)

    @property
    def slug(self) -> str:
        """Return the label as file and metric names can hold it."""
        return slug_of(self.label)


def slug_of(label: str) -> str:
    """Return a label with everything but letters, digits and -_. as a dash."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in label)


def read_systems(
    labels: Sequence[str], budgets: Budgets, model: str | None = None, other: str | None = None
) -> list[System]:
    """Read the systems of an evaluation.

    Args:
        labels: As in `EvalConfig.systems`.
        budgets: What a forced plan must fit.
        model: The base model; the shipped adapter belongs to None, the embedded one.
        other: The second base model.

    Raises:
        ConfigError: An unknown name, an impossible plan, an adapter that cannot be used, or two labels that mean the
            same, or whose file names would be the same.
    """
    systems = [_read(label, budgets, (model, other)) for label in labels]
    slugs: dict[str, str] = {}
    for system in systems:
        twin = slugs.setdefault(system.slug, system.label)
        if twin != system.label:
            raise ConfigError(f"systems {twin!r} and {system.label!r} would share the file name {system.slug!r}")
    same: dict[Hashable, str] = {}
    for system in systems:
        twin = same.setdefault(system.content, system.label)
        if twin != system.label:
            raise ConfigError(f"systems {twin!r} and {system.label!r} are the same under two names; leave one out")
    return systems


def decoding_of(wish: str, systems: Sequence[System]) -> str:
    """Return how all systems of an evaluation decode: as wished, or for "auto" freely where every one is trained."""
    if wish != "auto":
        return wish
    return "free" if all(system.trained for system in systems) else "constrained"


def _read(label: str, budgets: Budgets, bases: Bases) -> System:
    name, at, adapters = (part.strip() for part in label.partition("@"))
    if at and not adapters:
        raise ConfigError(f"system {label!r}: after @ give an adapter folder, 'none', or role=folder pairs")
    folders, others = _folders(label, adapters, bases)
    trained = bases[0] is not None and read_merged(bases[0]) is not None
    prompts = _prompts(label, folders, others, bases)
    speakers: dict[str, Any] = {"folders": folders, "prompts": prompts, "other": others}
    speakers["base_trained"] = trained and not others
    kinds: dict[str, Kind] = {PLANNED: "planned", SOLO: "solo", ORACLE: "oracle"}
    if name in kinds:
        return System(label, kinds[name], **speakers)
    if ":" in name:
        load_object(name, "graph")
        return System(label, "own", graph=name, **speakers)
    if not all(part.strip() in BY_TEXT for part in name.split("/")) and not {"/", ","} & set(name):
        close = difflib.get_close_matches(name, _NAMES, n=1, cutoff=0.5)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ConfigError(
            f"there is no system {name!r}{hint}; allowed: {', '.join(_NAMES)}, plans with children such as "
            "'QDS/R,AG', or your own graph as package.module:name; each may be followed by @ADAPTER"
        )
    check_forced(parse_forced(name), budgets)
    return System(label, "forced", name, **speakers)


def make_graph(spec: str, found: Any, offered: Mapping[str, Any]) -> Any:
    """Return what `spec` named or, where that is a function that makes a graph, what it makes.

    Args:
        spec: For messages.
        found: A graph, or a function.
        offered: Arguments by name; the function is given those that it has parameters for.

    Raises:
        ConfigError: The function wants other arguments.
    """
    if hasattr(found, "invoke") or not callable(found):
        return found
    takes = inspect.signature(found).parameters
    try:
        return found(**{name: value for name, value in offered.items() if name in takes})
    except TypeError as error:
        given = ", ".join(offered) or "none"
        raise ConfigError(f"graph {spec!r} wants other arguments than {given}: {error}") from error


def _folders(label: str, adapters: str, bases: Bases) -> tuple[dict[str, Path | None], frozenset[str]]:
    """Return role name → adapter folder, and which of the names speak on the second base model."""
    if not adapters:
        shipped = shipped_adapter(bases[0])
        return ({} if shipped is None else {"*": shipped}), frozenset()
    pairs = dict(_pairs(label, adapters)) if "=" in adapters else {"*": adapters}
    others = frozenset(role for role, text in pairs.items() if text.partition(":")[0] == OTHER)
    if others and bases[1] is None:
        raise ConfigError(f"system {label!r} speaks of the second base model; name it: --other FOLDER")
    folders = {role: text.partition(":")[2] or UNTUNED if role in others else text for role, text in pairs.items()}
    return {role: _folder(label, text) for role, text in folders.items()}, others


def _folder(label: str, text: str) -> Path | None:
    if text == SHIPPED:
        folder = shipped_adapter(None)
        if folder is None:
            raise ConfigError(f"system {label!r}: no adapter is shipped here; give a folder, or none")
        return folder
    return None if text == UNTUNED else adapter_folder(text)


def _pairs(label: str, adapters: str) -> Iterator[tuple[str, str]]:
    for pair in adapters.split(";"):
        role, equals, folder = (part.strip() for part in pair.partition("="))
        if not equals or not folder or role not in (*ROLES, SOLO, "*"):
            allowed = f"*, {', '.join(ROLES)}, {SOLO}"
            raise ConfigError(f"system {label!r}: {pair!r} is no role=folder pair; roles: {allowed}")
        yield role, folder


def _prompts(label: str, folders: Mapping[str, Path | None], others: frozenset[str], bases: Bases) -> Prompts:
    """Return the prompt set: each role under the one that its adapter, or else its base, was trained with.

    Raises:
        ConfigError: A folder is no adapter, or was trained under an unknown set.
    """
    styles: dict[str, PromptStyle] = {}
    for role, folder in {"*": None, **folders}.items():
        named = _base_prompts(bases[role in others]) if folder is None else read_adapter(folder).prompts
        if named not in ("bare", "examples"):
            who = folder or "the model"
            raise ConfigError(f"system {label!r}: {who} was trained under prompts {named!r}; allowed: bare, examples")
        styles[role] = "bare" if named == "bare" else "examples"
    style = styles["*"]
    odd = [(name, ROLES[name]) for name in styles if name in ROLES and styles[name] != style]
    return Prompts(style, tuple((name, Prompts(styles[name]).text(role)) for name, role in odd))


def _base_prompts(model: str | None) -> str:
    merged = None if model is None else read_merged(model)
    return "examples" if merged is None else merged.prompts
