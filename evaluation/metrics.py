"""How good one answer, one retrieval and one citation list are.

Two answer normalisers are in use in this field and differ on every hyphen: SQuAD's official script deletes
punctuation ("U.S." → "us"), the JADE code turns it into a space ("u s"). Every answer metric takes either;
the training score uses SQuAD's. Against the JADE code: the best gold is chosen by F1 *jointly* (not best
precision and best recall apart), yes/no golds are recognised in any spelling and inside lists, and a gold
without any word left after normalising is compared as it is written. Leaf module: strings in, numbers out.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from agents.errors import ConfigError

Normaliser = Literal["squad", "jade"]
Golds = str | bool | Iterable[str | bool | int | float]

_DELETE = str.maketrans("", "", string.punctuation)
_SPACE = str.maketrans(string.punctuation, " " * len(string.punctuation))
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_FOLD = str.maketrans(
    {
        **dict.fromkeys("‐‑‒–—―−﹘﹣－", "-"),
        **dict.fromkeys("‘’‚‛′`´", "'"),
        **dict.fromkeys("“”„‟″«»", '"'),
        **dict.fromkeys("～〜∼˜", "~"),
    }
)
YES_NO = ("yes", "no", "true", "false")
"""Golds, after normalising, that are scored by exact match and not by F1."""


@lru_cache(maxsize=65536)
def normalize_squad(text: str) -> str:
    """Normalise as SQuAD's official script: lower-case, delete punctuation, drop articles, join spaces.

    >>> normalize_squad("The U.S. Army's  well-known band")
    'us armys wellknown band'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_DELETE)).split())


@lru_cache(maxsize=65536)
def normalize_jade(text: str) -> str:
    """Normalise as the JADE code: fold Unicode hyphens, quotes and tildes, then punctuation → space.

    >>> normalize_jade("The U.S. Army’s  well–known band")
    'u s army s well known band'
    """
    folded = unicodedata.normalize("NFKC", text).translate(_FOLD).lower()
    return " ".join(_ARTICLES.sub(" ", folded.translate(_SPACE)).split())


_NORMALISERS: Mapping[Normaliser, Callable[[str], str]] = {"squad": normalize_squad, "jade": normalize_jade}


@dataclass(frozen=True)
class Overlap:
    """Precision, recall and their harmonic mean, all in [0, 1]."""

    precision: float
    recall: float
    f1: float


NOTHING = Overlap(0.0, 0.0, 0.0)


def read_golds(golds: Golds) -> tuple[str, ...]:
    """Return gold answers as texts, whether given as one text, a list, an array, or a truth value.

    Raises:
        ConfigError: There is no gold answer, or only blank ones.
    """
    items: Iterable[object] = (golds,) if isinstance(golds, str | bool) else golds
    named = (("yes" if item else "no") if isinstance(item, bool) else item for item in items)
    texts = tuple(text for text in (str(item).strip() for item in named) if text)
    if not texts:
        raise ConfigError("no gold answer: give at least one non-blank text to score against")
    return texts


Pairs = Sequence[tuple[list[str], list[str]]]
"""(tokens of the prediction, tokens of a gold) for each gold."""


def _pairs(prediction: str, golds: Iterable[str], normaliser: Normaliser) -> Pairs:
    return [_pair(prediction, gold, normaliser) for gold in golds]


def _exact(pairs: Pairs) -> float:
    return float(any(guess == gold for guess, gold in pairs))


def _covers(pairs: Pairs) -> float:
    return float(
        any(
            guess[start : start + len(gold)] == gold
            for guess, gold in pairs
            for start in range(len(guess) - len(gold) + 1)
        )
    )


def _pair(prediction: str, gold: str, normaliser: Normaliser) -> tuple[list[str], list[str]]:
    """Return the tokens of both; a gold that normalises to nothing is compared as written."""
    normalise = _NORMALISERS[normaliser]
    tokens = normalise(gold).split()
    if tokens:
        return normalise(prediction).split(), tokens
    return prediction.casefold().split(), gold.casefold().split()


def exact_match(prediction: str, golds: Golds, normaliser: Normaliser = "squad") -> float:
    """Return 1.0 if the prediction equals any gold after normalising, else 0.0.

    >>> exact_match("U.S.", ["US"]), exact_match("U.S.", ["US"], "jade")
    (1.0, 0.0)
    """
    return _exact(_pairs(prediction, read_golds(golds), normaliser))


def token_overlap(prediction: str, golds: Golds, normaliser: Normaliser = "squad") -> Overlap:
    """Return precision, recall and F1 over tokens (with repetition) against the gold of highest F1.

    One gold gives all three numbers: never the precision against one gold with the recall against another.

    >>> token_overlap("Barack Obama", ["President Barack Obama"])
    Overlap(precision=1.0, recall=0.6666666666666666, f1=0.8)
    """
    best = NOTHING
    for guess, gold in _pairs(prediction, read_golds(golds), normaliser):
        found = _overlap(guess, gold)
        if found.f1 > best.f1:
            best = found
    return best


def _overlap(guess: Sequence[str], gold: Sequence[str]) -> Overlap:
    """Return the overlap of two bags of words."""
    if guess == gold:
        return Overlap(1.0, 1.0, 1.0) if guess else NOTHING
    if set(guess).isdisjoint(gold):
        return NOTHING
    same = (Counter(guess) & Counter(gold)).total()
    precision, recall = same / len(guess), same / len(gold)
    return Overlap(precision, recall, 2 * precision * recall / (precision + recall))


def token_f1(prediction: str, golds: Golds, normaliser: Normaliser = "squad") -> float:
    """Return the best token F1 over the golds, in [0, 1] (paper §4: the paper's only metric).

    >>> token_f1("in Paris, France", ["Paris"])
    0.5
    """
    return token_overlap(prediction, golds, normaliser).f1


def cover_em(prediction: str, golds: Golds, normaliser: Normaliser = "squad") -> float:
    """Return 1.0 if any gold stands inside the prediction as a run of whole tokens, else 0.0.

    Whole tokens: the gold "art" is not in "Martin", where a plain substring test would find it.

    >>> cover_em("He was born in Paris, France.", ["Paris"]), cover_em("Martin", ["art"])
    (1.0, 0.0)
    """
    return _covers(_pairs(prediction, read_golds(golds), normaliser))


def is_yes_no(gold: str) -> bool:
    """Return whether a gold answer is a yes/no answer in any spelling ("Yes", "NO.", "true").

    >>> is_yes_no("Yes."), is_yes_no("no one")
    (True, False)
    """
    return normalize_squad(gold) in YES_NO


def answer_score(prediction: str, golds: Golds) -> float:
    """Return the training score (DESIGN §5): token F1, or exact match for a yes/no gold; best over golds.

    SQuAD's normaliser. A yes/no gold earns nothing for "yes and no" or "yes, it was": the answer is one word.

    >>> answer_score("Yes", ["yes"]), answer_score("yes and no", ["yes"]), answer_score("yes", "YES.")
    (1.0, 0.0, 1.0)
    """
    return max(
        exact_match(prediction, gold) if is_yes_no(gold) else token_f1(prediction, gold) for gold in read_golds(golds)
    )


ANSWER_METRICS = ("score", "em", "f1", "cover_em", "em_jade", "f1_jade", "cover_em_jade")
"""Keys of `score_answer`, in reporting order."""


def score_answer(prediction: str, golds: Golds) -> dict[str, float]:
    """Return every answer metric under both normalisers; keys as in `ANSWER_METRICS`, values in [0, 1]."""
    texts = read_golds(golds)
    squad, jade = _pairs(prediction, texts, "squad"), _pairs(prediction, texts, "jade")
    f1 = [_overlap(guess, gold).f1 for guess, gold in squad]
    scores = [_exact([pair]) if is_yes_no(text) else value for text, pair, value in zip(texts, squad, f1, strict=True)]
    return {
        "score": max(scores),
        "em": _exact(squad),
        "f1": max(f1),
        "cover_em": _covers(squad),
        "em_jade": _exact(jade),
        "f1_jade": max(_overlap(guess, gold).f1 for guess, gold in jade),
        "cover_em_jade": _covers(jade),
    }


def recall_at_k(ranked: Sequence[str], supporting: Collection[str], k: int) -> float | None:
    """Return the share of supporting passages among the first k retrieved ids; None where none is known.

    >>> recall_at_k(["p3", "p1", "p9"], {"p1", "p2"}, 2)
    0.5
    """
    if k < 1:
        raise ConfigError(f"recall@k with k={k}: k must be at least 1")
    wanted = set(supporting)
    return len(wanted & set(ranked[:k])) / len(wanted) if wanted else None


def supporting_overlap(shown: Iterable[str], supporting: Collection[str]) -> Overlap | None:
    """Return precision, recall and F1 of the passages shown against the supporting ones; None where unknown.

    >>> supporting_overlap(["p1", "p3", "p4", "p5"], ["p1", "p2"])
    Overlap(precision=0.25, recall=0.5, f1=0.3333333333333333)
    """
    wanted = sorted(set(supporting))
    return _overlap(sorted(set(shown)), wanted) if wanted else None


def citation_precision(citations: Iterable[str], supporting: Collection[str]) -> float | None:
    """Return the share of cited passages that support the answer; None without citations or known support.

    >>> citation_precision(["p1", "p7"], {"p1", "p2"})
    0.5
    """
    cited, wanted = set(citations), set(supporting)
    return len(cited & wanted) / len(cited) if cited and wanted else None
