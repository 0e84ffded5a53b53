"""One warm-start row, and the arithmetic of drawing a balanced, deterministic set of them."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agents.call import Message
from agents.errors import FormatError
from agents.role import Prompts
from agents.roster import ROLES

NEAR = 0.9
"""Word overlap (Jaccard) from which two questions of one role count as the same."""


@dataclass(frozen=True)
class Row:
    """One supervised example of a role."""

    role: str
    inputs: Mapping[str, Any]
    """Exactly what `graphs.observe` gives the role."""
    target_text: str
    """The complete response; the role's own parser accepts it."""
    source: str
    """Dataset, and who wrote what it was derived from, such as "musique/gold"."""
    weight: float = 1.0
    option: str = ""
    """Which of the role's choices it shows; rows are balanced by it."""
    question: str = ""
    """The question that it is about; rows are told apart by it."""

    def messages(self, prompts: Prompts) -> list[Message]:
        """Render the system and user turns in a prompt set."""
        return ROLES[self.role].messages(self.inputs, prompts)


def valid(row: Row) -> str:
    """Return "" if the role's parser accepts the target, else the reason why not."""
    try:
        ROLES[row.role].parse(row.target_text, row.inputs)
    except FormatError as error:
        return error.reason
    return ""


def chance(*key: object) -> float:
    """Return a number in [0, 1) that depends on the key alone."""
    digest = hashlib.sha256("\x00".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def shuffled(rows: Iterable[Row], seed: int) -> list[Row]:
    """Return rows in an order that depends on their content and the seed, not on how they came."""
    return sorted(rows, key=lambda row: chance(seed, row.role, row.question, row.target_text, row.source))


def letters(text: str) -> str:
    """Return the letters and digits of a text, the form in which two questions count as equal."""
    return re.sub(r"[\W_]+", "", text.casefold())


def distinct(rows: Iterable[Row]) -> tuple[list[Row], int]:
    """Return rows without near-duplicates (per role, by question), and how many were left out.

    Two questions with a word overlap of `NEAR` or more differ, at these lengths, by at most one word on either
    side, so candidates are found by leaving out one word at a time.
    """
    kept: list[Row] = []
    seen: dict[tuple[str, frozenset[str]], list[frozenset[str]]] = defaultdict(list)
    count = 0
    for row in rows:
        words = frozenset(re.findall(r"\w+|#\d", row.question.casefold()))
        keys = [(row.role, words), *((row.role, words - {word}) for word in words)]
        if any(_overlap(words, other) >= NEAR for key in keys for other in seen[key]):
            count += 1
            continue
        for key in keys:
            seen[key].append(words)
        kept.append(row)
    return kept, count


def _overlap(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / len(a | b) if a | b else 1.0


def balanced(rows: Sequence[Row], total: int, shares: Mapping[str, float]) -> list[Row]:
    """Return at most `total` rows whose options stand in the given shares, as far as there are rows.

    What an option cannot fill goes to the others in proportion. An option that is not named has the share of
    "*"; without a "*" it gets none.

    Args:
        rows: Candidates of one role, in the order in which they are preferred.
        total: Most rows.
        shares: Option → share; need not add up to 1.
    """
    share = {row.option: shares.get(row.option, shares.get("*", 0.0)) for row in rows}
    available = Counter(row.option for row in rows if share[row.option] > 0)
    quota = dict.fromkeys(available, 0)
    open_options = {option for option in available if available[option]}
    left = min(total, sum(available.values()))
    while left and open_options:
        weight = sum(share[option] for option in open_options)
        granted = 0
        for option in sorted(open_options):
            more = min(available[option] - quota[option], max(1, int(left * share[option] / weight)))
            more = min(more, left - granted)
            quota[option] += more
            granted += more
        left -= granted
        open_options = {option for option in open_options if quota[option] < available[option]}
    taken: Counter[str] = Counter()
    chosen = []
    for row in rows:
        if taken[row.option] < quota.get(row.option, 0):
            taken[row.option] += 1
            chosen.append(row)
    return chosen
