"""`jade ask`: one question, or a prompt that stays open; every run is recorded unless told otherwise."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agents.errors import ConfigError, JadeError
from cli.shared_options import (
    OUTPUT,
    Adapter,
    Costs,
    Device,
    Dtype,
    Embedder,
    Index,
    Json,
    Ledger,
    Mode,
    Model,
    Prompts,
    Record,
    Server,
    Threads,
    TopK,
)
from cli.terminal import note, show_error, show_json, warn
from cli.terminal import show as display

if TYPE_CHECKING:
    from collections.abc import Mapping

    from graphs.recorded import RecordedGraph
    from graphs.trajectory import Trajectory

_LIMITS = "Budgets and sampling"
_LOADING = ("model", "costs", "prompts", "device", "dtype", "threads", "server", "index", "embedder", "top_k", "ledger")
_PER_CALL = (
    "workflow",
    "max_turns",
    "max_retrievals",
    "max_depth",
    "max_new_tokens",
    "temperature",
    "seed",
    "decoding",
    "cost",
    "select",
    "record",
)
Workflow = Annotated[str | None, typer.Option(help="Force a plan: R,AG or QDS/R,DS,AG …", rich_help_panel=_LIMITS)]
MaxTurns = Annotated[int | None, typer.Option(help="Most planned rounds.", rich_help_panel=_LIMITS)]
MaxRetrievals = Annotated[int | None, typer.Option(help="Most retrievals; 0 = closed book.", rich_help_panel=_LIMITS)]
MaxDepth = Annotated[int | None, typer.Option(help="Deepest decomposition, 0 to 2.", rich_help_panel=_LIMITS)]
MaxNewTokens = Annotated[int | None, typer.Option(help="Cap on each role's tokens.", rich_help_panel=_LIMITS)]
Temperature = Annotated[float | None, typer.Option(help="0 = greedy (default).", rich_help_panel=_LIMITS)]
Seed = Annotated[int | None, typer.Option(help="Key of all random numbers.", rich_help_panel=_LIMITS)]
Decoding = Annotated[str | None, typer.Option(help="free or constrained.", rich_help_panel=_LIMITS)]
Cost = Annotated[
    str | None, typer.Option(help="low, default or high: which adapter of a sweep.", rich_help_panel=_LIMITS)
]
Select = Annotated[str | None, typer.Option(help="What roles see: role or full.", rich_help_panel=_LIMITS)]
Show = Annotated[bool, typer.Option("--show", help="Print the whole run.", rich_help_panel=OUTPUT)]


def ask(
    question: Annotated[str | None, typer.Argument(help="The question; without one a prompt stays open.")] = None,
    model: Model = None,
    adapter: Adapter = "auto",
    costs: Costs = None,
    prompts: Prompts = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
    server: Server = None,
    index: Index = None,
    retriever: Mode = "exact",
    embedder: Embedder = None,
    top_k: TopK = 5,
    workflow: Workflow = None,
    max_turns: MaxTurns = None,
    max_retrievals: MaxRetrievals = None,
    max_depth: MaxDepth = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    seed: Seed = None,
    decoding: Decoding = None,
    cost: Cost = None,
    select: Select = None,
    record: Record = None,
    ledger: Ledger = None,
    full: Show = False,
    as_json: Json = False,
) -> None:
    """Answer a question over the indexed passages: answer, workflow, what each role said, passages, costs."""
    given = {name: value for name, value in locals().items() if value is not None}
    loading = {name: given[name] for name in _LOADING if name in given}
    loading |= {"adapter": None if adapter == "none" else adapter, "retriever_mode": retriever}
    options = {name: given[name] for name in _PER_CALL if name in given}
    check(question, options)
    session = Session(loading, options, full=full, as_json=as_json)
    if question is not None:
        session.ask(question)
    else:
        session.prompt()


def check(question: str | None, options: Mapping[str, Any]) -> None:
    """Refuse what can be refused before any model loads.

    Raises:
        ConfigError: A question that is blank or too long, an unknown workflow, an impossible option.
    """
    from graphs.options import read_options
    from graphs.question import check_question

    if question is not None and not question.strip():
        raise ConfigError("the question is blank; give one in quotes, or none at all to get a prompt")
    if question is not None:
        check_question(question)
    read_options(options)


class Session:
    """A loaded graph that answers one question after another."""

    def __init__(
        self, loading: Mapping[str, Any], options: Mapping[str, Any], *, full: bool = False, as_json: bool = False
    ) -> None:
        """Load model and index, telling stage by stage on stderr."""
        from graphs import load_graph

        self.options, self.full, self.as_json = dict(options), full, as_json
        self._closed: list[Trajectory] = []
        graph = load_graph(**loading, progress=note)
        self.graph: RecordedGraph = graph.with_recorder(on_close=self._closed.append)

    def ask(self, question: str) -> None:
        """Answer and print."""
        self._closed.clear()
        with _told_once():
            result = self.graph.invoke(question, **self.options)
        trajectory = self._closed[-1] if self._closed else None
        if self.as_json:
            show_json(as_data(result, trajectory, full=self.full))
            return
        from cli.render import answer_view
        from cli.show import lookup_titles

        found = lookup_titles(trajectory, None) if self.full and trajectory is not None else {}
        display(answer_view(result, trajectory, full=self.full, found=found))
        for warning in result.get("warnings") or ():
            warn(str(warning))

    def prompt(self) -> None:
        """Ask until the input ends; a mistake or a Ctrl-C costs one question only."""
        if sys.stdin.isatty():
            note("Ask; an empty line or Ctrl-D ends.")
        while question := self._read():
            try:
                self.ask(question)
                if not self.as_json:
                    display("")
            except JadeError as error:
                show_error(str(error), as_json=self.as_json)
            except KeyboardInterrupt:
                note("interrupted; ask again, or press Ctrl-D to end")

    def _read(self) -> str:
        """Return the next question, or "" at the end; a pipe's blank lines are skipped."""
        if sys.stdin.isatty():
            import readline  # noqa: F401  (line editing and history for input())

            try:
                return input("? ").strip()
            except (EOFError, KeyboardInterrupt):
                return ""
        return next((line.strip() for line in sys.stdin if line.strip()), "")


@contextmanager
def _told_once() -> Iterator[None]:
    """Keep the ledger's log quiet: what it could not write is among the result's warnings, which are shown."""
    log = logging.getLogger("jade.ledger")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def as_data(result: Mapping[str, Any], trajectory: Trajectory | None, *, full: bool = False) -> dict[str, Any]:
    """Return what --json prints: the result, outcome and seconds, and with --show the whole record."""
    data = dict(result)
    if trajectory is not None:
        data |= {"outcome": trajectory.outcome, "seconds": dict(trajectory.seconds)}
        if full:
            data["trajectory"] = trajectory.to_json()
    return data
