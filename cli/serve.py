"""`jade serve`: an HTTP service that answers questions, with an OpenAI-compatible face beside its own."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agents.errors import ConfigError
from cli import shared_options as shared
from cli.terminal import note

if TYPE_CHECKING:
    from collections.abc import Mapping

    from graphs.recorded import RecordedGraph

_SERVICE = "Service"
_OF_THE_MODEL = ("model", "adapter", "costs", "prompts", "device", "dtype", "threads", "server")
_OF_THE_PASSAGES = ("index", "retriever_mode", "embedder", "top_k")
Graph = Annotated[
    str | None,
    typer.Option(help="Your own graph as package.module:name; default: JADE's.", rich_help_panel=_SERVICE),
]
Host = Annotated[str, typer.Option(help="Address; others than loopback need a key.", rich_help_panel=_SERVICE)]
Port = Annotated[int, typer.Option(help="0 = any free one.", rich_help_panel=_SERVICE)]
Capacity = Annotated[int, typer.Option(help="Most questions that run at once.", rich_help_panel=_SERVICE)]
Queue = Annotated[int, typer.Option(help="Most that wait; beyond them 429.", rich_help_panel=_SERVICE)]
Timeout = Annotated[
    float, typer.Option(help="Seconds a question may take, waiting included.", rich_help_panel=_SERVICE)
]
MaxBody = Annotated[int, typer.Option(help="Most bytes of a request.", rich_help_panel=_SERVICE)]
KeyFile = Annotated[
    Path | None,
    typer.Option("--api-key-file", help="API keys, one a line; or set JADE_API_KEY.", rich_help_panel=_SERVICE),
]
Name = Annotated[str, typer.Option(help="Model name told to OpenAI clients.", rich_help_panel=_SERVICE)]


def serve(
    graph: Graph = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    capacity: Capacity = 4,
    queue: Queue = 16,
    timeout: Timeout = 120.0,
    max_body: MaxBody = 1024 * 1024,
    api_key_file: KeyFile = None,
    name: Name = "jade",
    model: shared.Model = None,
    adapter: shared.Adapter = "auto",
    costs: shared.Costs = None,
    prompts: shared.Prompts = None,
    device: shared.Device = "auto",
    dtype: shared.Dtype = "auto",
    threads: shared.Threads = None,
    server: shared.Server = None,
    index: shared.Index = None,
    retriever: shared.Mode = "exact",
    embedder: shared.Embedder = None,
    top_k: shared.TopK = 5,
    record: shared.Record = None,
    ledger: shared.Ledger = None,
) -> None:
    """Answer questions over HTTP until a signal comes; then let what runs end."""
    from serving.config import ServeConfig, read_keys

    keys = read_keys(api_key_file, os.environ)
    config = ServeConfig(
        host=host,
        port=port,
        capacity=capacity,
        queue=queue,
        timeout=timeout,
        max_body=max_body,
        keys=keys,
        name=name,
    )
    given: dict[str, Any] = {
        "model": model,
        "adapter": adapter,
        "costs": costs,
        "prompts": prompts,
        "device": device,
        "dtype": dtype,
        "threads": threads,
        "server": server,
        "index": index,
        "retriever_mode": retriever,
        "embedder": embedder,
        "top_k": top_k,
        "ledger": ledger,
    }
    usual = {"adapter": "auto", "device": "auto", "dtype": "auto", "retriever_mode": "exact", "top_k": 5}
    chosen = {key: value for key, value in given.items() if value is not None and value != usual.get(key)}
    _run(_served(graph, chosen, record), config)


def _run(graph: RecordedGraph, config: Any) -> None:
    """Load what is not loaded yet, then serve."""
    from serving.server import serve as serve_graph

    graph.recorder.hashes()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    serve_graph(graph, config, lambda url: note(f"JADE listens on {url} (Ctrl-C lets what runs end)"))


def _served(spec: str | None, chosen: Mapping[str, Any], record: str | None) -> RecordedGraph:
    """Return the graph to serve.

    Raises:
        ConfigError: It cannot be found, or an option is not for it.
    """
    from graphs import load_graph
    from graphs.options import read_options

    defaults: dict[str, Any] = {} if record is None else {"record": record}
    read_options(defaults)
    loading: dict[str, Any] = {**chosen, **({"adapter": None} if chosen.get("adapter") == "none" else {})}
    if spec is None:
        return load_graph(**loading, **defaults, progress=note)
    foreign = [key for key in _OF_THE_PASSAGES if key in chosen]
    if foreign:
        raise ConfigError(f"--graph brings its own retriever; {', '.join(foreign)} would change nothing: leave it out")
    graph = _own(spec, loading)
    return graph.with_recorder(defaults=read_options(defaults, graph.recorder.defaults))


def _own(spec: str, loading: Mapping[str, Any]) -> RecordedGraph:
    """Return the user's graph: with its own model, unless one is named on the command line.

    Raises:
        ConfigError: The name cannot be imported, or is no graph.
    """
    from agents.named import load_object
    from evaluation.systems import make_graph
    from graphs import load_graph, trainable
    from graphs.recorded import RecordedGraph

    found = make_graph(spec, load_object(spec, "graph"), {})
    graph = found if isinstance(found, RecordedGraph) else trainable(found)
    changes: dict[str, Any] = {}
    if any(key in loading for key in _OF_THE_MODEL):
        ours = load_graph(**{"adapter": None, **loading}, lazy=True, progress=note).recorder
        changes = {"batcher": ours.batcher, "prompts": ours.prompts, "adapters": ours.adapters, "costs": ours.costs}
    if "ledger" in loading:
        from graphs.app import default_ledger

        changes["ledger"] = default_ledger(loading["ledger"])
    return graph.with_recorder(**changes)
