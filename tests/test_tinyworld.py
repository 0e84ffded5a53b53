import re

import pytest

from agents.workflow import BY_TEXT
from evaluation.metrics import token_f1
from training.tinyoracle import best_plan, decompose, generate, plan_value, regret, simulate, summarise
from training.tinyworld import Ask, TinyRetriever, World, read_ask, steps, tiny_world

WORLD = tiny_world(seed=3)


def of_type(kind: str) -> list[str]:
    return [example.question for example in (*WORLD.train, *WORLD.dev) if example.type == kind]


def test_a_world_follows_from_its_seeds_alone() -> None:
    assert tiny_world(seed=3) == WORLD
    assert tiny_world(seed=4).people != WORLD.people
    sibling = tiny_world(seed=3, facts=1)
    assert (sibling.people, sibling.cities) == (WORLD.people, WORLD.cities)
    assert set(sibling.facts) == set(WORLD.facts)
    assert sum(sibling.facts[key] != value for key, value in WORLD.facts.items()) > len(WORLD.facts) / 2
    with pytest.raises(ValueError, match="people=2"):
        tiny_world(people=2)


def test_there_is_enough_of_every_type_on_both_sides() -> None:
    for split in (WORLD.train, WORLD.dev):
        counts = {kind: sum(e.type == kind for e in split) for kind in ("single", "serial", "parallel")}
        assert min(counts.values()) >= 15, counts


@pytest.mark.parametrize("facts", [0, 1, 2])
def test_no_dev_question_occurs_in_train_not_even_as_a_sub_question(facts: int) -> None:
    dev = {example.question for example in WORLD.dev}
    world = tiny_world(seed=3, facts=facts)
    seen = {example.question for example in world.train}
    for example in world.train:
        ask = read_ask(example.question)
        assert ask is not None
        seen |= {resolved.text for _, resolved, _ in steps(world, ask)}
    assert not seen & dev  # the split does not depend on the facts, so siblings cannot leak either


def test_questions_read_back_as_what_they_were_made_from() -> None:
    for ask in (Ask(("trade",), ("Velo",)), Ask(("teacher", "trade"), ("Velo",)), Ask(("trade",), ("Velo", "Karn"))):
        assert read_ask(ask.text) == ask
    assert Ask(("birthplace", "ruler"), ("Velo",)).text == "What is the ruler of the birthplace of Velo?"
    assert read_ask("Who are you?") is None


def test_gold_answers_and_supporting_passages_by_hand() -> None:
    facts = {("A", "birthplace"): "C", ("C", "ruler"): "B", ("A", "trade"): "baker", ("B", "trade"): "smith"}
    world = World(0, ("A", "B"), ("C",), facts, ())
    assert world.answers(Ask(("birthplace", "ruler"), ("A",))) == ("B",)
    assert world.answers(Ask(("trade",), ("A", "B"))) == ("baker", "smith")
    texts = [(w.text, r.text, a) for w, r, a in steps(world, Ask(("birthplace", "ruler"), ("A",)))]
    assert texts == [
        ("What is the birthplace of A?", "What is the birthplace of A?", "C"),
        ("What is the ruler of #1?", "What is the ruler of C?", "B"),
    ]
    by_id = {passage["id"]: passage for passage in WORLD.passages}
    for example in (*WORLD.train, *WORLD.dev):
        shown = " ".join(by_id[name]["text"] for name in example.supporting)
        assert all(answer in shown for answer in example.answers[0].split(", "))


def test_one_round_cannot_answer_what_needs_two() -> None:
    retriever = TinyRetriever(WORLD)
    for question in of_type("serial"):
        words = " ".join(f"{p['title']} {p['text']}" for p in retriever.search([question], 99)[0])
        ask = read_ask(question)
        assert ask is not None
        assert WORLD.answers(ask)[0] not in re.findall(r"\w+", words)
    for question in of_type("parallel"):
        words = " ".join(p["text"] for p in retriever.search([question], 99)[0])
        ask = read_ask(question)
        assert ask is not None
        first, second = WORLD.answers(ask)
        assert first in words and second not in re.findall(r"\w+", words)


def test_the_retriever_looks_up_the_first_entity_named() -> None:
    retriever, (left, right) = TinyRetriever(WORLD), WORLD.people[:2]
    got = retriever.search([f"trade of {right.upper()}, {left}", "nobody", left], 2)
    assert [{p["title"] for p in passages} for passages in got] == [{right}, set(), {left}]
    assert [len(passages) for passages in got] == [2, 0, 2]
    sibling = TinyRetriever(tiny_world(seed=3, facts=1))
    assert sibling.identity["environment"] != retriever.identity["environment"]


# The value of every plan for every type, in the oracle's hands, α = β = 0. A parallel question's first
# answer alone is one word of two: precision 1, recall ½, F1 ⅔.
VALUES = {
    "single": {"AG": 0.0, "QR,AG": 0.0, "R,AG": 1.0, "QR,R,DS,AG": 1.0, "QDS": 0.0, "QDP": 0.0, "QDS/AG": 0.0},
    "serial": {"AG": 0.0, "R,AG": 0.0, "QR,R,DS,AG": 0.0, "QDS": 1.0, "QDS/R,DS,AG": 1.0, "QDP": 0.0, "QDS/AG": 0.0},
    "parallel": {"AG": 0.0, "R,AG": 2 / 3, "R,DS,AG": 2 / 3, "QDS": 1.0, "QDP": 1.0, "QDP/AG": 0.0},
}


@pytest.mark.parametrize("kind", ["single", "serial", "parallel"])
def test_what_each_plan_is_worth(kind: str) -> None:
    for question in of_type(kind)[::7]:
        for plan, value in VALUES[kind].items():
            assert plan_value(WORLD, question, plan) == pytest.approx(value), (question, plan)
            assert regret(WORLD, question, plan) == pytest.approx(1.0 - value)


def test_costs_choose_among_plans_that_answer() -> None:
    # α = 0.3, β = 0.3. Parallel: QDP has 2 turns, 2 retrievals: 1 − 0.1 − 0.2 = 0.7; QDS 3 turns: 0.6.
    question = of_type("parallel")[0]
    assert plan_value(WORLD, question, "QDP", 0.3, 0.3) == pytest.approx(0.7)
    assert regret(WORLD, question, "QDS", 0.3, 0.3) == pytest.approx(0.1)
    assert regret(WORLD, question, "QDP", 0.3, 0.3) == 0.0
    for example in WORLD.dev:
        assert regret(WORLD, example.question, best_plan(example.question), 0.1, 0.1) == 0.0
        assert min(regret(WORLD, example.question, plan, 0.1, 0.1) for plan in BY_TEXT) == 0.0


def test_a_recorded_tree_is_judged_by_what_its_hops_did() -> None:
    question = of_type("serial")[0]
    good = {"plan": "QDS", "children": [{"plan": "R,AG", "children": []}, {"plan": "R,DS,AG", "children": []}]}
    blind = {"plan": "QDS", "children": [{"plan": "AG", "children": []}, {"plan": "R,AG", "children": []}]}
    assert regret(WORLD, question, good) == 0.0
    assert regret(WORLD, question, blind) == 1.0
    outcome = simulate(WORLD, question, good)
    assert (outcome.turns, outcome.retrievals) == (3, 2)
    with pytest.raises(ValueError, match="not a question"):
        regret(WORLD, "Who are you?", "R,AG")


def test_executors_say_what_the_documents_hold() -> None:
    documents = [("Velo", "trade baker"), ("Velo", "teacher Karn")]
    assert generate("What is the trade of Velo?", documents) == "baker"
    assert generate("What is the trade of Velo, Karn?", documents) == "baker"
    assert generate("What is the birthplace of Velo?", documents) == "unknown"
    assert generate("What is the trade of Velo?", []) == "unknown"
    assert summarise("What is the trade of Velo, Karn?", ["baker", "smith"]) == "baker, smith"
    assert summarise("What is the trade of the teacher of Velo?", ["Karn", "smith"]) == "smith"
    assert decompose("What is the trade of the teacher of Velo?", serial=True) == (
        "What is the teacher of Velo?",
        "What is the trade of #1?",
    )
    assert decompose("What is the trade of Velo, Karn?", serial=False)[1] == "What is the trade of Karn?"


def test_rows_have_the_layout_of_the_bundled_data() -> None:
    row = next(row for row in WORLD.rows("dev") if row["type"] == "serial")
    assert set(row) == {
        "id", "question", "answers", "type", "hops", "supporting", "decomposition", "decomposition_kind",
    }  # fmt: skip
    assert row["hops"] == 2 and isinstance(row["decomposition"], list) and len(row["decomposition"]) == 2
    assert token_f1(str(row["answers"][0]), [str(row["answers"][0])]) == 1.0  # type: ignore[index]
