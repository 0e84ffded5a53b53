"""Composition root: names and paths become a model, an index and a recorded graph.

`load_graph` is the Python door. Only here does `graphs` reach for the model and for Chroma, and a lazy graph only
when the first question comes.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.adapters import MergedInfo, adapter_folder, read_adapter, read_merged
from agents.call import Policy
from agents.errors import ConfigError
from agents.home import jade_home
from agents.lazy import LazyPolicy, LazyRetriever
from agents.passage import Retriever
from agents.role import Prompts
from agents.roster import ROLES, prompts_digest
from graphs.costs import Costs, adapter_name, cost_folders, speakers
from graphs.jade import GraphName, build_graph
from graphs.ledger import LedgerWriter
from graphs.options import Options, read_options
from graphs.recorded import RecordedGraph, trainable

if TYPE_CHECKING:
    from agents.model import SharedModel
    from agents.remote import RemotePolicy

Progress = Callable[[str], None]
SHIPPED = Path(__file__).resolve().parent.parent / "adapters" / "default"
"""The adapter that the project's own commands trained; absent until one ships."""


def load_graph(
    model: str | Path | None = None,
    *,
    adapter: str | Path | Mapping[str, str | Path | None] | None = "auto",
    costs: Costs | None = None,
    index: str | None = None,
    retriever_mode: str = "exact",
    embedder: str | None = None,
    prompts: str | Path | Prompts | None = None,
    topology: GraphName = "jade",
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    ledger: str | Path | LedgerWriter | None = None,
    top_k: int = 5,
    max_depth: int = 2,
    server: str | None = None,
    policy: Policy | None = None,
    retriever: Retriever | None = None,
    checkpointer: Any = None,
    lazy: bool = False,
    progress: Progress | None = None,
    **defaults: Any,
) -> RecordedGraph:
    """Return JADE's graph, ready for `graph.invoke(question)`.

    Args:
        model: None = the embedded SmolLM2-135M-Instruct; a local folder, such as one that `jade export` wrote (it
            names its own prompt set); or a Hugging Face id.
        adapter: "auto" = the shipped one where there is one for this model; None = the model as it is; an adapter
            folder, or the id of the MLflow run that logged it; or a mapping role name → one of these ("*" for the
            rest), to play roles on different adapters, a role whose value is None on none.
        costs: Adapters of a sweep, for `invoke(..., cost="low")`: "low" and "high" → adapter, or a folder that holds
            low/ and high/; None = those beside an adapter folder that is called default.
        index: Collection that `jade index` built, or a bundled dataset's name; None = the starter corpus.
        retriever_mode: "exact", "hnsw", "bm25" or "hybrid".
        embedder: None = the embedded MiniLM; a local folder; or a Hugging Face id.
        prompts: "examples", "bare", a folder of <role>.txt files, or a prompt set; None = what the adapter was
            or the exported model was trained under, "examples" for an untuned model.
        topology: "jade" (planned), or one topology alone: "single_round", "qds", "qdp".
        device: "auto", "cpu", "cuda", …
        dtype: "auto", "bf16", "fp16" or "fp32".
        threads: CPU threads of the model.
        ledger: Folder of recorded executions; None = ledger/ in JADE's home.
        top_k: Passages a retrieval.
        max_depth: Deepest decomposition the graph is built for, 0 to 2.
        server: Address of a llama.cpp or vLLM server that runs `model`, which then is not loaded here; "auto" means no
            adapter then, and decoding is free unless told otherwise. JADE_SERVER_KEY holds its key, if it wants one.
        policy: Anything that implements `agents.call.Policy`, instead of a local model.
        retriever: Anything that implements `agents.passage.Retriever`, instead of an index.
        checkpointer: A LangGraph checkpointer, for runs that can be interrupted and resumed.
        lazy: Load model and index at the first question rather than now.
        progress: Told one line per stage of loading.
        **defaults: Options in force where a call names none, such as `max_turns` or `decoding`. An untuned model
            decodes "constrained" unless told otherwise: it rarely hits the formats by itself.

    Raises:
        ConfigError: An argument cannot be used as given.
        SetupError: The embedded models cannot be prepared.
        RetrieverError: The index cannot answer.
    """
    if policy is not None and costs is not None:
        raise ConfigError("costs chooses adapters of a local model, and a policy was given; drop one of the two")
    if policy is not None and server is not None:
        raise ConfigError("server and policy both say who speaks; drop one of the two")
    if server is not None and adapter == "auto":
        adapter = None
    folders = _adapter_folders(model, adapter) if policy is None else {}
    chosen = cost_folders(costs, folders.get("*"))
    merged = read_merged(model) if policy is None and model is not None else None
    untuned = policy is None and server is None and not folders and merged is None
    _known(defaults)
    options = read_options({"decoding": "constrained", **defaults} if untuned else defaults)
    prompt_set = _prompt_set(prompts, [*folders.values(), *chosen.values()], merged)
    named = {_adapter_name(role): folder for role, folder in folders.items()}
    named |= {adapter_name(cost): folder for cost, folder in chosen.items()}
    load_policy: Callable[[], Policy] = partial(
        _load_policy, model, named, prompt_set, device, dtype, threads, progress
    )
    if server is not None:
        load_policy = partial(_reach_policy, server, model, named, prompt_set)
    speaker: Policy = policy if policy is not None else LazyPolicy(load_policy)
    find = partial(_open_retriever, index, retriever_mode, embedder, top_k, progress)
    source: Retriever = retriever if retriever is not None else LazyRetriever(find)
    if not lazy:
        _ = source.identity, speaker.context_length
    graph = build_graph(topology, source, max_depth=max_depth, top_k=top_k)
    if checkpointer is not None:
        graph = graph.copy({"checkpointer": checkpointer})
    recorded = trainable(
        graph,
        policy=speaker,
        prompts=prompt_set,
        adapters=_adapter_names(adapter, folders),
        retriever=source,
        ledger=ledger if isinstance(ledger, LedgerWriter) else default_ledger(ledger),
        defaults=options,
    )
    return recorded.with_recorder(code=code_version(), costs=speakers(chosen))


def _known(defaults: Mapping[str, Any]) -> None:
    """Refuse an argument of `load_graph` that is neither its own nor an option of a call.

    Raises:
        ConfigError: There is one; the message names the nearest that there is.
    """
    own = [name for name in inspect.signature(load_graph).parameters if name != "defaults"]
    allowed = [*own, *Options.model_fields]
    for name in defaults:
        if name not in allowed:
            close = difflib.get_close_matches(name, allowed, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ";"
            raise ConfigError(f"load_graph() has no argument {name!r}{hint} allowed: {', '.join(allowed)}")


def shipped_adapter(model: str | Path | None) -> Path | None:
    """Return the adapter that speaks unless told otherwise: the shipped one, on the embedded model only."""
    return SHIPPED if model is None and SHIPPED.is_dir() else None


def _adapter_folders(
    model: str | Path | None, adapter: str | Path | Mapping[str, str | Path | None] | None
) -> dict[str, Path]:
    """Return role name → adapter folder, "*" standing for all roles not named."""
    if adapter is None:
        return {}
    if adapter == "auto":
        shipped = shipped_adapter(model)
        return {} if shipped is None else {"*": shipped}
    if isinstance(adapter, str | Path):
        return {"*": adapter_folder(adapter)}
    unknown = [role for role in adapter if role not in ROLES and role != "*"]
    if unknown:
        raise ConfigError(f"adapter names unknown roles {unknown}; allowed: *, {', '.join(ROLES)}")
    return {role: adapter_folder(given) for role, given in adapter.items() if given is not None}


def _adapter_name(role: str) -> str:
    return "default" if role == "*" else f"role-{role}"


def _adapter_names(adapter: Any, folders: Mapping[str, Path]) -> dict[str, str | None]:
    """Return role name → adapter name; None where the caller wants the bare model for a role."""
    bare = [role for role in adapter if adapter[role] is None] if isinstance(adapter, Mapping) else []
    return {**dict.fromkeys(bare), **{role: _adapter_name(role) for role in folders}}


def _prompt_set(prompts: str | Path | Prompts | None, folders: Sequence[Path], merged: MergedInfo | None) -> Prompts:
    """Choose the prompt set: the one asked for, else the adapters', else the exported model's, else with examples.

    Raises:
        ConfigError: The adapters were trained under other sets, or under different ones; or the folder cannot be used.
    """
    if isinstance(prompts, Prompts):
        return prompts
    if prompts in ("examples", "bare"):
        for folder in folders:
            read_adapter(folder, prompts=str(prompts))
        return Prompts("bare" if prompts == "bare" else "examples")
    if prompts is not None:
        folder = Path(prompts).expanduser()
        if not folder.is_dir():
            raise ConfigError(f"prompts={str(prompts)!r}; allowed: examples, bare, or a folder of <role>.txt files")
        replaced = Prompts.load(folder, "bare" if merged else "examples", ROLES)
        if folders:
            raise ConfigError(
                f"prompts={str(prompts)!r} would replace what adapter {folders[0]} was trained under; leave the "
                "prompts out, or do without the adapter (adapter=None, --adapter none)"
            )
        return replaced
    sets = {read_adapter(folder).prompts for folder in folders}
    if not sets and merged is not None:
        sets = {merged.prompts}
    if len(sets) > 1:
        raise ConfigError(
            f"the adapters were trained under different prompt sets {sorted(sets)}; choose adapters of one"
        )
    return Prompts("bare" if sets == {"bare"} else "examples")


def _load_policy(
    model: str | Path | None,
    adapters: Mapping[str, Path],
    prompts: Prompts,
    device: str,
    dtype: str,
    threads: int | None,
    progress: Progress | None,
) -> SharedModel:
    """Load the model and its adapters (name → folder), and check that they belong to model and prompts."""
    from agents.model import SharedModel

    shared = SharedModel.load(
        model,
        dtype=dtype,
        device=device,
        threads=threads,
        text_digest=prompts_digest(prompts),
        progress=progress,
    )
    for name, folder in adapters.items():
        shared.add_adapter(name, folder)
        read_adapter(folder, base_weights=shared.weights, text=shared.identity["text"])
    default = _adapter_name("*")
    if default in adapters:
        shared.adapter = default
        shared.version = str(read_adapter(adapters[default]).version)
    return shared


def _reach_policy(
    server: str, model: str | Path | None, adapters: Mapping[str, Path], prompts: Prompts
) -> RemotePolicy:
    """Reach the server that runs a model, and have it load the adapters (name → folder)."""
    from agents.remote import RemotePolicy
    from agents.remote_reach import reach, seat

    remote, default = reach(RemotePolicy, server, model, prompts_digest(prompts)), _adapter_name("*")
    for name, folder in adapters.items():
        if name == default:
            seat(remote, name, folder)
        else:
            remote.load_adapter(name, folder)
    return remote


def _open_retriever(
    index: str | None, mode: str, embedder: str | None, top_k: int, progress: Progress | None
) -> Retriever:
    from agents.retriever import open_retriever

    def tell(line: str, done: int = 0, total: int = 0) -> None:
        if progress is not None:
            progress(f"{line} {done}/{total}" if total else line)

    return open_retriever(index, mode=mode, k=top_k, embedder=embedder, progress=tell)  # type: ignore[arg-type]


def default_ledger(folder: str | Path | None = None) -> LedgerWriter:
    """Return a writer into `folder`, or into ledger/ in JADE's home."""
    return LedgerWriter(Path(folder).expanduser() if folder is not None else jade_home() / "ledger")


def default_policy() -> Policy:
    """Return the embedded model with the prompts of an untuned model, loaded at the first call."""
    return LazyPolicy(partial(_load_policy, None, {}, Prompts(), "auto", "auto", None, None))


def code_version() -> str:
    """Return the installed version, recorded with each run and never compared."""
    try:
        return version("jade-rag")
    except PackageNotFoundError:
        return "unknown"
