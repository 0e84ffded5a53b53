"""Can a recorded run be made again here: is the record enough, and is what is installed still what made it?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents.errors import ConfigError, RetrieverError
from agents.routed import speakers_of
from graphs.recorded import RecordedGraph
from graphs.replay import options_of, rebuild
from graphs.run import Recorder
from graphs.trajectory import FAILED, Trajectory


def check_rebuilt(run: Trajectory, graph: RecordedGraph) -> list[str]:
    """Make a run again from its record, prompt by prompt; loads the model and opens the index.

    Returns:
        Remarks: what differs and may be wanted.

    Raises:
        ConfigError, RetrieverError: As `check_record`, `check_identity` and `check_roles`.
        LedgerError: The graph does something else than was recorded.
    """
    check_record(run)
    remarks = check_identity(run, graph)
    check_roles(run, rebuild(graph, run))
    return remarks


def check_record(run: Trajectory) -> None:
    """Refuse a run that cannot be made again, whatever is installed.

    Raises:
        ConfigError: It failed, or its record holds no tokens.
    """
    if run.outcome in FAILED:
        raise ConfigError(f"run {run.run} ended as {run.outcome} ({run.error}): there is no outcome to compare with")
    bare = [call.id for call in run.calls if not call.prompt_ids]
    if not run.calls or bare:
        what = f"holds no tokens of {', '.join(bare[:3])}" if bare else "holds no calls"
        raise ConfigError(f"the record of run {run.run} {what}, so it cannot be made again; ask with record='on'")


def check_identity(run: Trajectory, graph: RecordedGraph) -> list[str]:
    """Compare what made a run with what would go on; loads the model and opens the index.

    Returns:
        Remarks: what differs and may be wanted.

    Raises:
        ConfigError: Another model, tokenizer or prompt set, another index, or no adapter for the run's cost.
        RetrieverError: The index is gone, or cannot answer.
    """
    recorder = graph.recorder.at(options_of(run).cost)
    try:
        hashes = recorder.hashes()
    except RetrieverError as error:
        raise RetrieverError(f"run {run.run} searched {_searched(run)}: {error}") from error
    if run.hashes.get("text", "") != hashes["text"]:
        here = recorder.batcher.policy.identity.get("base", "?")
        raise ConfigError(
            f"run {run.run} was recorded under text hash {run.hashes.get('text')} on {run.identity.get('base', '?')}, "
            f"here it is {hashes['text']} on {here}: another model, tokenizer, prompt set or version of the roles; "
            "give the --model, --adapter and --prompts that it was recorded with"
        )
    if run.hashes.get("environment", "") != hashes["environment"]:
        raise ConfigError(
            f"run {run.run} searched {_searched(run)}, which is not what is there now: other passages, embedder, mode "
            "or number of passages; build that index again, or ask the question anew"
        )
    return _compare_speakers(run, recorder, hashes["policy"])


def _compare_speakers(run: Trajectory, recorder: Recorder, policy: str) -> list[str]:
    """Return a remark where somebody else goes on than played the run, or where the record does not tell."""
    was, adapters = speakers(run), {call.role: call.adapter for call in run.calls}
    now = speakers_of(recorder.batcher.policy, {role: recorder.adapter_of(role) for role in adapters})
    if (before := run.hashes.get("policy", "")) != policy and set(was.values()) <= {before}:
        return [f"the run was played by {before}, what goes on live is played by {policy}"]
    other = [role for role in was if role in now and was[role] != now[role]]
    if other:
        named = "; ".join(f"{role} was played by {was[role]}, live by {now[role]}" for role in other)
        return [f"other adapters go on live: {named}"]
    unknown = [role for role, name in adapters.items() if (role not in was or role not in now) and not _own(run, name)]
    if unknown:
        return [f"the record does not say which adapter played {', '.join(unknown)}, so that cannot be checked"]
    return []


def speakers(run: Trajectory) -> Mapping[str, str]:
    """Return role → hash of who played it; empty in records older than this."""
    known = run.identity.get("speakers")
    return known if isinstance(known, Mapping) else {}


def _own(run: Trajectory, adapter: str | None) -> bool:
    """Return whether an adapter is the one that the run's policy hash stands for."""
    return bool((adapter or "") == run.identity.get("adapter", ""))


def check_roles(run: Trajectory, again: Trajectory) -> None:
    """Refuse roles of one's own that say something else than they did.

    Raises:
        ConfigError: A role's texts have changed since the run was recorded.
    """
    was, now = (item.identity.get("roles", {}) for item in (run, again))
    changed = [name for name, digest in was.items() if now.get(name, digest) != digest]
    if changed:
        raise ConfigError(f"run {run.run} was recorded with other texts of the role {', '.join(changed)}; ask anew")


def _searched(run: Trajectory) -> str:
    known = retriever_of(run)
    return f"collection {known['collection']!r}" if known.get("collection") else "an index of another kind"


def retriever_of(run: Trajectory) -> Mapping[str, Any]:
    """Return what the record says of the index: "collection", "mode", "k" and the like; empty without one."""
    known = run.identity.get("retriever")
    return known if isinstance(known, Mapping) else {}
