"""What an evaluation asks, checked before any model is loaded: sets, gold answers, indexes, gold passages.

Everything that is wrong with the indexes is gathered into one error, with the commands that mend it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

from agents.corpora import read_corpus
from agents.documents import content_digest, text_digest
from agents.errors import ConfigError, RetrieverError
from agents.passage import Passage
from evaluation.dataset import BUNDLED, DATASETS, Example, load_examples
from evaluation.evaluate_config import EvalConfig

_log = logging.getLogger("jade.evaluate")
STARTER = "starter"


@dataclass(frozen=True)
class Asked:
    """One set of questions and where its passages lie."""

    name: str
    examples: Sequence[Example]
    collection: str
    """As a user names it."""
    gold: Mapping[str, Passage] = field(default_factory=dict)
    """The gold passages by id, for the oracle reader."""
    notes: tuple[str, ...] = ()
    """What a reader of the numbers should know."""


def ready(config: EvalConfig) -> list[Asked]:
    """Load all questions and check them against their indexes.

    Raises:
        ConfigError: An unknown set; rows that are malformed, duplicate or without gold answers (with their places).
        RetrieverError: Missing or unfinished indexes, or such that lack gold passages.
        SetupError: The data folder is missing.
    """
    sets = _examples(config)
    asked, problems = [], []
    for name, examples in sets.items():
        try:
            asked.append(_checked(name, examples, config))
        except RetrieverError as error:
            problems.append(str(error))
    if problems:
        raise RetrieverError("\n".join(dict.fromkeys(problems)))
    return asked


def _examples(config: EvalConfig) -> dict[str, list[Example]]:
    found: dict[str, list[Example]] = {}
    for name in config.sets:
        if name not in DATASETS and name != "squad":
            close = get_close_matches(name.casefold(), DATASETS, n=1, cutoff=0.5)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ConfigError(f"there is no set {name!r}{hint}; allowed: {', '.join(DATASETS)}; own files: --data FILE")
        found[name] = load_examples(name, "dev", sample=config.sample, seed=config.sample_seed)
    if config.data is not None:
        own = load_examples(config.data, "dev", sample=config.sample, seed=config.sample_seed)
        name = Path(config.data).name.split(".")[0] or "own"
        if name in found:
            raise ConfigError(f"data {config.data} would be called {name!r}, like the bundled set; rename the file")
        found[name] = own
    return found


def _checked(name: str, examples: list[Example], config: EvalConfig) -> Asked:
    """Check one set against its index; own files name gold passages by id or by title."""
    collection = config.index or name
    wanted = list(dict.fromkeys(ref for example in examples for ref in example.supporting))
    notes: list[str] = []
    corpus = {} if name not in BUNDLED else _corpus(name)
    if collection == STARTER:
        held = _starter()
    else:
        held, notes = _held(collection, wanted, corpus)
    if not corpus:
        examples, wanted, held = _resolved(examples, collection, held)
    lost = [ref for ref in wanted if ref not in held]
    if lost and config.lacking == "refuse":
        raise RetrieverError(
            f'index "{collection}" lacks {len(lost)} of the {len(wanted)} gold passages of {name}, such as {lost[:3]}: '
            f"recall over it means nothing; {_remedy(name, collection, bool(corpus))}, or count them as not found: "
            "--lacking allow"
        )
    if lost:
        notes.append(f"{len(lost)} of {len(wanted)} gold passages are not in the index and count as not found")
    gold = {ref: corpus.get(ref) or held[ref] for ref in wanted if ref in corpus or ref in held}
    return Asked(name, examples, collection, gold, tuple(notes))


def _corpus(name: str) -> dict[str, Passage]:
    """Return the passages of a bundled set by id."""
    return {
        row["id"]: Passage(id=row["id"], title=row["title"], text=row["text"], score=0.0) for row in read_corpus(name)
    }


def _remedy(name: str, collection: str, bundled: bool) -> str:
    if bundled and collection == name:
        return f"build it again: jade index --dataset {name}"
    return "use the index of its own (leave out --index)" if bundled else "correct 'supporting' in your file"


def _held(
    collection: str, wanted: Sequence[str], corpus: Mapping[str, Passage]
) -> tuple[dict[str, Passage], list[str]]:
    """Return the wanted passages that the collection holds with the text that the corpus has, and notes.

    Raises:
        RetrieverError: The collection is missing or unfinished.
    """
    from agents.holdings import holdings

    index = holdings(collection)
    digests = {key: text_digest(row["title"], row["text"]) for key, row in corpus.items()}
    if corpus and index.content == content_digest(digests.items()):
        return {ref: corpus[ref] for ref in wanted if ref in corpus}, []
    found = index.passages(wanted)
    same = {
        key: passage
        for key, passage in found.items()
        if key not in digests or text_digest(passage["title"], passage["text"]) == digests[key]
    }
    notes = ["the index does not hold exactly the bundled corpus"] if corpus else []
    return same, notes


def _starter() -> dict[str, Passage]:
    """Return the passages of the starter corpus, which is built when it is opened."""
    from agents.starter import read_starter

    return {item.id: Passage(id=item.id, title=item.title, text=item.text, score=0.0) for item in read_starter()}


def _resolved(
    examples: list[Example], collection: str, held: dict[str, Passage]
) -> tuple[list[Example], list[str], dict[str, Passage]]:
    """Replace titles among the gold passages by the ids of the passages that alone have them."""
    names = {ref for example in examples for ref in example.supporting}
    unknown = sorted(names - set(held))
    if unknown and collection != STARTER:
        from agents.holdings import holdings

        index = holdings(collection)
        ids = {title: found[0] for title, found in index.by_title(unknown).items() if len(found) == 1}
        held = held | index.passages(list(ids.values()))
        examples = [
            replace(example, supporting=tuple(dict.fromkeys(ids.get(ref, ref) for ref in example.supporting)))
            for example in examples
        ]
    wanted = list(dict.fromkeys(ref for example in examples for ref in example.supporting))
    return examples, wanted, held
