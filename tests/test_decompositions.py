"""Published decompositions as splits: references, comparisons dropped, question form, reasons for leaving out."""

import pytest

from evaluation.dataset import Example, load_examples
from training.decompositions import Split, Step, read_splits, tidy_answer


def example(steps: list[tuple[str, str | None]], kind: str = "gold", **more: object) -> Example:
    fields = {"id": "x", "question": "The question?", "answers": ("The End",), "dataset": "musique"}
    return Example(**{**fields, **more}, decomposition=tuple(steps), decomposition_kind=kind)  # type: ignore[arg-type]


def only(one: Example) -> Split:
    (split,), dropped = read_splits([one])
    assert not dropped
    return split


def test_a_dependent_decomposition_is_serial_and_resolved() -> None:
    steps = [("who wrote  the book", "``Ann'' "), ("where was #1 born ?", "Rome")]
    split = only(example(steps, supporting=("p1", "p2")))
    assert split.kind == "serial" and split.answer == "The End" and split.weight == 1.0
    assert split.steps == (
        Step("Who wrote the book?", "Who wrote the book?", "Ann", "p1"),
        Step("Where was #1 born?", "Where was Ann born?", "Rome", "p2"),
    )


def test_an_answer_that_a_later_step_spells_out_becomes_a_reference() -> None:
    steps = [("Who directed the film Jaws?", "S. Spielberg"), ("When was S. Spielberg born?", "1946")]
    split = only(example(steps, "subquestions", type="compositional", dataset="2wikimultihopqa"))
    assert [step.text for step in split.steps] == ["Who directed the film Jaws?", "When was #1 born?"]
    assert split.kind == "serial" and split.source == "2wikimultihopqa/subquestions"


def test_a_comparison_keeps_its_steps_apart() -> None:
    steps = [("Which country is Ayaz in?", "Iran"), ("Is Garmu located in Iran?", "Iran")]
    split = only(example(steps, "subquestions", type="comparison"))
    assert split.kind == "parallel" and split.steps[1].text == "Is Garmu located in Iran?"


def test_a_last_step_that_only_compares_is_left_to_the_summariser() -> None:
    steps = [("When did Ann die?", None), ("When was email invented?", None), ("Is #1 before #2?", None)]
    split = only(example(steps, dataset="decompositions", origin="strategyqa"))
    assert split.kind == "parallel" and len(split.steps) == 2 and split.steps[0].answer is None
    musique = only(example([*steps[:2], ("when did #1 use #2", "1990")]))
    assert musique.kind == "serial" and len(musique.steps) == 3, "MuSiQue's last step needs a passage"


def test_phrases_become_questions() -> None:
    steps = [("the man that governed for 53 years", None), ("relationship of Ann to #1", None)]
    split = only(example(steps, "qdmr", dataset="decompositions", origin="hotpotqa"))
    texts = ["What is the man that governed for 53 years?", "What is relationship of Ann to #1?"]
    assert [step.text for step in split.steps] == texts
    assert split.weight == 0.5 and split.source == "hotpotqa/qdmr" and split.steps[1].question is None


@pytest.mark.parametrize(
    ("steps", "more", "reason"),
    [
        ([("who wrote the book", "Ann")], {}, "not 2 to 4 steps"),
        ([(f"who wrote book number {n}", "Ann") for n in range(5)], {}, "not 2 to 4 steps"),
        ([("#1 is what thing", "a"), ("where is it now", "b")], {}, "no question by itself"),
        ([("What is the located in of X", "a"), ("where is #1 now", "b")], {}, "no question by itself"),
        ([("Who is the one", "a"), ("who sings \" Poison", "b")], {}, "no question by itself"),
        ([("Ann", "a"), ("where is #1 now", "b")], {}, "fewer than 3"),
        ([("Who is it there", "a"), ("Where is it now", "b")], {"type": "bridge"}, "without a reference"),
    ],
)  # fmt: skip
def test_what_cannot_be_taught_is_left_out_by_reason(
    steps: list[tuple[str, str]], more: dict[str, str], reason: str
) -> None:
    splits, dropped = read_splits([example(steps, **more)])
    assert not splits and [reason in name for name in dropped] == [True]


def test_tidy_answer() -> None:
    assert tidy_answer(" ``Hey  Jude ''") == "Hey Jude" and tidy_answer("U.S.") == "U.S."


def test_bundled_decompositions_give_both_kinds() -> None:
    examples = load_examples("decompositions", "train", gold=False)
    splits, dropped = read_splits(examples)
    kinds = [split.kind for split in splits]
    assert kinds.count("serial") > 5000 and kinds.count("parallel") > 1500
    assert len(splits) + sum(dropped.values()) == len(examples)
    assert all(2 <= len(split.steps) <= 4 for split in splits)
