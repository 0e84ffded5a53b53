"""Warm-start rows from what retrieval really finds: planner (chains), rewriter, selector, generator.

Each item is a question that one passage answers: a single-hop question, or a hop of a published decomposition
with its references filled in. It is searched for in several wordings, and what comes back decides: the wording
that ranks the supporting passage best is the rewriter's target, whether the plain question would have done
chooses the chain, and the distractors of selector and generator are the passages retrieved beside it. Multi-hop
questions with all their passages are read too, so that a chain on such a question is not new to the roles.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from agents.decomposer import REFERENCE
from agents.passage import Passage, Retriever
from evaluation.dataset import Example
from evaluation.metrics import cover_em, is_yes_no
from graphs.hops import UNKNOWN
from training.decompositions import Split, tidy_answer
from training.rows import Row, chance
from training.warmstart_hops import MAX_ANSWER_WORDS, budgets, planner_row, root_depth

_LEADS = re.compile(
    r"^(who|whom|what|which|where|when)\s+(is|are|was|were)\s+(the\s+)?|^(who|what)\s+(?=[a-z]+ed\b|wrote|sang|made|won)"
    r"|^(in|on|at|from)\s+(what|which)\s+|^(what|which|who|where|when|why|how)\s+(did|does|do|is|are|was|were)?\s*"
    r"|^(is|are|was|were|do|does|did|has|have|had|can)\s+(both\s+)?",
    re.I,
)
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][\w'-]+")
"""A capitalised word that does not begin the question."""
_WHEN, _WHERE = re.compile(r"^when\b", re.I), re.compile(r"^where\b", re.I)
INFERRED = {"popqa": 0.7}
"""Weight of datasets whose supporting passages are inferred, not published."""


@dataclass(frozen=True)
class Item:
    """A question with the passages that answer it."""

    question: str
    answers: tuple[str, ...]
    supporting: tuple[str, ...]
    main: str
    """The question that it is a hop of; itself otherwise."""
    answered: tuple[tuple[str, str], ...]
    """Earlier hops with their answers."""
    source: str
    weight: float
    single: bool
    """Whether one passage answers it, so that a chain is the right plan."""

    @property
    def hop(self) -> bool:
        """Return whether it is a hop of another question."""
        return self.main != self.question


@dataclass(frozen=True)
class Found:
    """An item with what retrieval returned for it."""

    item: Item
    query: str
    """The wording that ranked a supporting passage best."""
    plain_rank: int | None
    """Best rank of a supporting passage for the plain question; None: not among the first k."""
    rank: int | None
    """The same for `query`."""
    documents: tuple[dict[str, Any], ...]
    """What `query` found, as `graphs.state.Document`."""


def items_of(examples: Sequence[Example], splits: Sequence[Split]) -> Iterator[Item]:
    """Yield what can be searched for: questions with known passages, and hops of aligned decompositions."""
    for example in examples:
        if example.supporting and example.answers:
            weight = INFERRED.get(example.dataset, 1.0)
            answers = tuple(tidy_answer(answer) for answer in example.answers)
            source = f"{example.dataset}/passages"
            yield Item(
                example.question, answers, example.supporting, example.question, (), source, weight, example.hops == 1
            )
    for split in splits:
        earlier: list[tuple[str, str]] = []
        for step in split.steps:
            if not step.question or not step.answer:
                break
            if step.supporting:
                known = tuple(earlier) if split.kind == "serial" else ()
                yield Item(
                    step.question, (step.answer,), (step.supporting,), split.question, known, split.source,
                    split.weight, True,
                )  # fmt: skip
            earlier.append((step.question, step.answer))


def keywords(question: str) -> str:
    """Return a question as search words: without its question word, with "date" or "place" where that was asked.

    >>> keywords("When was Steven Spielberg born?")
    'Steven Spielberg born date'
    """
    plain = " ".join(question.split()).rstrip("?. ")
    words = _LEADS.sub("", plain, count=1) or plain
    if _WHEN.match(plain):
        words += " date"
    elif _WHERE.match(plain):
        words += " place"
    return words


def wordings(item: Item) -> list[str]:
    """Return the queries to try, the preferred one first; the plain question is always the last.

    A hop may also borrow the last earlier answer, or the names in the main question, that it does not mention.
    """
    plain = " ".join(item.question.split())
    short = keywords(plain)
    known = [answer for _, answer in item.answered if answer.casefold() not in plain.casefold()]
    names = [word for word in _NAME.findall(item.main) if item.hop and word.casefold() not in plain.casefold()]
    more = [" ".join([short, *extra]) for extra in (known[-1:], names[:4]) if extra]
    return list(dict.fromkeys([short, *more, plain]))


def search(items: Sequence[Item], retriever: Retriever, top_k: int) -> list[Found]:
    """Search for every item in every wording, in batches, and keep the best wording."""
    queries = [(index, query) for index, item in enumerate(items) for query in wordings(item)]
    passages: dict[tuple[int, str], list[Passage]] = {}
    for start in range(0, len(queries), 64):
        batch = queries[start : start + 64]
        results = retriever.search([query for _, query in batch], top_k)
        passages.update(zip(batch, results, strict=True))
    return [_best(item, index, passages, top_k) for index, item in enumerate(items)]


def _best(item: Item, index: int, passages: dict[tuple[int, str], list[Passage]], top_k: int) -> Found:
    tried = wordings(item)
    ranks = {query: _rank(passages[index, query], item.supporting) for query in tried}
    query = min(tried, key=lambda tried_query: top_k if ranks[tried_query] is None else ranks[tried_query] or 0)
    documents = tuple({"number": number, **passage} for number, passage in enumerate(passages[index, query]))
    return Found(item, query, ranks[tried[-1]], ranks[query], documents)


def _rank(passages: Sequence[Passage], supporting: Sequence[str]) -> int | None:
    return next((rank for rank, passage in enumerate(passages) if passage["id"] in supporting), None)


def chain_rows(found: Sequence[Found], seed: int) -> Iterator[Row]:
    """Yield planner rows whose plan is a chain.

    The plain question finds its passage first → R,AG; among others → R,DS,AG; only a rewritten query finds it
    → QR,R,AG or QR,R,DS,AG; no wording does, or no retrieval is left → AG.
    """
    for one in found:
        item = one.item
        if not item.single:
            continue
        depth = int(2 * chance(seed, "hop depth", item.question)) if item.hop else root_depth(item.question, seed)
        left = budgets(item.question, seed, depth)
        plan = _chain(one)
        if chance(seed, "no retrieval", item.question) < 0.02:
            left["retrievals_left"], plan = 0, "AG"
        yield planner_row(item.question, plan, item.source, item.weight, left)


def _chain(one: Found) -> str:
    if one.plain_rank is not None:
        return "R,AG" if one.plain_rank == 0 else "R,DS,AG"
    if one.rank is not None:
        return "QR,R,AG" if one.rank == 0 else "QR,R,DS,AG"
    return "AG"


def rewriter_rows(found: Sequence[Found]) -> Iterator[Row]:
    """Yield a rewriter row wherever some wording found the passage."""
    for one in found:
        item = one.item
        if one.rank is None or not item.single or REFERENCE.search(item.question):
            continue
        answered = [{"question": question, "answer": answer} for question, answer in item.answered]
        inputs = {"main": item.main, "answered": answered, "question": item.question}
        option = "later hop" if answered else "first hop" if item.hop else "question"
        target = f"<query>{one.query.rstrip('?')}</query>"
        yield Row("query_rewriter", inputs, target, item.source, item.weight, option, item.question)


def selector_rows(found: Sequence[Found], seed: int) -> Iterator[Row]:
    """Yield a selector row of each retrieval whose labels are clear: no distractor holds the answer."""
    for one in found:
        item = one.item
        useful = [document["number"] for document in one.documents if document["id"] in item.supporting]
        others = [document for document in one.documents if document["id"] not in item.supporting]
        if len(one.documents) < 2 or any(_holds(document, item.answers) for document in others):
            continue
        if not item.single and len(useful) < min(2, len(item.supporting)):
            continue
        option = _kind_of_selection(useful)
        names = ",".join(f"Document{number}" for number in useful)
        query = one.query if chance(seed, "query", item.question) < 0.5 else item.question
        inputs = {"query": query, "documents": list(one.documents)}
        yield Row("document_selector", inputs, f"<id>{names}</id>", item.source, item.weight, option, item.question)


def _kind_of_selection(useful: Sequence[int]) -> str:
    if not useful:
        return "none"
    return "several" if len(useful) > 1 else "first" if useful[0] == 0 else "later"


def generator_rows(found: Sequence[Found], seed: int, *, closed_book: bool = True) -> Iterator[Row]:
    """Yield a generator row of each retrieval that it can be right on, and a few unanswerable ones.

    Args:
        found: What retrieval returned.
        seed: Key of every choice.
        closed_book: Whether the questions make sense without any document.
    """
    for one in found:
        item = one.item
        useful = [document for document in one.documents if document["id"] in item.supporting]
        answer = _answer(item, useful)
        draw = chance(seed, "documents", item.question)
        if answer and draw < 0.06 and closed_book:
            documents, option = [], "no documents"
        elif answer and draw < 0.4:
            documents, option = useful, "selected"
        elif answer:
            documents, option = list(one.documents), "retrieved"
        elif useful or not one.documents or any(_holds(document, item.answers) for document in one.documents):
            continue
        else:
            documents, option, answer = list(one.documents), "unanswerable", UNKNOWN
        if answer and is_yes_no(answer):
            option = "yes/no"
        query = one.query if chance(seed, "query", item.question) < 0.3 else item.question
        inputs = {"question": item.question, "query": query, "documents": documents}
        text = f"<answer>{answer}</answer>"
        yield Row("answer_generator", inputs, text, item.source, item.weight, option, item.question)


def _answer(item: Item, useful: Sequence[dict[str, Any]]) -> str:
    """Return the gold answer that the useful documents let one give, or ""."""
    complete = len(useful) >= (1 if item.single else min(2, len(item.supporting)))
    if not complete:
        return ""
    golds = [gold for gold in item.answers if len(gold.split()) <= MAX_ANSWER_WORDS]
    if golds and is_yes_no(golds[0]):
        return golds[0].casefold()
    return next((gold for gold in golds if any(_holds(document, (gold,)) for document in useful)), "")


def _holds(document: dict[str, Any], answers: Sequence[str]) -> bool:
    golds = [gold for gold in answers if gold and not is_yes_no(gold)]
    return bool(golds) and bool(cover_em(f"{document['title']} {document['text']}", golds))
