"""How counterfactuals look in a terminal: the calls of a run, the roles of a ledger, a critic beside samples."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from cli.terminal import clean, one_line
from evaluation.counterfactual_result import COSTS, Alternative, Explanation
from evaluation.counterfactual_roles import RoleEffect, remarks_of
from evaluation.report_markdown import change
from training.value_check import Agreement, StateValue

LEGEND = "Δ = with the change − as recorded: where a call is skipped, Δ score below 0 says that it helped"
_SHORT = 44
_LISTED = 5
"""Different remarks on the runs of a ledger that are shown; --json has all."""


def _table(words: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in words:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def run_view(explanation: Explanation) -> Group:
    """Return a run with a row for each call and each way of changing it; changes are against the recorded run."""
    recorded = explanation.recorded
    head = Text(one_line(explanation.question, 200), style="bold")
    against = f"gold: {' | '.join(explanation.golds)}" if explanation.golds else "no gold answer: agreement with itself"
    costs = " · ".join(_counted(getattr(recorded, name), name) for name in COSTS)
    facts = Text(one_line(f"run {explanation.run} · score {recorded.score:.3f} ({against}) · {costs}"), style="dim")
    table = _table(("call", "instead", "answer"), ("Δ score", *(f"Δ {name}" for name in COSTS)))
    for why in explanation.calls:
        for place, alternative in enumerate(why.alternatives):
            name = f"{why.call}  {one_line(why.text, _SHORT)}" if not place else ""
            table.add_row(Text(clean(name)), *_row(explanation, alternative))
    said = Text(f"answer {one_line(recorded.answer, 200) or '(none)'}", style="green")
    remarks = (Text(clean(line), style="yellow") for line in explanation.remarks)
    return Group(head, said, facts, *remarks, Text(LEGEND, style="dim"), table)


def _counted(number: float, name: str) -> str:
    return f"{number:g} {name.removesuffix('s') if number == 1 else name}"


def _row(explanation: Explanation, alternative: Alternative) -> list[Text]:
    changes = explanation.changes(alternative)
    if not changes:
        return [Text(alternative.kind), Text(one_line(f"— {alternative.remark}", 120), style="dim")]
    answers = list(dict.fromkeys(ending.answer for ending in alternative.endings))
    shown = one_line(" | ".join(answer or "(none)" for answer in answers), 2 * _SHORT)
    same = answers == [explanation.recorded.answer]
    count = f" ×{len(alternative.endings)}" if alternative.kind == "resampled" else ""
    answer = Text("the same" if same else shown, style="dim" if same else "default")
    if alternative.remark:
        answer.append(f" ({one_line(alternative.remark, 80)})", style="yellow")
    numbers = [f"{changes['score']:+.3f}", *(f"{changes[name]:+.1f}" for name in COSTS)]
    return [Text(f"{alternative.kind}{count}"), answer, *map(Text, numbers)]


def ledger_view(effects: Sequence[RoleEffect], explained: Sequence[Explanation], left_out: int) -> Group:
    """Return what each role did over a ledger, in sentences and as a table."""
    graded = sum(bool(item.golds) for item in explained)
    told = f"{len(explained)} runs, {graded} of them with gold answers; {left_out} left out"
    said = ("role", "instead")
    shares = _table(said, ("questions", "calls", "helped", "hurt", "answer changed"))
    changes = _table(said, ("Δ score [95 %]", *(f"Δ {name}" for name in COSTS)))  # one table would not fit 80 signs
    for effect in effects:
        names = [Text(clean(effect.role)), Text(effect.kind)]
        told_by = [f"{share:.0%}" if effect.graded else "-" for share in (effect.helped, effect.hurt)]
        counts = [str(effect.questions), str(effect.calls), *told_by, f"{effect.answer:.0%}"]
        shares.add_row(*names, *map(Text, counts))
        changes.add_row(*names, Text(_interval(effect)), *(Text(f"{getattr(effect, name):+.2f}") for name in COSTS))
    sentences = [Text(clean(effect.sentence)) for effect in effects if effect.kind == "skipped"]
    head = Text(told, style="dim")
    legend = Text(LEGEND, style="dim")
    return Group(head, *_remarks(explained), *sentences, Text(""), shares, Text(""), legend, changes)


def _interval(effect: RoleEffect) -> str:
    score = effect.score
    return "-" if score is None else change(score.mean, score.low, score.high)


def _remarks(explained: Sequence[Explanation]) -> list[Text]:
    """Return what differs from the record in how many runs, the commonest first."""
    remarked = sum(bool(item.remarks) for item in explained)
    lines = [f"{count} of {len(explained)} runs: {remark}" for remark, count in remarks_of(explained).items()]
    if len(lines) > _LISTED:
        lines[_LISTED:] = [f"… and others; {remarked} of {len(explained)} runs in all"]
    return [Text(clean(line), style="yellow") for line in lines]


def critic_view(states: Sequence[StateValue], found: Agreement) -> Group:
    """Return the critic's values beside the Monte-Carlo values of the same states."""
    table = _table(("call", "role"), ("V", "Monte Carlo", "± error", "samples"))
    for state in states[:40]:
        error = "-" if math.isnan(state.error) else f"{state.error:.3f}"
        numbers = (f"{state.value:+.3f}", f"{state.monte_carlo:+.3f}", error, str(state.samples))
        table.add_row(*map(Text, (clean(state.call), clean(state.role), *numbers)))
    head = Text(
        f"critic over {found.states} states: V less Monte Carlo {found.bias:+.3f} on average, {found.error:.3f} root "
        f"mean square (noise of the samples {found.noise:.3f}), correlation {found.correlation:+.2f}"
    )
    return Group(Text(""), head, table)
