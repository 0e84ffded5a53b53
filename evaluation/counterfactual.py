"""Why a recorded run ended as it did: each of its calls skipped, sampled anew, or played by the untuned model.

    explain(run, graph).calls[0].alternatives

The run is made again up to the call from its record; the call is changed; what depends on it goes on live, everything
else is still taken from the record. A skipped call says nothing and its role's declared fallback stands in, which is
what the graph does with an invalid response (a skipped planner chooses `R,AG`). Who writes the answer cannot be
skipped. The untuned model reads the same prompt and is held to the role's grammar. Nothing is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, get_args

from agents.call import Call, Completion, Request
from agents.errors import ConfigError
from agents.roster import ROLES
from agents.workflow import TAG
from evaluation.counterfactual_result import Alternative, CallWhy, Ending, Explanation, Kind
from evaluation.golds import Golds
from evaluation.metrics import answer_score
from evaluation.rebuildable import check_rebuilt
from evaluation.rebuilding import Rebuilder
from graphs.ledger import find_run, ledger_folder
from graphs.recorded import RecordedGraph
from graphs.replay import Change, Replay, instead, make_again, options_of
from graphs.trajectory import FAILED, Trajectory

KINDS: tuple[Kind, ...] = get_args(Kind)
"""What may stand in for a call, in the order of reports."""
Score = Callable[[str, tuple[str, ...]], float]
"""(answer, gold answers) → correctness."""
SKIPS = {
    "planner": "the node runs R,AG (AG where no retrieval is left)",
    "serial_decomposer": "the node is not split: it runs R,AG (AG where no retrieval is left)",
    "parallel_decomposer": "the node is not split: it runs R,AG (AG where no retrieval is left)",
    "query_rewriter": "the node's question is the query",
    "document_selector": "all retrieved documents go on",
    "answer_summariser": "the last hop's answer is the answer",
}
"""What a graph of ours does without a role; a role of one's own is replaced by its fallback."""
_WRITERS = ("answer_generator", "solo")
_WRITES = "it writes the answer: nothing can stand in for it"
_PLANS = tuple(f"<{TAG}>{plan}</{TAG}>" for plan in ("R,AG", "AG"))
SEED_STEP = 1_000_003
"""Between the seeds of samples: training gives neighbouring seeds to runs of one question."""


def explain(
    run: Trajectory | str,
    graph: RecordedGraph | None = None,
    *,
    golds: Sequence[str] | None = None,
    resamples: int = 4,
    roles: Sequence[str] = (),
    kinds: Sequence[str] = KINDS,
    score: Score = answer_score,
    in_flight: int = 64,
) -> Explanation:
    """Return what each call of a recorded run changed in its score and its cost.

    Args:
        run: The run, or the id of one in JADE's own ledger.
        graph: The graph that made it; default: found out, with the recorded adapter (see `Rebuilder`).
        golds: Gold answers; None = from the bundled sets. Without any, scores are the agreement with the recorded
            answer.
        resamples: Fresh samples of each call; 0 = none.
        roles: Only calls of these roles; empty = all.
        kinds: Which of `KINDS` to try.
        score: Correctness of an answer.
        in_flight: Most runs at once.

    Raises:
        ConfigError: An impossible argument, or a run that cannot be made again here.
        LedgerError: No such run, or the graph does something else than was recorded.
        RetrieverError: The index is gone.
    """
    check_wishes(resamples, kinds)
    if isinstance(run, str):
        run = find_run(ledger_folder(), run)
    check_roles(roles, run)
    graph = graph or Rebuilder().graph(run)
    remarks = check_rebuilt(run, graph)
    golds = Golds().of(run) if golds is None else tuple(golds)
    if not golds and not run.answer:
        raise ConfigError(f"run {run.run} has no gold answer and gave none: there is nothing to compare with; give one")
    judge = partial(score_ending, score=score, golds=golds or (run.answer,))
    calls = [call for call in run.calls if not roles or call.role in roles]
    wanted = tuple(kind for kind in KINDS if kind in kinds and (kind != "resampled" or resamples))
    tried = _try(run, graph, calls, wanted, resamples, bool(remarks), in_flight)
    alternatives = {
        call.id: tuple(_alternative(call, kind, tried.get((call.id, kind), ()), judge) for kind in wanted)
        for call in calls
    }
    whys = tuple(CallWhy(call.id, call.role, call.text, alternatives[call.id]) for call in calls)
    return Explanation(
        run.run, run.question_id or run.question, run.question, tuple(golds), judge(run), whys, tuple(remarks)
    )


def check_wishes(resamples: int, kinds: Sequence[str]) -> None:
    """Refuse what cannot be tried.

    Raises:
        ConfigError: A negative number of samples, or an unknown kind.
    """
    if resamples < 0:
        raise ConfigError(f"resamples={resamples}: give 0 (none) or more")
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ConfigError(f"a call cannot be {', '.join(unknown) or 'left as it is'}; allowed: {', '.join(KINDS)}")


def check_roles(roles: Sequence[str], run: Trajectory) -> None:
    """Refuse a role that neither JADE nor the run knows.

    Raises:
        ConfigError: There is such a one; the message lists the others.
    """
    spoke = [call.role for call in run.calls]
    unknown = [role for role in roles if role not in ROLES and role not in spoke]
    if unknown:
        allowed = ", ".join(dict.fromkeys([*ROLES, *spoke]))
        raise ConfigError(f"no role {', '.join(unknown)}; allowed: {allowed}")


def score_ending(run: Trajectory, *, score: Score, golds: tuple[str, ...]) -> Ending:
    """Return how a run ended: its answer, what that is worth (0 where it failed), and what the run cost."""
    return Ending(
        answer=run.answer,
        score=0.0 if run.outcome in FAILED else float(score(run.answer, golds)),
        turns=run.turns,
        retrievals=len(run.retrievals),
        tokens=sum(len(call.response_ids) for call in run.calls),
        trajectory=run,
    )


@dataclass(frozen=True)
class _Trial:
    """One run to be made otherwise."""

    call: Call
    kind: Kind
    replay: Replay


def _silence(request: Request) -> Completion:
    """Say nothing: a truncated response is never parsed, so the role's fallback stands in."""
    return Completion((), (), (), "", truncated=True)


def _saying(text: str, request: Request) -> Completion:
    return Completion((), (), (), text, truncated=False)


def _at(temperature: float, request: Request) -> Request:
    return replace(request, temperature=temperature)


def _untuned(request: Request) -> Request:
    return replace(request, adapter=None)


def _try(
    run: Trajectory,
    graph: RecordedGraph,
    calls: Sequence[Call],
    kinds: Sequence[Kind],
    resamples: int,
    other: bool,
    in_flight: int,
) -> dict[tuple[str, Kind], list[Trajectory]]:
    """Make all runs otherwise, together, so that the model sees full batches; `other`: by another policy."""
    trials = [trial for call in calls for kind in kinds for trial in _trials(run, graph, call, kind, resamples, other)]
    ended = make_again(graph, [trial.replay for trial in trials], in_flight=in_flight)
    again = [place for place, trial in enumerate(trials) if _refused(trial, ended[place])]
    closed_book = [replace(trials[place].replay, change=partial(_saying, _PLANS[1])) for place in again]
    for place, second in zip(again, make_again(graph, closed_book, in_flight=in_flight), strict=True):
        ended[place] = second
    tried: dict[tuple[str, Kind], list[Trajectory]] = {}
    for trial, found in zip(trials, ended, strict=True):
        tried.setdefault((trial.call.id, trial.kind), []).append(found)
    return tried


def _refused(trial: _Trial, ended: Trajectory) -> bool:
    """Return whether a skipped planner's R,AG was beyond the budget of its node."""
    if trial.kind != "skipped" or trial.call.role != "planner":
        return False
    return any(call.id == trial.call.id and call.format_error for call in ended.calls)


def _trials(run: Trajectory, graph: RecordedGraph, call: Call, kind: Kind, resamples: int, other: bool) -> list[_Trial]:
    """Return the runs that one call is changed in; none where the kind makes no sense for it."""
    options = options_of(run)
    if kind == "skipped":
        if call.role in _WRITERS:
            return []
        change: Change = partial(_saying, _PLANS[0]) if call.role == "planner" else _silence
        return [_Trial(call, kind, instead(run, call.id, change, options, fresh=other))]
    if kind == "untuned":
        if graph.recorder.at(options.cost).adapter_of(call.role) is None:
            return []
        held = options.model_copy(update={"decoding": "constrained"})
        return [_Trial(call, kind, instead(run, call.id, _untuned, held, fresh=other))]
    seeds = [options.seed + SEED_STEP * place for place in range(1, resamples + 1)]
    sampled, fresh = partial(_at, call.temperature), other or not call.greedy
    return [
        _Trial(call, kind, instead(run, call.id, sampled, options.model_copy(update={"seed": seed}), fresh=fresh))
        for seed in seeds
    ]


def _alternative(
    call: Call, kind: Kind, ended: Sequence[Trajectory], judge: Callable[[Trajectory], Ending]
) -> Alternative:
    """Return what came of one kind of change, or why it could not be tried; what failed scores 0."""
    failed = [run for run in ended if run.outcome in FAILED]
    if not ended:
        return Alternative(kind, (), _WRITES if kind == "skipped" else "no adapter plays this role")
    if kind == "skipped" and _stands_for_nothing(call, ended[0]):
        return Alternative(kind, (), _WRITES)
    remark = f"{len(failed)} of {len(ended)} failed, which scores 0: {failed[0].error}" if failed else ""
    return Alternative(kind, tuple(judge(run) for run in ended), remark)


def _stands_for_nothing(call: Call, ended: Trajectory) -> bool:
    """Return whether the fallback of a role of one's own has nothing to say for it."""
    values: list[Any] = [item.value for item in ended.calls if item.id == call.id]
    return any(value is None or value == "" for value in values)
