"""Recorded runs made again: from the record alone, and with one call changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from agents.call import Completion, Request
from agents.errors import LedgerError, RetrieverError
from agents.passage import Passage
from graphs.collection import collect
from graphs.jade import build_jade
from graphs.ledger import LedgerWriter
from graphs.options import Options
from graphs.recorded import trainable
from graphs.replay import after, before, instead, make_again, options_of, rebuild
from graphs.trajectory import Trajectory
from tests.replay_toy import BORN, SPLIT, Actor, ask, play, played_by
from tests.scripted import PASSAGES, ListRetriever, says
from tests.test_parallel import ITEMS
from tests.toy_model import toy_model


class Gone(ListRetriever):
    """An index that is no longer there."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        raise RetrieverError("there is no collection")


def silent() -> Actor:
    """Return a policy that refuses to speak."""
    return Actor(says())


def essence(run: Trajectory) -> list[object]:
    """Return everything that a run's randomness decides."""
    return [run.answer, run.turns, [(call.id, call.prompt_ids, call.response_ids, call.value) for call in run.calls]]


def as_asked(request: Request) -> Request:
    return request


def test_a_run_is_made_again_without_model_and_index(tmp_path: Path) -> None:
    graph, _ = play(tmp_path)
    run = ask(graph, SPLIT)
    bare = trainable(
        build_jade(Gone(PASSAGES)), policy=silent(), retriever=Gone(PASSAGES), ledger=LedgerWriter(tmp_path)
    )
    again = rebuild(bare, run, from_record=True)
    assert (again.answer, again.turns, len(again.calls)) == (run.answer, 2, len(run.calls)) == ("K2", 2, 9)
    assert [call.text for call in again.calls] == [call.text for call in run.calls]
    assert [call.parents for call in again.calls] == [call.parents for call in run.calls]
    with pytest.raises(RetrieverError, match="cannot be rebuilt: there is no collection"):
        rebuild(bare, run)


def test_a_run_is_made_again_prompt_by_prompt_and_leaves_no_record(tmp_path: Path) -> None:
    graph, policy = play(tmp_path)
    run = ask(graph, SPLIT, seed=3)
    written = sorted((file.name, file.stat().st_size) for file in tmp_path.iterdir())
    mute = silent()
    assert essence(rebuild(played_by(graph, mute), run)) == essence(run)
    assert mute.asked == [] and len(policy.asked) == len(run.calls)
    assert sorted((file.name, file.stat().st_size) for file in tmp_path.iterdir()) == written


def test_another_graph_is_named_where_it_leaves_the_record(tmp_path: Path) -> None:
    graph, _ = play(tmp_path)
    run = ask(graph, SPLIT)
    fewer, _ = play(tmp_path, build=lambda retriever: build_jade(retriever, top_k=3))
    with pytest.raises(
        LedgerError, match=r"root/./DS is shown another prompt than was recorded \(\d+ tokens, recorded"
    ):
        rebuild(fewer, run)
    shallow, _ = play(tmp_path, build=lambda retriever: build_jade(retriever, max_depth=0))
    with pytest.raises(LedgerError, match=f"run {run.run} cannot be rebuilt"):
        rebuild(shallow, run, from_record=True)
    with pytest.raises(LedgerError, match="at root/PLAN planner is asked, recorded was judge"):
        calls = (replace(run.calls[0], role="judge"), *run.calls[1:])
        rebuild(graph, replace(run, calls=calls), from_record=True)
    with pytest.raises(LedgerError, match="reads what root/PLAN said as 'QDP', recorded was 'QDS'"):
        rebuild(graph, replace(run, calls=(replace(run.calls[0], value="QDS"), *run.calls[1:])))
    with pytest.raises(LedgerError, match="does not make the call root/9/AG"):
        rebuild(graph, replace(run, calls=(*run.calls, replace(run.calls[-1], id="root/9/AG"))))
    with pytest.raises(LedgerError, match="never searched for"):
        rebuild(graph, replace(run, retrievals=()), from_record=True)


def test_past_and_future_follow_the_call_dag(tmp_path: Path) -> None:
    run = ask(play(tmp_path)[0], SPLIT)
    assert before(run, "root/0/DS") == {"root/PLAN", "root/QDP", "root/0/PLAN"}
    assert after(run, "root/0/DS") == {"root/0/AG", "root/AS"}
    assert before(run, "root/PLAN") == frozenset() == after(run, "root/AS")


def test_only_what_depends_on_the_change_goes_on_live(tmp_path: Path) -> None:
    graph, policy = play(tmp_path, parallel_decomposer=ITEMS)
    run = ask(graph, SPLIT)
    policy.batches.clear()

    def all_documents(request: Request) -> Completion:
        return Completion((), (), (), "<id>Document0,Document1</id>", truncated=False)

    (changed,) = make_again(graph, [instead(run, "root/1/DS", all_documents, options_of(run))])
    assert policy.places == ["root/1/AG"]  # it says what it said, so the summariser is asked what is recorded
    assert changed.answer == run.answer and next(c for c in changed.calls if c.id == "root/1/DS").value == [0, 1]
    policy.batches.clear()
    make_again(graph, [instead(run, "root/1/DS", all_documents, options_of(run), fresh=True)])
    assert policy.places == ["root/1/AG", "root/AS"]


def test_greedy_calls_are_known_by_their_prompts_wherever_they_are_asked(tmp_path: Path) -> None:
    graph, policy = play(tmp_path, planner=lambda user: "QDP" if "depth 2" in user else "AG")
    run = ask(graph, SPLIT)
    policy.batches.clear()

    def swapped(request: Request) -> Completion:
        text = "<q1>How tall is Mont Blanc?</q1><q2>How tall is K2?</q2>"
        return Completion((), (), (), text, truncated=False)

    (changed,) = make_again(graph, [instead(run, "root/QDP", swapped, options_of(run))])
    assert policy.places == ["root/AS"] and changed.hops[0]["question"] == "How tall is Mont Blanc?"
    sampled = ask(graph, SPLIT, temperature=1.0)
    policy.batches.clear()
    make_again(graph, [instead(sampled, "root/QDP", swapped, options_of(sampled))])
    assert sorted(policy.places) == ["root/0/AG", "root/0/PLAN", "root/1/AG", "root/1/PLAN", "root/AS"]


def test_the_changed_call_must_be_asked_what_was_recorded(tmp_path: Path) -> None:
    graph, _ = play(tmp_path)
    run = ask(graph)
    other = replace(run, calls=tuple(replace(c, prompt_ids=(1,)) if c.path == "root/DS" else c for c in run.calls))
    for call in ("root/DS", "root/AG"):  # itself, and a call of its past
        (made,) = make_again(graph, [instead(other, call, as_asked, options_of(run))])
        assert made.outcome == "crashed" and "root/DS is shown another prompt" in str(made.error)


def test_constrained_decoding_may_hold_for_the_changed_call_alone(tmp_path: Path) -> None:
    graph, policy = play(tmp_path)
    run = ask(graph)
    policy.batches.clear()
    held = options_of(run).model_copy(update={"decoding": "constrained"})
    make_again(graph, [instead(run, "root/DS", as_asked, held, fresh=True)])
    asked = [request for requests in policy.batches for request in requests]
    assert [(request.role, request.constraint is None) for request in asked] == [
        ("document_selector", False),
        ("answer_generator", True),
    ]


def test_many_replays_share_the_models_batches(tmp_path: Path) -> None:
    graph, policy = play(tmp_path)
    run = ask(graph)
    policy.batches.clear()
    made = make_again(graph, [instead(run, "root/AG", as_asked, options_of(run))] * 3)
    assert [len(requests) for requests in policy.batches] == [3] and len({item.run for item in made}) == 3
    assert make_again(graph, []) == []


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_real_model_goes_on_as_it_had(temperature: float, tmp_path: Path) -> None:
    """Any call asked again, and all that follows it, gives the recorded tokens: the random numbers are the same."""
    retriever = ListRetriever(PASSAGES)
    graph = trainable(
        build_jade(retriever, max_depth=1, top_k=2),
        policy=toy_model(),
        retriever=retriever,
        ledger=LedgerWriter(tmp_path),
        defaults=Options(decoding="constrained", max_new_tokens=24),
    )
    (run,) = collect(graph, [BORN], temperature=temperature, workflow="QR,R,DS,AG", seed=2)
    assert [call.path for call in run.calls] == ["root/QR", "root/DS", "root/AG"]
    assert essence(rebuild(graph, run)) == essence(run)
    replays = [instead(run, call.id, as_asked, options_of(run), fresh=True) for call in run.calls]
    assert [essence(made) for made in make_again(graph, replays)] == [essence(run)] * len(run.calls)
