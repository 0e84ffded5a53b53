"""`jade index`: build or update a collection from one's own files, or from a bundled benchmark."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agents.errors import ConfigError
from cli.terminal import note, program, show_json, warn
from cli.terminal import show as display

if TYPE_CHECKING:
    from collections.abc import Callable

    from agents.index import IndexReport

_NAMED = 5
"""Most left-out files that are named one by one."""
Source = Annotated[
    Path | None,
    typer.Argument(help="Folder of .txt, .md, .html and .pdf files, or a .jsonl/.csv file with id, title, text."),
]


def index(
    source: Source = None,
    dataset: Annotated[str | None, typer.Option(help="Bundled benchmark, such as hotpotqa; or starter.")] = None,
    collection: Annotated[str | None, typer.Option(help="Name of the collection; default: documents.")] = None,
    embedder: Annotated[str | None, typer.Option(help="Folder or Hugging Face id; default: embedded MiniLM.")] = None,
    chunk: Annotated[int | None, typer.Option(min=50, help="Longest passage, in characters.")] = None,
    overlap: Annotated[int | None, typer.Option(min=0, help="Characters that neighbours share.")] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Drop the collection first.")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out files with faults.")] = False,
    recall: Annotated[bool, typer.Option(help="Measure recall@5 where supporting passages are known.")] = True,
    retriever: Annotated[str, typer.Option(help="Measure recall of exact, hnsw, bm25 or hybrid.")] = "exact",
    listing: Annotated[bool, typer.Option("--list", help="List the collections and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Index documents: only what is new or changed is embedded, what vanished is removed; interrupts resume."""
    if listing:
        _list(as_json)
        return
    if source is None and dataset is None:
        raise ConfigError("nothing to index: give a folder or file, or --dataset NAME (`jade index --help`)")
    given = {"chunk": chunk, "overlap": overlap}
    try:
        report = _build(
            source,
            dataset=dataset,
            collection=collection,
            embedder=embedder,
            rebuild=rebuild,
            skip_bad=skip_bad,
            **{name: value for name, value in given.items() if value is not None},
        )
    except KeyboardInterrupt:
        note(f"what was embedded is kept: run it again{' without --rebuild' if rebuild else ''} to go on")
        raise
    found = _recall(report, dataset, embedder, retriever) if recall and dataset is not None else None
    if as_json:
        show_json({**asdict(report), "recall": found})
        return
    _tell(report, found)


def _build(source: Path | None, **arguments: Any) -> IndexReport:
    """Build with a progress bar on stderr; where that is no terminal, with a line for each stage."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from agents.index import build_index

    console = Console(stderr=True)
    if not console.is_terminal:
        return build_index(source, progress=_stages(), **arguments)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def tell(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total or None)

        return build_index(source, progress=tell, **arguments)


def _stages() -> Callable[[str, int, int], None]:
    """Return a listener that notes each stage as it begins, and every tenth of a long one."""
    noted: set[tuple[str, int]] = set()

    def tell(what: str, done: int, total: int) -> None:
        tenth = 10 * done // total if total else 0
        if (what, tenth) not in noted:
            noted.add((what, tenth))
            note(f"{what} {done:,} of {total:,}" if total else what)

    return tell


def _recall(report: IndexReport, dataset: str, embedder: str | None, mode: str) -> dict[str, Any] | None:
    """Return recall@5 on the dataset's dev questions, or None where their supporting passages are not known."""
    from agents.chroma import STARTER
    from agents.corpora import has_split, read_supporting
    from agents.recall import recall_at_k
    from agents.retriever import open_retriever

    questions = read_supporting(dataset, "dev") if dataset != STARTER and has_split(dataset, "dev") else []
    known = [(question, passages) for question, passages in questions if passages]
    if not known:
        return None
    note(f"measuring recall@5 on {len(known)} dev questions")
    retriever = open_retriever(report.collection, mode=mode, embedder=embedder)  # type: ignore[arg-type]
    found = recall_at_k(retriever, known, 5)
    return {"mode": mode, **asdict(found)}


def _tell(report: IndexReport, found: dict[str, Any] | None) -> None:
    counts = ("added", "updated", "removed", "kept")
    changes = ", ".join(f"{getattr(report, name):,} {name}" for name in counts if getattr(report, name))
    display(f"collection {report.collection}: {report.passages:,} passages ({changes or 'empty'})")
    display(f"embedder {report.embedder} · {report.seconds:.1f} s · content {report.content[:8]}")
    if found is not None:
        display(
            f"recall@5 ({found['mode']}) {found['found']:.3f} of the supporting passages; "
            f"all of them for {found['complete']:.3f} of {found['questions']:,} dev questions"
        )
    for line in report.skipped[:_NAMED]:
        warn(f"left out {line}")
    if len(report.skipped) > _NAMED:
        warn(f"left out {len(report.skipped) - _NAMED:,} more; --json lists them all")
    display(f"ask it: {program()} ask --collection {report.collection} 'your question'")


def _list(as_json: bool) -> None:
    from agents.chroma import list_collections
    from agents.chroma_place import index_place

    infos = list_collections()
    if as_json:
        show_json([asdict(info) for info in infos])
        return
    if not infos:
        note(f"no collection in {index_place()} yet; the first `jade ask` builds the starter corpus")
    for info in infos:
        display(f"{info.name}  {info.passages:,} passages  {info.embedder or 'foreign'}  {info.state}")
