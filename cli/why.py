"""`jade why RUN`: what each call of a recorded run changed; with --ledger alone, summed over a ledger by role."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agents.errors import ConfigError, JadeError
from cli.shared_options import MODEL, Device, Dtype, Embedder, Json, Model, Prompts, Threads
from cli.terminal import note, show, show_json, warn

if TYPE_CHECKING:
    from cli.why_values import Checks
    from evaluation.counterfactual_result import Explanation
    from evaluation.golds import Golds
    from evaluation.rebuilding import Rebuilder
    from graphs.trajectory import Trajectory
    from training.value_check import StateValue

_TRIED, _GOLD = "What is tried", "Gold answers"
Run = Annotated[str | None, typer.Argument(help="Run id, or enough of its beginning; default: the latest.")]
Ledger = Annotated[Path | None, typer.Option(help="Ledger folder or file; without RUN it is summed up by role.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Look at so many runs of the ledger at most.")]
Resamples = Annotated[int, typer.Option(min=0, help="Fresh samples of each call.", rich_help_panel=_TRIED)]
Instead = Annotated[
    list[str] | None,
    typer.Option(help="skipped, resampled or untuned; may be given again; default: all.", rich_help_panel=_TRIED),
]
Roles = Annotated[
    list[str] | None, typer.Option("--roles", help="Only this role; may be given again.", rich_help_panel=_TRIED)
]
Critic = Annotated[
    Path | None,
    typer.Option(help="Output folder of a PPO run: compare its critic with fresh samples.", rich_help_panel=_TRIED),
]
Gold = Annotated[list[str] | None, typer.Option(help="A gold answer; may be given again.", rich_help_panel=_GOLD)]
Answers = Annotated[
    str | None, typer.Option(help="File or set with gold answers; default: all bundled sets.", rich_help_panel=_GOLD)
]
Graph = Annotated[str | None, typer.Option(help="Your graph, as package.module:name.", rich_help_panel=MODEL)]
Adapter = Annotated[
    str,
    typer.Option(help="Folder or run id; recorded = the run's own, auto = the shipped one, none.",
                 rich_help_panel=MODEL),
]  # fmt: skip


def why(
    run: Run = None,
    ledger: Ledger = None,
    limit: Limit = None,
    resamples: Resamples = 4,
    instead: Instead = None,
    roles: Roles = None,
    critic: Critic = None,
    gold: Gold = None,
    answers: Answers = None,
    graph: Graph = None,
    model: Model = None,
    adapter: Adapter = "recorded",
    prompts: Prompts = None,
    embedder: Embedder = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Say what each call of a run changed: skipped, sampled anew, or played by the untuned model. Records nothing."""
    from evaluation.counterfactual import KINDS, check_wishes
    from evaluation.golds import Golds
    from evaluation.rebuilding import Rebuilder, Setting
    from graphs.ledger import find_run, ledger_folder

    kinds = tuple(instead or KINDS)
    check_wishes(resamples, kinds)
    if gold and answers:
        raise ConfigError("give --gold or --answers, not both")
    checks = _checks(critic, resamples, kinds)
    if checks is not None:
        adapter = str(checks.adapter) if adapter == "recorded" else adapter
        model, graph = model or checks.model, graph or checks.graph
        answers = answers if gold or answers else checks.answers
    setting = Setting(model, adapter, prompts, graph, embedder, device, dtype, threads)
    wishes = {"resamples": resamples, "kinds": kinds, "roles": tuple(roles or ())}
    explainer = Explainer(Rebuilder(setting, note), Golds(gold or (), answers), wishes, checks)
    if run is None and ledger is not None:
        _sum_up(ledger, limit, explainer, as_json)
    else:
        _tell(explainer.explain(find_run(ledger or ledger_folder(), run)), explainer, as_json)


def _checks(critic: Path | None, resamples: int, kinds: Sequence[str]) -> Checks | None:
    """Return what compares a critic's values, if one is given.

    Raises:
        ConfigError: There is no checkpoint with a critic, or no call is to be sampled anew.
    """
    if critic is None:
        return None
    if resamples < 2 or "resampled" not in kinds:
        raise ConfigError("--critic is compared with fresh samples: give --resamples 2 or more, and leave resampled in")
    from cli.why_values import Checks

    return Checks(critic)


class Explainer:
    """Explains runs with one model, and keeps what the critic says of their states."""

    def __init__(self, rebuilder: Rebuilder, golds: Golds, wishes: dict[str, Any], checks: Checks | None) -> None:
        """Take who finds graphs and gold answers, the arguments of `explain`, and the critic if there is one."""
        self._rebuilder, self._golds, self._wishes, self.checks = rebuilder, golds, wishes, checks
        self.states: list[StateValue] = []

    def explain(self, run: Trajectory) -> Explanation:
        """Return what each call of a run changed.

        Raises:
            JadeError: It cannot be made again here, or the critic does not fit it.
        """
        from evaluation.counterfactual import check_roles, explain

        check_roles(self._wishes["roles"], run)  # before a model is loaded
        graph, golds, checks = self._rebuilder.graph(run), self._golds.of(run), self.checks
        if checks is None:
            return explain(run, graph, golds=golds, **self._wishes)
        if not golds:
            raise ConfigError(f"run {run.run}: --critic needs a gold answer; give --gold, or --answers FILE")
        values = checks.values(run)
        explanation = explain(run, graph, golds=golds, score=checks.score, **self._wishes)
        self.states += checks.compare(explanation, values)
        return explanation


def _tell(explanation: Explanation, explainer: Explainer, as_json: bool) -> None:
    """Print what one run's calls changed."""
    from cli.why_view import run_view

    if as_json:
        show_json({**explanation.to_json(), **_critic_json(explainer)})
        return
    show(run_view(explanation))
    _tell_critic(explainer)


def _sum_up(ledger: Path, limit: int | None, explainer: Explainer, as_json: bool) -> None:
    """Explain the runs of a ledger and print what their roles did; runs that cannot be explained are counted.

    Raises:
        ConfigError: None of them can be explained.
    """
    from evaluation.counterfactual_roles import remarks_of, role_effects
    from graphs.ledger import read_ledger

    explained: list[Explanation] = []
    left_out: list[str] = []
    total, began = sum(1 for _ in islice(read_ledger(ledger), limit)), time.monotonic()
    for done, run in enumerate(islice(read_ledger(ledger), limit), 1):
        try:
            explained.append(explainer.explain(run))
        except JadeError as error:
            left_out.append(f"{run.run}: {error}")
        minutes = (time.monotonic() - began) / done * (total - done) / 60
        note(f"run {done} of {total}: {run.run}, {minutes:.0f} min left")
    if not explained:
        why_not = f"none of its {len(left_out)} runs can be explained; {left_out[0]}" if left_out else "it holds no run"
        raise ConfigError(f"ledger {ledger}: {why_not}")
    effects, remarks = role_effects(explained), remarks_of(explained)
    if as_json:
        rows = [effect.to_json() for effect in effects]
        told = {"runs": len(explained), "left_out": left_out, "remarks": remarks, "roles": rows}
        show_json({**told, **_critic_json(explainer)})
        return
    from cli.why_view import ledger_view

    for line in left_out[:3]:
        warn(f"left out: {line}")
    show(ledger_view(effects, explained, len(left_out)))
    _tell_critic(explainer)


def _critic_json(explainer: Explainer) -> dict[str, Any]:
    return {} if explainer.checks is None else {"critic": explainer.checks.to_json(explainer.states)}


def _tell_critic(explainer: Explainer) -> None:
    if explainer.checks is not None:
        from cli.why_view import critic_view

        show(critic_view(explainer.states, explainer.checks.agreement(explainer.states)))
