"""How runs look in a terminal: the tree of a run, the result of a question, the table of a ledger.

A run's tree is built from node paths alone ("root/1/AG"), so it shows anybody's graph as well as ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from agents.call import Call
from cli.terminal import clean, one_line, program
from graphs.trajectory import Retrieval, Trajectory

_READS_PASSAGES = ("DS", "AG")
"""Tags of our calls that follow the node's retrieval."""
_SHORT = 90
Titles = Mapping[str, str]


@dataclass
class _Branch:
    """A node path with what happened there, in order."""

    path: str
    items: list[Call | Retrieval | _Branch] = field(default_factory=list)

    def grow(self, parts: Sequence[str]) -> _Branch:
        """Return the branch below this one at `parts`, made if need be."""
        branch = self
        for part in parts:
            path = f"{branch.path}/{part}" if branch.path else part
            found = next((item for item in branch.items if isinstance(item, _Branch) and item.path == path), None)
            if found is None:
                found = _Branch(path)
                branch.items.append(found)
            branch = found
        return branch

    def place(self, retrieval: Retrieval) -> None:
        """Insert a retrieval before the call that reads it: DS or AG, else the branch's last call, else the end."""
        calls = [index for index, item in enumerate(self.items) if isinstance(item, Call)]
        readers = [index for index in calls if _tag(self.items[index]) in _READS_PASSAGES]
        self.items.insert((readers or calls[-1:] or [len(self.items)])[0], retrieval)


def _tag(item: Call | Retrieval | _Branch) -> str:
    return item.path.rsplit("/", 1)[-1]


def _branches(trajectory: Trajectory) -> _Branch:
    trunk = _Branch("")
    for call in sorted(trajectory.calls, key=lambda call: call.order):
        trunk.grow(call.path.split("/")[:-1]).items.append(call)
    for retrieval in trajectory.retrievals:
        trunk.grow(retrieval.path.split("/")[:-1]).place(retrieval)
    return trunk


def plan_text(plan: Mapping[str, Any] | None) -> str:
    """Return a workflow tree on one line, such as "QDS(R,AG | QR,R,AG)"; "-" where there is no planner."""
    if not plan:
        return "-"
    children = " | ".join(plan_text(child) for child in plan.get("children") or ())
    return f"{plan.get('plan', '?')}({children})" if children else str(plan.get("plan", "?"))


def _plans(plan: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    if plan:
        yield plan
        for child in plan.get("children") or ():
            yield from _plans(child)


def run_tree(trajectory: Trajectory, titles: Titles | None = None, *, full: bool = False) -> Tree:
    """Return a run as a tree: nodes with plan and question, calls with what they said, retrievals with passages.

    Args:
        trajectory: The run.
        titles: Titles by passage id; ids stand where a title is unknown.
        full: Whole responses, log-probabilities, tokens and seconds; else one short line per call.
    """
    plans = {str(plan.get("path")): plan for plan in _plans(trajectory.workflow)}
    tree = Tree(Text(one_line(trajectory.question, 0 if full else 200), style="bold"))
    _add(tree, _branches(trajectory), plans, titles or {}, trajectory, full)
    for hop in trajectory.hops:
        if hop.get("skipped"):
            tree.add(
                Text(f"{hop.get('path')}  skipped: {hop['skipped']}  {one_line(str(hop.get('question')), _SHORT)}")
            )
    return tree


def _add(
    tree: Tree,
    branch: _Branch,
    plans: Mapping[str, Mapping[str, Any]],
    titles: Titles,
    trajectory: Trajectory,
    full: bool,
) -> None:
    for item in branch.items:
        if isinstance(item, _Branch):
            _add(tree.add(_node(item, plans.get(item.path))), item, plans, titles, trajectory, full)
        elif isinstance(item, Call):
            tree.add(_call_in_full(item) if full else _call(item))
        else:
            tree.add(_retrieval(item, titles, trajectory, full))


def _node(branch: _Branch, plan: Mapping[str, Any] | None) -> Text:
    text = Text(clean(branch.path), style="bold cyan")
    if plan:
        planned = f" (planned: {plan['planned']})" if plan.get("planned") else ""
        text.append(f"  {clean(str(plan.get('plan')))}{planned}", style="magenta")
        text.append(f"  {one_line(str(plan.get('question', '')), _SHORT)}", style="default")
    return text


def _verdict(call: Call) -> Text:
    text = Text(clean(_tag(call)), style="bold")
    if call.format_error is None:
        return text.append("  ok ", style="green")
    return text.append(f"  {one_line(call.format_error)} ", style="red")


def _call(call: Call) -> Text:
    said = call.text if call.format_error else _said(call.value)
    return _verdict(call).append(f" {one_line(said, _SHORT)}", style="default")


def _said(value: Any) -> str:
    """Return a parsed value in words."""
    if isinstance(value, list | tuple):
        return " · ".join(str(item) for item in value) or "nothing"
    return str(value)


def _call_in_full(call: Call) -> Group:
    head = _verdict(call).append(f" {clean(call.role)}", style="dim")
    for flag, name in ((call.truncated, "truncated"), (call.constraint is not None, "constrained")):
        if flag:
            head.append(f" · {name}", style="yellow")
    if call.dropped_documents:
        head.append(f" · {call.dropped_documents} documents dropped to fit", style="yellow")
    said = Text(clean(call.text) or "(nothing)", style="default")
    lines: list[RenderableType] = [head, Padding(said, (0, 0, 0, 2), expand=False)]
    if call.format_error:
        lines.append(
            Padding(Text(f"went on with: {one_line(_said(call.value))}", style="yellow"), (0, 0, 0, 2), expand=False)
        )
    return Group(*lines, Padding(Text(_figures(call), style="dim"), (0, 0, 0, 2), expand=False))


def _figures(call: Call) -> str:
    """Return log-probability, tokens and seconds of a call."""
    sampled = sum(call.mask)
    total = math.fsum(call.logprobs)
    mean = f" ({total / sampled:.3f} a token)" if sampled else ""
    how = "greedy" if call.greedy else f"τ {call.temperature:g}"
    parts = [f"log π {total:.3f}{mean}", f"{len(call.prompt_ids)} + {len(call.response_ids)} tokens", how]
    parts += [f"{name} {seconds:.2f} s" for name, seconds in call.seconds.items() if seconds >= 0.005]
    if call.adapter:
        parts.append(f"adapter {clean(call.adapter)}")
    return " · ".join(parts)


def _retrieval(item: Retrieval, titles: Titles, trajectory: Trajectory, full: bool) -> RenderableType:
    head = Text(clean(_tag(item)), style="bold").append(f"  {_count(len(item.ids), 'passage')}", style="green")
    head.append(f"  for: {one_line(item.query, _SHORT)}", style="default")
    if not full:
        return head
    head.append(f"  ({item.seconds:.3f} s)", style="dim")
    lines = [
        passage_line(identifier, titles.get(identifier, ""), identifier in trajectory.citations, score)
        for identifier, score in zip(item.ids, item.scores, strict=False)
    ]
    return Group(head, *(Padding(line, (0, 0, 0, 2), expand=False) for line in lines))


def passage_line(identifier: str, title: str, cited: bool, score: float | None = None) -> Text:
    """Return one passage: cited ones are marked with a star."""
    text = Text("★ " if cited else "· ", style="yellow" if cited else "dim")
    text.append(one_line(title, _SHORT) or one_line(identifier), style="default")
    text.append(f"  {one_line(identifier)}" if title else "", style="dim")
    return text.append("" if score is None else f"  {score:.3f}", style="dim")


def costs(trajectory: Trajectory) -> str:
    """Return what a run cost, on one line."""
    calls = trajectory.calls
    parts = [
        _count(trajectory.turns, "turn"),
        _count(len(trajectory.retrievals), "retrieval"),
        _count(len(calls), "call"),
        f"{sum(len(call.prompt_ids) for call in calls):,} + {sum(len(call.response_ids) for call in calls):,} tokens",
        f"{trajectory.seconds.get('total', 0.0):.1f} s",
    ]
    return " · ".join([*parts, "a budget was hit"] if trajectory.budget_hit else parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def answer_view(
    result: Mapping[str, Any], trajectory: Trajectory | None, *, full: bool = False, found: Titles | None = None
) -> Group:
    """Return what `jade ask` prints: answer, workflow with what each role said, passages, costs, run id.

    Args:
        result: What the graph returned.
        trajectory: The run's record.
        full: Everything that was said.
        found: Titles of retrieved passages that nobody was shown.
    """
    lines: list[RenderableType] = [Text(clean(str(result["answer"])) or "(no answer)", style="bold green"), Text("")]
    titles = {str(item["id"]): str(item["title"]) for item in result.get("evidence") or ()}
    if trajectory is not None:
        lines += [
            Text(f"workflow {plan_text(trajectory.workflow)}"),
            run_tree(trajectory, {**(found or {}), **titles}, full=full),
        ]
    cited = {str(item["id"]) for item in result.get("citations") or ()}
    if titles:
        lines.append(Text("\npassages (★ cited)"))
        lines += [passage_line(key, title, key in cited) for key, title in titles.items()]
    if trajectory is not None:
        lines.append(Text(f"\n{costs(trajectory)}", style="dim"))
    if result.get("run"):
        lines.append(Text(f"run {result['run']}: {program()} show {result['run']}", style="dim"))
    return Group(*lines)


def run_view(trajectory: Trajectory, titles: Titles, score: float | None) -> Group:
    """Return what `jade show` prints."""
    rows = [
        ("run", trajectory.run),
        ("started", trajectory.started),
        ("outcome", trajectory.outcome + (f": {trajectory.error}" if trajectory.error else "")),
        ("answer", trajectory.answer or "-"),
        ("workflow", plan_text(trajectory.workflow)),
        ("cost", costs(trajectory)),
        ("seconds", " · ".join(f"{name} {value:.2f}" for name, value in trajectory.seconds.items()) or "-"),
        ("options", " · ".join(f"{name}={value}" for name, value in trajectory.options.items()) or "defaults"),
        ("hashes", " · ".join(f"{name} {_short(value)}" for name, value in trajectory.hashes.items()) or "-"),
        *(("warning", warning) for warning in trajectory.warnings),
        *([("feedback", f"{score:g}")] if score is not None else []),
    ]
    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        table.add_row(Text(name, style="dim"), Text(one_line(str(value))))
    return Group(table, Text(""), run_tree(trajectory, titles, full=True))


def _short(value: str) -> str:
    """Return the beginning of a hash, behind its kind where it has one ("base:…")."""
    kind, _, digest = value.rpartition(":")
    return f"{kind}:{digest[:8]}" if kind else digest[:8] or "-"


_WIDE = 120
"""Characters a line from which the listing has a column for everything."""


def runs_table(rows: Sequence[Mapping[str, Any]], width: int = _WIDE) -> Table:
    """Return the listing of `jade runs`; on narrow screens the answer stands below its question, without costs."""
    wide = width >= _WIDE
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("run", "started", "outcome", "workflow", *(("question", "answer", "cost") if wide else ("question",))):
        table.add_column(name, no_wrap=name in ("run", "started", "outcome"), ratio=2 if name == "question" else None)
    for row in rows:
        score = "" if row["feedback"] is None else f" ({row['feedback']:g})"
        question, answer = one_line(row["question"], _SHORT), one_line(row["answer"], 60) + score
        cost = f"{row['turns']}t {row['retrievals']}r {row['calls']}c {row['seconds']:.1f}s"
        started = row["started"][:19] if wide else row["started"][5:16]
        cells = [row["run"], started.replace("T", " "), row["outcome"], row["workflow"]]
        cells += [question, answer, cost] if wide else [f"{question}\n→ {answer or '(no answer)'}"]
        style = "green" if row["outcome"] == "ok" else "red"
        table.add_row(*(Text(clean(str(cell)), style=style if i == 2 else "") for i, cell in enumerate(cells)))
    return table
