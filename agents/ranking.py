"""Rank passages by score: exact cosine search over a matrix, BM25 by the bm25s library, and their fusion.

Rankings are reproducible: ties go to the smaller row (rows are sorted by id), and a query's result does not depend on
the queries beside it.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agents.embedder import Matrix

Ranking = list[tuple[int, float]]
"""(row, score) pairs, best first."""

RRF_CONSTANT = 60
"""The usual constant of reciprocal rank fusion (Cormack et al. 2009)."""
SCORES = 1 << 25
"""Most scores held at a time: 128 MB, 32 queries over a million passages."""
SLACK = 1e-5
"""Scores this close to the k-th best are scored again in float64, so that batch shape cannot decide a rank."""


def exact(vectors: Matrix, queries: Matrix, k: int) -> list[Ranking]:
    """Return the k rows with the largest dot product for each query.

    A float32 matrix product finds the candidates; their scores are recomputed in float64 and rounded to 1e-6.

    Args:
        vectors: Unit vectors [passages, dimension].
        queries: Unit vectors [queries, dimension].
        k: Rows wanted; fewer come back only if there are fewer.
    """
    group = max(1, SCORES // max(1, len(vectors)))
    parts = (queries[start : start + group] for start in range(0, len(queries), group))
    return [ranking for part in parts for ranking in _exact(vectors, part, k)]


def _exact(vectors: Matrix, queries: Matrix, k: int) -> list[Ranking]:
    rankings: list[Ranking] = []
    if not len(vectors):
        return [[] for _ in queries]
    for query, scores in zip(queries, queries @ vectors.T, strict=True):
        cut = np.partition(scores, -min(k, len(scores)))[-min(k, len(scores))]
        rows = np.flatnonzero(scores >= cut - SLACK)
        again = np.einsum("rd,d->r", vectors[rows].astype(np.float64), query.astype(np.float64))
        rankings.append(best(rows, np.round(again, 6), k))
    return rankings


def best(rows: NDArray[np.intp], scores: NDArray[np.float64], k: int) -> Ranking:
    """Return the k best (row, score) pairs, ties to the smaller row."""
    order = np.lexsort((rows, -scores))[:k]
    return [(int(rows[place]), float(scores[place])) for place in order]


class Lexical:
    """BM25 (Lucene's variant, English stop words) over texts; built in memory, about 10,000 passages a second."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Index `texts` [passages]."""
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to DEBUG, whatever the root says
        self._tokenize = bm25s.tokenize
        self._index = bm25s.BM25(method="lucene")
        self._index.index(self._words(texts), show_progress=False)

    def search(self, queries: Sequence[str], k: int) -> list[Ranking]:
        """Return the k best rows of each query; rows that share no word with it are left out."""
        rankings: list[Ranking] = []
        for words in self._words(queries):
            known = self._index.get_tokens_ids(words)
            if not known:
                rankings.append([])
                continue
            scores = np.asarray(self._index.get_scores_from_ids(known), dtype=np.float64)
            rows = np.flatnonzero(scores > 0)
            rankings.append(best(rows, np.round(scores[rows], 6), k))
        return rankings

    def _words(self, texts: Sequence[str]) -> list[list[str]]:
        words: list[list[str]] = self._tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False)
        return words


def fuse(rankings: Sequence[Ranking], k: int) -> Ranking:
    """Merge rankings by reciprocal rank: score = Σ 1 / (60 + rank), rank from 1; ties to the smaller row."""
    scores: defaultdict[int, float] = defaultdict(float)
    for ranking in rankings:
        for rank, (row, _) in enumerate(ranking, start=1):
            scores[row] += 1.0 / (RRF_CONSTANT + rank)
    return sorted(((row, round(score, 9)) for row, score in scores.items()), key=lambda pair: (-pair[1], pair[0]))[:k]
