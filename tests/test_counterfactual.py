"""What each call of a run changed, worked out by hand: skipped, sampled anew, played by the untuned model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph

from agents.call import Request
from agents.errors import ConfigError
from agents.tagged import tagged
from evaluation.counterfactual import SEED_STEP, SKIPS, explain
from evaluation.counterfactual_result import Alternative, Explanation
from evaluation.counterfactual_roles import role_effects
from graphs.acting import act
from graphs.jade import build_jade
from graphs.ledger import LedgerWriter
from graphs.recorded import trainable
from tests.replay_toy import BORN, SPLIT, Actor, ask, play
from tests.scripted import encode_text, says
from tests.test_acting import State

PATHS = ["root/PLAN", "root/DS", "root/AG"]


def tokens(*texts: str) -> int:
    """Return how many tokens the toy policy takes to say some texts, their ends included."""
    return sum(len(encode_text(text)) + 1 for text in texts)


def tried(found: Explanation, call: str, kind: str) -> Alternative:
    """Return what came of changing a call."""
    (why,) = (item for item in found.calls if item.call == call)
    return next(item for item in why.alternatives if item.kind == kind)


def test_a_selector_that_dropped_the_answer_hurt(tmp_path: Path) -> None:
    graph, policy = play(tmp_path)
    run = ask(graph)
    assert run.answer == "K2"  # it kept document 2, which is K2's
    policy.batches.clear()
    found = explain(run, graph, golds=["Salzburg"], resamples=0, kinds=["skipped"])
    assert [why.call for why in found.calls] == PATHS and found.measure == "gold" and found.recorded.score == 0.0
    skipped = tried(found, "root/DS", "skipped")
    assert [(ending.answer, ending.score) for ending in skipped.endings] == [("Salzburg", 1.0)]
    changes = found.changes(skipped)
    longer = tokens("<answer>Salzburg</answer>") - tokens("<answer>K2</answer>")
    said = tokens("<id>Document2</id>")
    assert changes == {"score": 1.0, "turns": 0.0, "retrievals": 0.0, "tokens": longer - said}
    plan = tried(found, "root/PLAN", "skipped")  # R,AG instead of R,DS,AG: the same effect, and one call less
    assert found.changes(plan)["score"] == 1.0 and [c.path for c in plan.endings[0].trajectory.calls] == [
        "root/PLAN",
        "root/AG",
    ]
    assert tried(found, "root/AG", "skipped") == Alternative(
        "skipped", (), "it writes the answer: nothing can stand in for it"
    )
    assert set(policy.places) == {"root/AG"}  # nothing else was asked of the model


def test_a_rewriter_that_lost_the_question_hurt(tmp_path: Path) -> None:
    graph, _ = play(tmp_path, build=lambda retriever: build_jade(retriever, top_k=1), planner="QR,R,AG")
    run = ask(graph)
    assert (run.retrievals[0].query, run.answer) == ("K2 tall", "K2")
    found = explain(run, graph, golds=["Salzburg"], kinds=["skipped"], roles=["query_rewriter"])
    (skipped,) = tried(found, "root/QR", "skipped").endings
    assert (skipped.trajectory.retrievals[0].query, skipped.answer, skipped.score) == (BORN, "Salzburg", 1.0)
    assert [why.role for why in found.calls] == ["query_rewriter"]


def test_skips_inside_a_decomposition(tmp_path: Path) -> None:
    graph, policy = play(tmp_path, answer_generator=lambda user: "8611 m" if user.endswith("K2?") else "4806 m")
    run = ask(graph, SPLIT)
    assert (run.answer, run.turns, len(run.retrievals)) == ("K2", 2, 2)
    policy.batches.clear()
    found = explain(run, graph, golds=["K2"], kinds=["skipped"])
    changes = {why.call: found.changes(why.alternatives[0]) for why in found.calls}
    assert {call: (c["score"], c["turns"], c["retrievals"]) for call, c in changes.items() if c} == {
        "root/PLAN": (-1.0, -1.0, -1.0),  # R,AG on the whole question: "4806 m"
        "root/QDP": (-1.0, -1.0, -1.0),
        "root/0/PLAN": (0.0, 0.0, 0.0),
        "root/0/DS": (0.0, 0.0, 0.0),
        "root/1/PLAN": (0.0, 0.0, 0.0),
        "root/1/DS": (0.0, 0.0, 0.0),
        "root/AS": (-1.0, 0.0, 0.0),  # the last hop's answer: "4806 m"
    }
    assert tried(found, "root/AS", "skipped").endings[0].answer == "4806 m"
    assert tried(found, "root/QDP", "skipped").endings[0].trajectory.workflow["plan"] == "R,AG"  # type: ignore[index]
    assert set(SKIPS) >= {why.role for why in found.calls if why.alternatives[0].endings}
    assert "root/AS" not in policy.places  # whichever branch changed, it was told what is recorded


def test_a_skipped_planner_answers_unread_where_nothing_may_be_retrieved(tmp_path: Path) -> None:
    graph, _ = play(tmp_path, planner="QDS", serial_decomposer="nonsense")
    run = ask(graph, max_retrievals=0)
    found = explain(run, graph, golds=["Salzburg"], kinds=["skipped"], roles=["planner"])
    (ending,) = tried(found, "root/PLAN", "skipped").endings
    assert ending.trajectory.calls[0].value == "AG" and ending.trajectory.calls[0].format_error is None
    assert ending.retrievals == 0


def test_fresh_samples_have_their_own_seeds_and_only_the_call_is_heated(tmp_path: Path) -> None:
    said: dict[int, str] = {SEED_STEP: "Document0", 2 * SEED_STEP: "Document0", 3 * SEED_STEP: "Document2"}
    heats: dict[str, set[float]] = {}

    def overrule(request: Request) -> str | None:
        heats.setdefault(request.role, set()).add(request.temperature)
        chosen = said.get(int(request.key[0]))
        return f"<id>{chosen}</id>" if request.role == "document_selector" and chosen else None

    graph, policy = play(tmp_path, overrule=overrule)
    run = ask(graph)
    policy.batches.clear(), heats.clear()
    found = explain(run, graph, golds=["Salzburg"], resamples=3, kinds=["resampled"], roles=["document_selector"])
    drawn = tried(found, "root/DS", "resampled")
    assert [ending.answer for ending in drawn.endings] == ["Salzburg", "Salzburg", "K2"]
    assert found.changes(drawn)["score"] == pytest.approx(2 / 3)
    assert heats == {"document_selector": {1.0}, "answer_generator": {0.0}}
    assert policy.places == ["root/DS"] * 3 + ["root/AG"] * 2  # the third said what is recorded: so is its answer


def test_samples_of_a_sampled_run_go_on_afresh(tmp_path: Path) -> None:
    graph, policy = play(tmp_path)
    run = ask(graph, temperature=0.7, seed=5)
    policy.batches.clear()
    explain(run, graph, golds=["Salzburg"], resamples=2, kinds=["resampled"], roles=["planner"])
    keys = [(request.key[0], request.key[2], request.temperature) for batch in policy.batches for request in batch]
    seeds = (5 + SEED_STEP, 5 + 2 * SEED_STEP)
    assert sorted(keys) == sorted((seed, path, 0.7) for seed in seeds for path in PATHS)


def test_the_untuned_model_plays_one_call_on_the_same_prompt_held_to_its_grammar(tmp_path: Path) -> None:
    def overrule(request: Request) -> str | None:
        untuned = request.adapter is None and request.role == "document_selector"
        return "<id>Document0</id>" if untuned else None

    graph, policy = play(tmp_path, overrule=overrule, adapters={"*": "tuned"})
    run = ask(graph)
    policy.batches.clear()
    found = explain(run, graph, golds=["Salzburg"], kinds=["untuned"])
    assert found.changes(tried(found, "root/DS", "untuned"))["score"] == 1.0
    asked = [request for batch in policy.batches for request in batch]
    bare = {request.role for request in asked if request.adapter is None}
    assert bare == {"planner", "document_selector", "answer_generator"}
    assert all((request.constraint is not None) == (request.adapter is None) for request in asked)
    recorded = {call.path: call.prompt_ids for call in run.calls}
    assert all(request.prompt.ids == recorded[str(request.key[2])] for request in asked if request.adapter is None)
    plain, _ = play(tmp_path)
    nobody = explain(ask(plain), plain, golds=["Salzburg"], kinds=["untuned"], roles=["planner"])
    assert tried(nobody, "root/PLAN", "untuned").remark == "no adapter plays this role"


def test_without_gold_the_recorded_answer_is_the_measure(tmp_path: Path) -> None:
    graph, _ = play(tmp_path)
    run = ask(graph)
    found = explain(run, graph, golds=[], kinds=["skipped"], roles=["document_selector"])
    assert (found.measure, found.recorded.score) == ("agreement", 1.0)
    assert found.changes(tried(found, "root/DS", "skipped"))["score"] == -1.0
    data = found.to_json()
    assert (
        data["measure"] == "agreement" and data["calls"][0]["instead"]["skipped"]["endings"][0]["answer"] == "Salzburg"
    )
    assert explain(run, graph, golds=["K2"], kinds=["skipped"]).recorded.score == 1.0


def test_what_fails_is_counted_and_scores_zero(tmp_path: Path) -> None:
    def overrule(request: Request) -> str | None:
        if request.role == "document_selector" and int(request.key[0]) == SEED_STEP:
            raise RuntimeError("out of memory")
        return None

    graph, _ = play(tmp_path, overrule=overrule)
    run = ask(graph)
    found = explain(run, graph, golds=["K2"], resamples=2, kinds=["resampled"], roles=["document_selector"])
    drawn = tried(found, "root/DS", "resampled")
    assert [item.score for item in drawn.endings] == [0.0, 1.0] and found.changes(drawn)["score"] == -0.5
    assert drawn.remark == "1 of 2 failed, which scores 0: RuntimeError: out of memory"
    found = explain(run, graph, golds=["K2"], resamples=1, kinds=["resampled"], roles=["document_selector"])
    drawn = tried(found, "root/DS", "resampled")
    assert drawn.remark.startswith("1 of 1 failed") and found.changes(drawn)["score"] == -1.0
    (effect,) = role_effects([found])
    assert (effect.helped, effect.graded) == (1.0, 1), "a run that fails without the role is no run to leave out"


def own(folder: Path) -> Any:
    """Return a graph of one's own: a judge with a default verdict, then a writer without one."""
    judge = tagged("judge", "Right?", sees=["question"], tag="right", choices=["yes", "no"])
    writer = tagged("writer", "Answer.", sees=["question", "answer"], tag="answer")

    def judging(state: dict[str, Any], config: RunnableConfig) -> dict[str, Any]:
        return {"answer": act(judge, state, config)}

    def writing(state: dict[str, Any], config: RunnableConfig) -> dict[str, Any]:
        return {"answer": act(writer, state, config)}

    graph = StateGraph(State)
    graph.add_node("judging", judging)
    graph.add_node("writing", writing)
    graph.add_edge(START, "judging")
    graph.add_edge("judging", "writing")
    graph.add_edge("writing", END)
    script = says(judge="<right>no</right>", writer=lambda user: f"<answer>{user.rsplit(' ', 1)[1]}</answer>")
    return trainable(graph.compile(), policy=Actor(script), ledger=LedgerWriter(folder))


def test_roles_of_ones_own_are_skipped_by_their_fallbacks(tmp_path: Path) -> None:
    graph = own(tmp_path)
    run = ask(graph, "Is it?")
    found = explain(run, graph, golds=["yes"], kinds=["skipped"])
    assert (run.answer, found.changes(tried(found, "judging", "skipped"))["score"]) == ("no", 1.0)
    assert tried(found, "writing", "skipped").remark == "it writes the answer: nothing can stand in for it"


def test_what_is_refused(tmp_path: Path) -> None:
    graph, _ = play(tmp_path)
    run = ask(graph)
    for arguments, message in (
        ({"resamples": -1}, "resamples=-1: give 0"),
        ({"kinds": ["forgotten"]}, "cannot be forgotten; allowed: skipped, resampled, untuned"),
        ({"roles": ["writer"]}, "no role writer; allowed: planner"),
    ):
        with pytest.raises(ConfigError, match=message):
            explain(run, graph, **arguments)  # type: ignore[arg-type]
    mute, _ = play(tmp_path, answer_generator="<answer></answer>")
    with pytest.raises(ConfigError, match="no gold answer and gave none"):
        explain(ask(mute), mute, golds=[])
    with pytest.raises(ConfigError, match="ended as crashed"):
        explain(replace(run, outcome="crashed", error="E"), graph)
