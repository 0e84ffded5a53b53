"""Warm-start rows on toy sets with a real (word overlap) retriever, and on the bundled decompositions."""

import doctest
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import pytest

from agents.errors import ConfigError
from agents.passage import Passage
from agents.roster import ROLES
from evaluation.dataset import Example, load_examples
from graphs.hops import UNKNOWN
from graphs.observe import observe
from graphs.state import Document
from training import warmstart_reading
from training.rows import valid
from training.warmstart import SHARES, SearchSet, WarmStart, bundled_sets, summary, warmstart_rows
from training.warmstart_reading import Found, Item, chain_rows, keywords, search, wordings

TOWNS = [
    f"{first}{last}" for first in ("Al", "Bro", "Ca", "Do", "El", "Fi") for last in ("burg", "ton", "ville", "ford")
]


def passage(number: int, title: str, text: str) -> Passage:
    return {"id": f"p{number}", "title": title, "text": text, "score": 0.0}


class Overlap:
    """A retriever over a list: passages by the number of words shared with the query, ties by id."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self.passages = passages
        self.queries: list[str] = []

    @property
    def identity(self) -> dict[str, str]:
        return {"environment": "toy"}

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.queries += queries
        return [self._one(set(re.findall(r"\w+", query.casefold())))[:k] for query in queries]

    def _one(self, wanted: set[str]) -> list[Passage]:
        def shared(item: Passage) -> int:
            return len(wanted & set(re.findall(r"\w+", f"{item['title']} {item['text']}".casefold())))

        ranked = sorted(self.passages, key=lambda item: (-shared(item), item["id"]))
        return [{**item, "score": float(shared(item))} for item in ranked]


def toy_corpus() -> list[Passage]:
    towns = [passage(n, town, f"{town} is a town whose mayor is Mayor{n}.") for n, town in enumerate(TOWNS)]
    mayors = [passage(100 + n, f"Mayor{n}", f"Mayor{n} was born in {1900 + n}.") for n in range(len(TOWNS))]
    return towns + mayors


def single(n: int) -> Example:
    return Example(f"s{n}", f"Who is the mayor of {TOWNS[n]}?", (f"Mayor{n}",), "single", 1, (f"p{n}",), dataset="toy")


def double(n: int) -> Example:
    steps = ((f"Who is the mayor of {TOWNS[n]}?", f"Mayor{n}"), ("When was #1 born?", str(1900 + n)))
    return Example(
        f"d{n}", f"When was the person who rules {TOWNS[n]} born, the mayor?", (str(1900 + n),), "2hop", 2,
        (f"p{n}", f"p{100 + n}"), steps, "gold", "toy",
    )  # fmt: skip


def versus(n: int, m: int) -> Example:
    steps = ((f"When was Mayor{n} born?", str(1900 + n)), (f"When was Mayor{m} born?", str(1900 + m)))
    older = f"Mayor{min(n, m)}"
    return Example(
        f"v{n}-{m}", f"Who is older, Mayor{n} or Mayor{m}?", (older,), "comparison", 2,
        (f"p{100 + n}", f"p{100 + m}"), steps, "gold", "toy",
    )  # fmt: skip


def toy_sets() -> dict[str, SearchSet]:
    examples = (
        [single(n) for n in range(16)] + [double(n) for n in range(16, 24)] + [versus(n, n + 1) for n in range(9)]
    )
    return {"toy": SearchSet(examples, lambda: Overlap(toy_corpus()))}


@pytest.fixture(scope="module")
def toy() -> WarmStart:
    return warmstart_rows(toy_sets(), decompositions=[], per_role=60)


def test_every_role_has_valid_rows(toy: WarmStart) -> None:
    assert {row.role for row in toy.rows} == set(ROLES)
    assert all(valid(row) == "" for row in toy.rows)


def test_plans_follow_the_kind_of_question(toy: WarmStart) -> None:
    plans: dict[str, set[str]] = defaultdict(set)
    for row in toy.rows:
        if row.role == "planner" and row.inputs["depth_left"] and row.inputs["retrievals_left"] != 0:
            plans[" ".join(row.question.split()[:3])].add(row.option)
    assert plans["Who is older,"] == {"QDP"} and plans["When was the"] == {"QDS"}
    assert plans["Who is the"] <= {"R,AG", "R,DS,AG", "QR,R,AG", "QR,R,DS,AG", "AG"}


def test_decomposers_learn_the_published_steps(toy: WarmStart) -> None:
    targets = {row.target_text for row in toy.rows if row.role == "serial_decomposer"}
    assert f"<q1>Who is the mayor of {TOWNS[17]}?</q1><q2>When was #1 born?</q2>" in targets


def test_inputs_are_what_the_graph_shows(toy: WarmStart) -> None:
    state = {
        "question": "q", "main": "m", "trace": [], "select": "role", "max_hops": 4, "solved": [], "depth_left": 1,
        "turns_left": None, "retrievals_left": None,
    }  # fmt: skip
    for row in toy.rows:
        assert set(row.inputs) == set(observe(state, row.role))
        for document in row.inputs.get("documents", ()):
            assert set(document) == set(Document.__annotations__)
        for hop in row.inputs.get("hops", ()):
            assert {"question", "answer"} <= set(hop) <= {"question", "answer", "skipped"}


def test_selections_name_the_supporting_passages(toy: WarmStart) -> None:
    supporting = {example.question: set(example.supporting) for example in toy_sets()["toy"].examples}
    rows = [row for row in toy.rows if row.role == "document_selector" and row.question in supporting]
    assert rows
    for row in rows:
        kept = ROLES[row.role].parse(row.target_text, row.inputs)
        ids = {document["id"] for document in row.inputs["documents"] if document["number"] in kept}
        shown = {document["id"] for document in row.inputs["documents"]}
        assert ids == supporting[row.question] & shown


def test_answers_are_gold_and_stand_in_the_documents(toy: WarmStart) -> None:
    for row in toy.rows:
        if row.role != "answer_generator":
            continue
        answer = ROLES[row.role].parse(row.target_text, row.inputs)
        text = " ".join(f"{document['title']} {document['text']}" for document in row.inputs["documents"])
        if row.option in ("retrieved", "selected"):
            assert answer in text
        if answer == UNKNOWN:
            assert row.option == "unanswerable"


def test_the_same_seed_gives_the_same_rows(toy: WarmStart) -> None:
    again = warmstart_rows(toy_sets(), decompositions=[], per_role=60)
    assert again == toy
    assert warmstart_rows(toy_sets(), decompositions=[], per_role=60, seed=1) != toy


def test_a_dev_question_is_refused() -> None:
    dev = load_examples("nq", "dev", limit=1)[0]
    sets = {"toy": SearchSet([dev], lambda: Overlap(toy_corpus()))}
    with pytest.raises(ConfigError, match="is a dev question; train on train files only"):
        warmstart_rows(sets, decompositions=[])


def test_a_hop_that_is_a_dev_question_is_dropped_and_counted() -> None:
    dev = load_examples("nq", "dev", limit=1)[0].question
    hop = Example(
        "d", "What do they say about the thing that it is?", ("1990",), "2hop", 2, ("p0", "p100"),
        ((dev, "Mayor0"), ("When was #1 born?", "1900")), "gold", "toy",
    )  # fmt: skip
    start = warmstart_rows({"toy": SearchSet([hop], lambda: Overlap(toy_corpus()))}, decompositions=[])
    assert start.dropped["planner: a hop that is a dev question"] == 1
    assert dev not in {row.question for row in start.rows}


def test_reading_only_sets_train_no_planner() -> None:
    sets = {"toy": SearchSet([single(n) for n in range(9)], lambda: Overlap(toy_corpus()), reading_only=True)}
    roles = {row.role for row in warmstart_rows(sets, decompositions=[]).rows}
    assert roles == {"document_selector", "answer_generator"}


def test_impossible_arguments_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"roles=\['critic'\].*planner"):
        warmstart_rows(toy_sets(), roles=["critic"])
    with pytest.raises(ConfigError, match="per_role=0"):
        warmstart_rows(toy_sets(), per_role=0)
    with pytest.raises(ConfigError, match="bamboogle has no 'train'"):
        bundled_sets(lambda name: Overlap([]), ["bamboogle"])


def item(question: str, **more: object) -> Item:
    fields = {"answers": ("x",), "supporting": ("p1",), "main": question, "answered": (), "source": "t", "weight": 1.0}
    return Item(**{"question": question, "single": True, **fields, **more})  # type: ignore[arg-type]


def test_wordings_prefer_keywords_and_borrow_context() -> None:
    assert keywords("Who is the mayor of Alburg?") == "mayor of Alburg"
    assert keywords("where did queensland get its name from") == "queensland get its name from place"
    assert keywords("Who?") == "Who"
    hop = item(
        "When did it close?", main="When did the mine that Ann Lee owned close?", answered=(("Which?", "Con Mine"),)
    )
    assert wordings(hop) == ["it close date", "it close date Con Mine", "it close date Ann Lee", "When did it close?"]
    assert doctest.testmod(warmstart_reading).failed == 0


def test_the_wording_that_finds_the_passage_wins() -> None:
    corpus = [
        passage(0, "When", "when was it when was it born"),
        passage(1, "Ann", "Ann date"),
        passage(2, "Bob", "Bob"),
    ]
    (found,) = search([item("When was Ann born?")], Overlap(corpus), top_k=1)
    assert (found.query, found.plain_rank, found.rank) == ("Ann born date", None, 0)
    assert found.documents == ({"number": 0, **corpus[1], "score": 2.0},)


@pytest.mark.parametrize(
    ("plain", "best", "plan"),
    [(0, 0, "R,AG"), (2, 0, "R,DS,AG"), (None, 0, "QR,R,AG"), (None, 3, "QR,R,DS,AG"), (None, None, "AG")],
)
def test_the_chain_is_what_retrieval_needs(plain: int | None, best: int | None, plan: str) -> None:
    (row,) = chain_rows([Found(item("Who is the mayor of Alburg?"), "mayor", plain, best, ())], seed=0)
    assert row.option == plan


def test_bundled_rows_are_balanced_and_valid() -> None:
    roles = ["serial_decomposer", "parallel_decomposer", "answer_summariser"]
    start = warmstart_rows({}, per_role=100, roles=roles)
    assert Counter(row.role for row in start.rows) == dict.fromkeys(roles, 100)
    for role in roles:
        counts = Counter(row.option for row in start.rows if row.role == role)
        named = {option: share for option, share in SHARES[role].items() if option != "*"}
        assert all(abs(counts[option] / 100 - share) < 0.02 for option, share in named.items())
    assert all(valid(row) == "" for row in start.rows)
    table = summary(start.rows)
    assert "| parallel_decomposer | 100 | 2wikimultihopqa 45, strategyqa 30" in table and "| planner | 0 |" in table
