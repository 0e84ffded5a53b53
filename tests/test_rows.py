"""Drawing rows: balance worked out by hand, near-duplicates, validity, determinism."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from agents.role import Prompts
from training.rows import Row, balanced, chance, distinct, letters, shuffled, valid


def row(question: str, option: str = "", role: str = "planner", target: str = "<workflow>R,AG</workflow>") -> Row:
    inputs = {"question": question, "depth_left": 1, "turns_left": None, "retrievals_left": None}
    return Row(role, inputs, target, "test", option=option, question=question)


def rows_of(**counts: int) -> list[Row]:
    return [row(f"{option} {n}", option) for option, count in counts.items() for n in range(count)]


def counts(rows: list[Row]) -> Counter[str]:
    return Counter(one.option for one in rows)


def test_balanced_follows_the_shares() -> None:
    assert counts(balanced(rows_of(a=90, b=90, c=90), 20, {"a": 0.5, "b": 0.25, "c": 0.25})) == {
        "a": 10,
        "b": 5,
        "c": 5,
    }


def test_what_an_option_cannot_fill_goes_to_the_others_in_proportion() -> None:
    # a has 2 of its 10; the 8 left are shared 1 : 1 between b and c
    assert counts(balanced(rows_of(a=2, b=90, c=90), 20, {"a": 0.5, "b": 0.25, "c": 0.25})) == {"a": 2, "b": 9, "c": 9}
    assert counts(balanced(rows_of(a=2, b=3), 20, {"a": 0.5, "b": 0.5})) == {"a": 2, "b": 3}


def test_an_option_without_a_share_gets_nothing() -> None:
    assert counts(balanced(rows_of(a=5, odd=5), 8, {"a": 1.0})) == {"a": 5}
    assert counts(balanced(rows_of(a=5, odd=5), 8, {"a": 1.0, "*": 1.0})) == {"a": 4, "odd": 4}


def test_balanced_prefers_the_first_rows() -> None:
    assert [one.question for one in balanced(rows_of(a=9), 2, {"a": 1.0})] == ["a 0", "a 1"]


@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 30), min_size=1),
    st.integers(1, 60),
    st.lists(st.floats(0.05, 1), min_size=4, max_size=4),
)
def test_balanced_gives_as_many_as_it_can(have: dict[str, int], total: int, shares: list[float]) -> None:
    rows = rows_of(**have)
    chosen = balanced(rows, total, dict(zip("abcd", shares, strict=True)))
    assert len(chosen) == min(total, len(rows))
    assert all(counts(chosen)[option] <= have[option] for option in have)


def test_near_duplicates_go_and_others_stay() -> None:
    long = "who was the first person that walked on the cold grey surface of the far moon"
    rows = [row(long), row(long.upper() + "?"), row(long + " today"), row(long.replace("moon", "planet"))]
    kept, count = distinct([*rows, row("who wrote Jaws"), row("who wrote Alien")])
    # 14 words: one more word 14/15 = .93 goes; one exchanged 13/15 = .87 stays; so does 2/4 = .5
    assert [one.question for one in kept] == [long, rows[3].question, "who wrote Jaws", "who wrote Alien"]
    assert count == 2


def test_one_question_may_serve_several_roles() -> None:
    kept, _ = distinct([row("who wrote Jaws"), row("who wrote Jaws", role="query_rewriter")])
    assert len(kept) == 2


def test_validity_is_the_roles_own() -> None:
    assert valid(row("q?")) == ""
    assert valid(row("q?", target="<workflow>DS,AG</workflow>")) == "not a plan"
    nested = Row("planner", {"question": "q", "depth_left": 0}, "<workflow>QDS</workflow>", "test")
    assert valid(nested) == "a plan beyond depth or budget"


def test_a_row_renders_through_its_role() -> None:
    system, user = row("Who wrote Jaws?").messages(Prompts("bare"))
    assert "Plans:" in system["content"] and "Question: Who wrote Jaws?" in user["content"]


def test_order_depends_on_content_and_seed_alone() -> None:
    rows = rows_of(a=30)
    assert shuffled(rows, 1) == shuffled(list(reversed(rows)), 1) != shuffled(rows, 2)
    assert 0 <= chance("a", 1) < 1 and chance("a", 1) == chance("a", 1) != chance("a", 2)


def test_letters_ignores_case_punctuation_and_spaces() -> None:
    assert letters("Who wrote “Jaws”?") == letters("who  wrote jaws") == "whowrotejaws"
