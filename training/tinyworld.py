"""A tiny world in which learning can be proven: a closed corpus whose best workflows and answers are known.

Fictional people and cities, three facts each, one passage a fact. Questions are of three types: `single`
(one retrieval answers), `serial` (the second hop asks about the answer of the first: QDS) and `parallel`
(one relation of two people: QDP). The retriever looks up the first entity that a query names, so that no
single round can answer a serial question, nor more than half of a parallel one. Everything follows from the
seeds.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np

from agents.passage import Passage
from evaluation.dataset import Example

PERSON_RELATIONS = ("birthplace", "trade", "teacher")
CITY_RELATIONS = ("ruler", "river", "emblem")
TRADES = ("baker", "smith", "weaver", "tanner", "potter", "mason", "scribe", "miller")
EMBLEMS = ("wolf", "crane", "otter", "raven", "viper", "heron", "lynx", "stag")
_DEV_SHARE = 5
"""One question string in this many belongs to dev."""


@dataclass(frozen=True)
class Ask:
    """A question as its parts: relation r of relation s of … of each entity."""

    relations: tuple[str, ...]
    """One relation (single, parallel) or two in the order of the hops (serial)."""
    entities: tuple[str, ...]

    @property
    def type(self) -> str:
        """Return "single", "serial" or "parallel"."""
        if len(self.entities) > 1:
            return "parallel"
        return "serial" if len(self.relations) > 1 else "single"

    @property
    def text(self) -> str:
        """Return the question in words."""
        return f"What is the {' of the '.join(reversed(self.relations))} of {', '.join(self.entities)}?"


_ASK = re.compile(r"What is the (\w+(?: of the \w+)*) of ([\w#]+(?:, [\w#]+)*)\?")


def read_ask(text: str) -> Ask | None:
    """Return the parts of a question in this world's language, or None."""
    match = _ASK.fullmatch(text.strip())
    if match is None:
        return None
    return Ask(tuple(reversed(match[1].split(" of the "))), tuple(match[2].split(", ")))


@dataclass(frozen=True)
class World:
    """Names, facts and questions; also the corpus."""

    seed: int
    people: tuple[str, ...]
    cities: tuple[str, ...]
    facts: Mapping[tuple[str, str], str]
    """(entity, relation) → value."""
    passages: tuple[Passage, ...]
    """One per fact; an entity's stand together."""
    train: tuple[Example, ...] = ()
    dev: tuple[Example, ...] = ()
    """Question strings that occur nowhere in `train`, not even as a sub-question."""

    @cached_property
    def by_title(self) -> Mapping[str, tuple[Passage, ...]]:
        """Return the passages of each entity, by its name in lower case."""
        found: dict[str, tuple[Passage, ...]] = {}
        for passage in self.passages:
            title = passage["title"].casefold()
            found[title] = (*found.get(title, ()), passage)
        return found

    def look_up(self, query: str, k: int) -> list[Passage]:
        """Return up to k passages on the first entity that `query` names; none where it names none."""
        named = [word for word in re.findall(r"\w+", query.casefold()) if word in self.by_title]
        return list(self.by_title[named[0]][:k]) if named else []

    def answers(self, ask: Ask) -> tuple[str, ...]:
        """Return the answer for each entity of `ask`.

        Raises:
            KeyError: The question has no answer in this world.
        """
        values = list(ask.entities)
        for relation in ask.relations:
            values = [self.facts[value, relation] for value in values]
        return tuple(values)

    def rows(self, split: str) -> list[dict[str, object]]:
        """Return the questions of "train" or "dev" in the layout of the bundled data files."""
        examples = {"train": self.train, "dev": self.dev}[split]
        return [
            {
                "id": example.id,
                "question": example.question,
                "answers": list(example.answers),
                "type": example.type,
                "hops": example.hops,
                "supporting": list(example.supporting),
                "decomposition": [{"question": q, "answer": a} for q, a in example.decomposition],
                "decomposition_kind": "gold",
            }
            for example in examples
        ]


def tiny_world(seed: int = 0, facts: int = 0, people: int = 40, cities: int = 16) -> World:
    """Generate a world.

    Args:
        seed: Decides names and the split of question strings into train and dev.
        facts: Decides the facts. Worlds that differ in nothing else are siblings: the same names, tokenizer
            and split, other answers, so that a reader trained on several must read and cannot remember.
        people: Number of people, 4 to 400.
        cities: Number of cities, 2 to 200.

    Raises:
        ValueError: A number out of range.
    """
    if not 4 <= people <= 400 or not 2 <= cities <= 200:
        raise ValueError(f"people={people}, cities={cities}: must be 4 to 400 and 2 to 200")
    names = _names(np.random.default_rng([seed, 0]), people + 2 * cities)
    own, towns, rivers = names[:people], names[people : people + cities], names[people + cities :]
    generator = np.random.default_rng([seed, 1, facts])
    table: dict[tuple[str, str], str] = {}
    for index, person in enumerate(own):
        teacher = own[(index + int(generator.integers(1, people))) % people]
        values = (_pick(generator, towns), _pick(generator, TRADES), teacher)
        table |= {(person, relation): value for relation, value in zip(PERSON_RELATIONS, values, strict=True)}
    for city in towns:
        values = (_pick(generator, own), _pick(generator, rivers), _pick(generator, EMBLEMS))
        table |= {(city, relation): value for relation, value in zip(CITY_RELATIONS, values, strict=True)}
    passages = tuple(
        Passage(id=f"{entity}-{relation}", title=entity, text=f"{relation} {value}", score=1.0)
        for (entity, relation), value in table.items()
    )
    world = World(seed, own, towns, table, passages)
    train, dev = _questions(world, generator)
    return replace(world, train=train, dev=dev)


def _pick(generator: np.random.Generator, items: Sequence[str]) -> str:
    return items[int(generator.integers(len(items)))]


def _names(generator: np.random.Generator, count: int) -> tuple[str, ...]:
    """Return distinct two-syllable names, such as "Velkar"."""
    first = ["".join(part) for part in product("BDFGKLMNPRSTVZ", "aeiou", "lnr")]
    last = ["".join(part) for part in product("bdgkmtvz", "aeiou", ("", "n", "s"))]
    chosen = generator.choice(len(first) * len(last), size=count, replace=False)
    return tuple(first[int(index) // len(last)] + last[int(index) % len(last)] for index in chosen)


def _asks(world: World, generator: np.random.Generator) -> list[Ask]:
    """Return all single and serial questions, and as many parallel ones as there are serial ones."""
    single = [Ask((relation,), (entity,)) for entity, relation in world.facts]
    second = {"birthplace": CITY_RELATIONS, "teacher": PERSON_RELATIONS}
    serial = [
        Ask((first, then), (person,))
        for person in world.people
        for first, following in second.items()
        for then in following
    ]
    parallel: dict[Ask, None] = {}
    while len(parallel) < len(serial):
        left, right = (int(index) for index in generator.choice(len(world.people), 2, replace=False))
        ask = Ask((_pick(generator, PERSON_RELATIONS),), (world.people[left], world.people[right]))
        parallel[ask] = None
    return [*single, *serial, *parallel]


def steps(world: World, ask: Ask) -> list[tuple[Ask, Ask, str]]:
    """Return the best decomposition, per hop: (as the decomposer writes it, resolved, answer)."""
    if ask.type == "serial":
        first = Ask(ask.relations[:1], ask.entities)
        bridge = world.answers(first)[0]
        second = Ask(ask.relations[1:], (bridge,))
        return [(first, first, bridge), (Ask(ask.relations[1:], ("#1",)), second, world.answers(second)[0])]
    if ask.type == "parallel":
        parts = [Ask(ask.relations, (entity,)) for entity in ask.entities]
        return [(part, part, world.answers(part)[0]) for part in parts]
    return []


def _one_round_is_not_enough(world: World, ask: Ask) -> bool:
    """Return whether the passages on the first entity hold no answer (serial), or only its own (parallel)."""
    if ask.type == "single":
        return True
    start = ask.entities[0]
    known = {value for (entity, _), value in world.facts.items() if entity == start} | {start}
    answers = world.answers(ask)
    return not known & set(answers if ask.type == "serial" else answers[1:])


def is_dev(seed: int, ask: Ask) -> bool:
    """Return whether a question string belongs to dev; independent of the facts."""
    digest = hashlib.blake2b(f"{seed}:{ask.text}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % _DEV_SHARE == 0


def _questions(world: World, generator: np.random.Generator) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    train: list[Example] = []
    dev: list[Example] = []
    for ask in _asks(world, generator):
        if not _one_round_is_not_enough(world, ask):
            continue
        if is_dev(world.seed, ask):
            dev.append(_example(world, ask))
        elif not any(is_dev(world.seed, resolved) for _, resolved, _ in steps(world, ask)):
            train.append(_example(world, ask))
    return tuple(train), tuple(dev)


def _example(world: World, ask: Ask) -> Example:
    hops = steps(world, ask)
    resolved = [hop[1] for hop in hops] or [ask]
    return Example(
        id=re.sub(r"\W+", "-", ask.text).strip("-"),
        question=ask.text,
        answers=(", ".join(world.answers(ask)),),
        type=ask.type,
        hops=len(resolved),
        supporting=tuple(f"{hop.entities[0]}-{hop.relations[0]}" for hop in resolved),
        decomposition=tuple((written.text, answer) for written, _, answer in hops),
        decomposition_kind="gold",
        dataset="tinyworld",
    )


class TinyRetriever:
    """Looks up the first entity that a query names and returns its passages; implements `Retriever`."""

    def __init__(self, world: World) -> None:
        """Search the passages of `world`."""
        self._world = world
        digest = hashlib.sha256("\n".join(f"{p['id']} {p['text']}" for p in world.passages).encode())
        self._environment = digest.hexdigest()[:16]

    @property
    def identity(self) -> Mapping[str, str]:
        """Return the hash of the corpus, and what kind of search this is."""
        return {"environment": self._environment, "collection": "tinyworld", "embedder": "title lookup"}

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Return up to k passages on the first entity named in each query; none where none is named."""
        return [self._world.look_up(query, k) for query in queries]
