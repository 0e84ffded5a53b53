"""A quick measure of one speaker: validity per role on held-out rows, F1 and cost on dev questions.

For the warm start's before and after; `evaluation.evaluate` is the full measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from agents.call import Request
from agents.errors import FormatError
from agents.model import SharedModel
from agents.role import Prompts
from agents.roster import ROLES
from evaluation.dataset import load_examples
from evaluation.metrics import answer_score
from graphs.acting import fit
from graphs.trajectory import Trajectory
from training.rows import Row


@dataclass
class Probe:
    """What was measured."""

    valid: dict[str, float] = field(default_factory=dict)
    """Role → share of valid greedy responses."""
    exact: dict[str, float] = field(default_factory=dict)
    """Role → share of greedy responses equal to the target text."""
    score: dict[str, float] = field(default_factory=dict)
    """Dataset → mean answer score of the whole graph, greedy."""
    questions: int = 0
    """Questions of each dataset."""

    def metrics(self) -> dict[str, float]:
        """Return the numbers under their tracked names."""
        return {
            **{f"sft/valid/{role}": value for role, value in self.valid.items()},
            **{f"sft/exact/{role}": value for role, value in self.exact.items()},
            **{f"eval/{name}/score": value for name, value in self.score.items()},
        }

    def table(self) -> str:
        """Return a Markdown table."""
        lines = ["| role | valid | equal to target |", "|---|---|---|"]
        lines += [f"| {role} | {self.valid[role]:.2f} | {self.exact[role]:.2f} |" for role in self.valid]
        lines += [f"\n{name}: mean answer score {value:.3f} on {self.questions}" for name, value in self.score.items()]
        return "\n".join(lines)


def probe(
    shared: SharedModel,
    adapter: str | None,
    held: Sequence[Row],
    prompts: Prompts,
    datasets: Sequence[str],
    sample: int,
    index: str | None,
    top_k: int,
) -> Probe:
    """Measure one speaker, greedily and in free decoding.

    Args:
        shared: The model.
        adapter: Who speaks; None = the base.
        held: Rows that were not trained on.
        prompts: The prompt set.
        datasets: Bundled sets whose dev questions are asked; their indexes must exist.
        sample: Dev questions of each.
        index: One collection for all of them; None = each set's own.
        top_k: Passages a search.

    Raises:
        RetrieverError: An index is missing.
    """
    found = Probe(questions=sample)
    responses = _responses(shared, adapter, held, prompts)
    for role in dict.fromkeys(row.role for row in held):
        mine = [(row, text) for row, text in zip(held, responses, strict=True) if row.role == role]
        found.valid[role] = sum(_valid(row, text) for row, text in mine) / len(mine)
        found.exact[role] = sum(text == row.target_text for row, text in mine) / len(mine)
    for name in datasets:
        examples = load_examples(name, "dev", sample=sample)
        runs = _runs(shared, adapter, prompts, index or name, [example.question for example in examples], top_k)
        scores = [answer_score(run.answer, example.answers) for run, example in zip(runs, examples, strict=True)]
        found.score[name] = sum(scores) / len(scores)
    return found


def _responses(shared: SharedModel, adapter: str | None, held: Sequence[Row], prompts: Prompts) -> list[str]:
    requests = []
    for index, row in enumerate(held):
        role = ROLES[row.role]
        prompt, _, _ = fit(role, row.inputs, prompts, shared, role.max_new_tokens)
        requests.append(Request((0, index), role.name, prompt, role.max_new_tokens, 0.0, role.stop, adapter=adapter))
    return [completion.text for completion in shared.sample(requests)]


def _valid(row: Row, text: str) -> bool:
    try:
        ROLES[row.role].parse(text, row.inputs)
    except FormatError:
        return False
    return True


def _runs(
    shared: SharedModel, adapter: str | None, prompts: Prompts, collection: str, questions: Sequence[str], top_k: int
) -> list[Trajectory]:
    from agents.retriever import open_retriever
    from graphs import collect, trainable
    from graphs.jade import build_jade

    retriever = open_retriever(collection, k=top_k)
    graph = trainable(
        build_jade(retriever, top_k=top_k),
        policy=shared,
        prompts=prompts,
        adapters={"*": adapter},
        retriever=retriever,
    )
    return collect(graph, questions, record="off")
