"""Warm-start rows per role, derived from the train splits: what `training.sft` learns the formats from.

Nothing is written by hand. Planner targets come from question types and from what retrieval finds, decomposers
and summarisers from published decompositions, rewriters, selectors and generators from supporting passages among
really retrieved distractors. Rows are balanced by the role's options, near-duplicates go, every target is
checked by the role's own parser, and no dev question is used. The same seed gives the same rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from agents.errors import ConfigError
from agents.passage import Retriever
from agents.roster import ROLES
from evaluation.dataset import BUNDLED, Example, load_examples, splits_of
from training.decompositions import Split, read_splits
from training.rows import Row, balanced, chance, distinct, letters, shuffled, valid
from training.warmstart_hops import decomposer_rows, decomposing_plans, summariser_rows
from training.warmstart_reading import (
    Item,
    chain_rows,
    generator_rows,
    items_of,
    rewriter_rows,
    search,
    selector_rows,
)

__all__ = ["Row", "SearchSet", "WarmStart", "bundled_sets", "summary", "warmstart_rows"]

SEARCHED = ("nq", "popqa", "hotpotqa", "2wikimultihopqa", "musique", "squad")
"""Bundled train sets that have a corpus of their own."""

SHARES: Mapping[str, Mapping[str, float]] = {
    "planner": {
        "QDS": 0.26, "QDP": 0.22, "R,AG": 0.22, "R,DS,AG": 0.14, "QR,R,AG": 0.06, "QR,R,DS,AG": 0.06, "AG": 0.04,
    },
    "serial_decomposer": {
        "musique": 0.45, "2wikimultihopqa": 0.25, "hotpotqa": 0.14, "strategyqa": 0.1, "complexwebquestions": 0.06,
        "*": 0.45,
    },
    "parallel_decomposer": {
        "2wikimultihopqa": 0.45, "strategyqa": 0.3, "hotpotqa": 0.22, "complexwebquestions": 0.03, "*": 0.45,
    },
    "query_rewriter": {"question": 0.5, "first hop": 0.2, "later hop": 0.3},
    "document_selector": {"first": 0.35, "later": 0.3, "several": 0.27, "none": 0.08},
    "answer_generator": {
        "retrieved": 0.47, "selected": 0.33, "yes/no": 0.1, "no documents": 0.06, "unanswerable": 0.04,
    },
    "answer_summariser": {"last hop": 0.42, "compared": 0.33, "yes/no": 0.21, "unknown": 0.04},
}  # fmt: skip
"""Role → option → share; "*" is a data set of the user's own.

`QR,AG` has none: no data says when rewriting without retrieval helps.
"""


@dataclass(frozen=True)
class SearchSet:
    """Train questions of one corpus, and the retriever over it."""

    examples: Sequence[Example]
    retriever: Callable[[], Retriever] | None
    """Opened once, when its turn comes; None = the questions give plans and decompositions only."""
    reading_only: bool = False
    """Questions that make sense only beside their passage (SQuAD): selector and generator alone use them."""


@dataclass(frozen=True)
class WarmStart:
    """The rows, and what was left out."""

    rows: tuple[Row, ...]
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Reason → candidates left out before balancing."""
    environments: Mapping[str, str] = field(default_factory=dict)
    """Set that was searched for → environment hash of its index."""


def bundled_sets(
    open_retriever: Callable[[str], Retriever], datasets: Sequence[str] = SEARCHED, plan_sets: Sequence[str] = ()
) -> dict[str, SearchSet]:
    """Return the bundled train sets, each with the retriever that `open_retriever(dataset)` opens.

    Those of `plan_sets` come without one.

    Raises:
        ConfigError: A dataset without a train part.
    """

    def opener(name: str) -> Callable[[], Retriever]:
        return lambda: open_retriever(name)

    found = {name: SearchSet(load_examples(name, "train"), opener(name), name == "squad") for name in datasets}
    return found | {name: SearchSet(load_examples(name, "train"), None) for name in plan_sets}


def warmstart_rows(
    sets: Mapping[str, SearchSet],
    *,
    decompositions: Sequence[Example] | None = None,
    per_role: int = 600,
    role_rows: Mapping[str, int] | None = None,
    questions_per_set: int = 900,
    top_k: int = 5,
    seed: int = 0,
    roles: Sequence[str] = tuple(ROLES),
) -> WarmStart:
    """Derive balanced rows for every role.

    Args:
        sets: Dataset name → train questions and retriever; see `bundled_sets`.
        decompositions: Further decompositions; the bundled ones by default.
        per_role: Most rows a role.
        role_rows: Most rows of a role, where it differs.
        questions_per_set: Most questions and hops of a set that are searched for (two or three queries each).
        top_k: Passages a search, as in the graph that will be trained.
        seed: Key of every choice.
        roles: Roles to derive rows for.

    Raises:
        ConfigError: An unknown role, or a train question that is a dev question.
        RetrieverError: An index cannot answer.
    """
    unknown = [role for role in roles if role not in ROLES]
    if unknown or per_role < 1 or questions_per_set < 1:
        raise ConfigError(
            f"roles={unknown or list(roles)}, per_role={per_role}, questions_per_set={questions_per_set}: "
            f"roles are among {', '.join(ROLES)}; counts are at least 1"
        )
    if decompositions is None:
        decompositions = load_examples("decompositions", "train", gold=False)
    dev = dev_questions()
    examples = [example for part in sets.values() for example in part.examples]
    _refuse_dev([*examples, *decompositions], dev)
    splits, dropped = read_splits([*examples, *decompositions])
    drafts = [
        *decomposing_plans(splits, examples, seed),
        *decomposer_rows(splits),
        *summariser_rows(splits, seed),
        *_reading(sets, splits, questions_per_set, top_k, seed),
    ]
    rows = list(_usable([row for row in drafts if row.role in roles], dev, dropped))
    rows, repeated = distinct(shuffled(rows, seed))
    dropped["near-duplicate"] += repeated
    most = dict.fromkeys(roles, per_role) | dict(role_rows or {})
    chosen = [
        row for role in roles for row in balanced([row for row in rows if row.role == role], most[role], SHARES[role])
    ]
    return WarmStart(tuple(chosen), dict(dropped))


def _reading(sets: Mapping[str, SearchSet], splits: Sequence[Split], most: int, top_k: int, seed: int) -> Iterator[Row]:
    """Yield the rows that need retrieval, one set after the other."""
    for name, part in sets.items():
        if part.retriever is None:
            continue
        own = [split for split in splits if split.dataset == name]
        items = _drawn(list(items_of(part.examples, own)), most, seed)
        found = search(items, part.retriever(), top_k)
        yield from selector_rows(found, seed)
        yield from generator_rows(found, seed, closed_book=not part.reading_only)
        if not part.reading_only:
            yield from chain_rows(found, seed)
            yield from rewriter_rows(found)


def _drawn(items: list[Item], most: int, seed: int) -> list[Item]:
    """Return at most `most` items, hops and whole questions alike, drawn by a hash of their question."""
    return sorted(items, key=lambda item: chance(seed, "item", item.question, item.main))[:most]


def _usable(rows: Sequence[Row], dev: frozenset[str], dropped: Counter[str]) -> Iterator[Row]:
    """Yield rows whose target parses and that ask no dev question (a hop may happen to be one)."""
    for row in rows:
        reason = valid(row)
        if reason:
            dropped[f"{row.role}: {reason}"] += 1
        elif letters(row.question) in dev:
            dropped[f"{row.role}: a hop that is a dev question"] += 1
        else:
            yield row


def dev_questions() -> frozenset[str]:
    """Return the letters and digits of every bundled dev question."""
    names = [name for name in BUNDLED if "dev" in splits_of(name)]
    return frozenset(letters(example.question) for name in names for example in load_examples(name, "dev"))


def _refuse_dev(examples: Sequence[Example], dev: frozenset[str]) -> None:
    for example in examples:
        if letters(example.question) in dev:
            raise ConfigError(
                f"train question {example.question!r} (id {example.id}) is a dev question; train on train files only"
            )


def summary(rows: Sequence[Row]) -> str:
    """Return a Markdown table: rows per role, option and source."""
    lines = ["| role | rows | by option | by source |", "|---|---|---|---|"]
    for role in ROLES:
        mine = [row for row in rows if row.role == role]
        options = Counter(row.option for row in mine).most_common()
        sources = Counter(row.source for row in mine).most_common()
        texts = [", ".join(f"{name} {count}" for name, count in counts) for counts in (options, sources)]
        lines.append(f"| {role} | {len(mine)} | {texts[0]} | {texts[1]} |")
    return "\n".join(lines)
