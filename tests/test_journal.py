"""The call DAG: worked examples, then every series-parallel structure against the definition of "follows"."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agents.call import Call
from graphs.journal import Entry, Journal, link
from graphs.tracker import Level, Place, node_path
from graphs.trajectory import Retrieval


def call(name: str, path: str | None = None) -> Call:
    return Call(name, "r", path or name, (), (1,), (2,), (-0.5,), (1,), 1.0, False, "text", "value", None, False)


def level(step: int, node: str, send: int = -1, task: str = "") -> Level:
    return Level(step, node, send, task or f"{node}-{step}-{send}")


def dag(*calls: tuple[str, Place]) -> dict[str, tuple[str, ...]]:
    """Link calls given in the order of their ending; return id → parents in the order of the listing."""
    entries = [Entry(call(name), place, sequence) for sequence, (name, place) in enumerate(calls)]
    linked = link(entries)
    assert [item.order for item in linked] == list(range(len(calls)))
    return {item.id: item.parents for item in linked}


def test_a_chain() -> None:
    assert dag(("QR", (level(1, "QR"),)), ("DS", (level(3, "DS"),)), ("AG", (level(4, "AG"),))) == {
        "QR": (),
        "DS": ("QR",),
        "AG": ("DS",),
    }


def test_qds_hop_follows_the_last_call_of_the_hop_before() -> None:
    serial = level(2, "serial")
    hops = [(serial, level(step, "hop", 0)) for step in (2, 3)]
    calls = [
        ("PLAN", (level(1, "plan"),)),
        ("QDS", (serial, level(1, "decompose"))),
        *[
            (f"{i}/{name}", (*hop, level(n, name)))
            for i, hop in enumerate(hops)
            for n, name in ((1, "PLAN"), (2, "AG"))
        ],
        ("AS", (serial, level(4, "summarise"))),
    ]
    assert dag(*calls) == {
        "PLAN": (),
        "QDS": ("PLAN",),
        "0/PLAN": ("QDS",),
        "0/AG": ("0/PLAN",),
        "1/PLAN": ("0/AG",),
        "1/AG": ("1/PLAN",),
        "AS": ("1/AG",),
    }


def test_qdp_forks_in_send_order_whoever_ends_first_and_joins() -> None:
    parallel = level(1, "parallel")
    calls = [
        ("QDP", (parallel, level(1, "decompose"))),
        ("1/AG", (parallel, level(2, "hop", 1), level(1, "AG"))),
        ("0/QR", (parallel, level(2, "hop", 0), level(1, "QR"))),
        ("0/AG", (parallel, level(2, "hop", 0), level(3, "AG"))),
        ("AS", (parallel, level(3, "summarise"))),
    ]
    linked = dag(*calls)
    assert linked == {"QDP": (), "0/QR": ("QDP",), "0/AG": ("0/QR",), "1/AG": ("QDP",), "AS": ("0/AG", "1/AG")}
    assert list(linked) == ["QDP", "0/QR", "0/AG", "1/AG", "AS"]


def test_ten_sends_are_ordered_by_number() -> None:
    calls = [(str(send), (level(1, "hop", send),)) for send in reversed(range(12))]
    assert list(dag(*calls)) == [str(send) for send in range(12)]


def test_parallel_pull_tasks_are_ordered_by_name_and_joined() -> None:
    calls = [
        ("start", (level(1, "start"),)),
        ("b", (level(2, "b"),)),
        ("a", (level(2, "a"),)),
        ("join", (level(3, "join"),)),
    ]
    assert dag(*calls) == {"start": (), "a": ("start",), "b": ("start",), "join": ("a", "b")}


def test_a_loop_repeats_its_node_in_later_steps() -> None:
    calls = [("draft", (level(1, "draft"),)), ("check", (level(2, "check"),)), ("draft#1", (level(3, "draft"),))]
    assert dag(*calls) == {"draft": (), "check": ("draft",), "draft#1": ("check",)}


def test_several_calls_of_one_node_follow_each_other() -> None:
    node = (level(1, "node"),)
    assert dag(("x", node), ("x#1", node), ("x#2", node)) == {"x": (), "x#1": ("x",), "x#2": ("x#1",)}


def test_a_node_that_runs_subgraphs_between_its_calls() -> None:
    node = level(1, "node")
    again = Level(0, "1", -1, "")  # LangGraph numbers the further subgraphs of one task
    calls = [
        ("before", (node,)),
        ("first/a", (node, level(1, "a"))),
        ("first/b", (node, level(2, "b"))),
        ("between", (node,)),
        ("second/a", (node, again, level(1, "a", task="other"))),
        ("after", (node,)),
        ("next", (level(2, "next"),)),
    ]
    names = [name for name, _ in calls]
    assert dag(*calls) == {name: (before,) if before else () for before, name in zip(["", *names], names, strict=False)}


def test_two_forks_one_after_the_other() -> None:
    """A task without calls does not interrupt the chain; the second fork hangs below all ends of the first."""
    calls = [(f"{step}{send}", (level(step, "n", send),)) for step in (1, 3) for send in (0, 1)]
    assert dag(*calls) == {"10": (), "11": (), "30": ("10", "11"), "31": ("10", "11")}


def test_paths_hold_no_random_ids() -> None:
    place = (level(2, "parallel"), level(2, "hop", 1), Level(0, "1", -1, ""), level(1, "AG", task="abcdef"))
    assert node_path(place) == "parallel/hop[1]/1/AG" and node_path(()) == "node"


def test_indices_of_a_path_are_counted() -> None:
    journal = Journal()
    assert [journal.begin("a", ()), journal.begin("b", ()), journal.begin("a", ())] == [0, 0, 1]


def test_retrievals_are_listed_in_send_order() -> None:
    journal = Journal()
    for send in (1, 0):
        found = Retrieval(f"hop/{send}", "q", ("d",), (1.0,), 0.0)
        journal.add_retrieval(found, (level(2, "hop", send), level(1, "R")))
    assert [item.path for item in journal.ordered_retrievals()] == ["hop/0", "hop/1"]


# ---- restored calls of an interrupted run


def restored(*calls: tuple[str, str, Place]) -> Journal:
    journal = Journal()
    for name, path, place in calls:
        journal.restore(call(name, path), place)
    return journal


def kept(journal: Journal) -> list[str]:
    return [entry.call.id for entry in journal.entries]


def test_a_task_that_runs_again_replaces_its_calls() -> None:
    node, other = (level(2, "node"),), (level(1, "node"),)
    journal = restored(("x", "x", other), ("x#1", "x", node), ("x#2", "x", node))
    journal.restore_retrieval(Retrieval("x", "q", (), (), 0.0), node)
    assert journal.begin("x", node) == 1 and kept(journal) == ["x"]
    journal.add(call("x#1", "x"), node)
    assert journal.begin("x", node) == 2 and kept(journal) == ["x", "x#1"]
    assert journal.ordered_retrievals() == ()


def test_what_stands_side_by_side_with_it_or_before_it_is_kept() -> None:
    parallel = level(2, "parallel")
    journal = restored(
        ("QDP", "QDP", (parallel, level(1, "decompose"))),
        ("0", "0", (parallel, level(2, "hop", 0), level(1, "AG"))),
        ("1", "1", (parallel, level(2, "hop", 1), level(1, "AG"))),
        ("sub", "sub", (parallel, level(2, "hop", 1), level(1, "AG"), level(1, "deep"))),
    )
    journal.begin("1", (parallel, level(2, "hop", 1), level(1, "AG")))
    assert kept(journal) == ["QDP", "0", "sub"]  # a subgraph resumes by itself


def test_what_came_later_or_ran_under_a_lost_checkpoint_goes() -> None:
    journal = restored(
        ("a", "a", (level(1, "a"),)),
        ("b", "b", (level(2, "b", task="lost"), level(1, "deep"))),
        ("c", "c", (level(3, "c"),)),
    )
    journal.begin("b", (level(2, "b", task="new"), level(2, "deep")))
    assert kept(journal) == ["a"]


# ---- any structure


@dataclass(frozen=True)
class Made:
    """A call with where it stands: its LangGraph place, and its place in the structure."""

    id: str
    place: Place
    spot: tuple[tuple[str, int], ...]
    """("step" | "task" | "part", number), from the outside in; steps and parts order, tasks do not."""


Graph = list[Any]  # of steps, of tasks, of parts: None = a call, a list = a subgraph
graphs: Any = st.recursive(
    st.just([[[None]]]),
    lambda inner: st.lists(
        st.lists(st.lists(st.none() | inner, max_size=3), min_size=1, max_size=3), min_size=1, max_size=3
    ),
    max_leaves=6,
)


def walk(graph: Graph, place: Place, spot: tuple[tuple[str, int], ...], names: Iterator[int]) -> Iterator[Made]:
    for step, tasks in enumerate(graph, 1):
        fan_out = len(tasks) > 1 and step % 2 == 0
        for number, parts in enumerate(tasks):
            node = level(step, "n" if fan_out else f"n{number}", number if fan_out else -1, f"task{next(names)}")
            below = (*spot, ("step", step), ("task", number))
            subgraphs = itertools.count()
            for part, content in enumerate(parts):
                inside = (*below, ("part", part))
                if content is None:
                    yield Made(f"c{next(names)}", (*place, node), inside)
                    continue
                count = next(subgraphs)
                numbered = (Level(0, str(count), -1, ""),) if count else ()
                yield from walk(content, (*place, node, *numbered), inside, names)


def follows(later: Made, earlier: Made) -> bool:
    """Return whether `later` can only run after `earlier`: where they part, they are in sequence, not in parallel."""
    for (kind, first), (_, second) in zip(earlier.spot, later.spot, strict=False):
        if first != second:
            return kind != "task" and first < second
    return False


def ended(made: list[Made], seed: int) -> list[Made]:
    """Return the calls in some order in which they may end."""
    order, left, generator = [], list(made), random.Random(seed)
    while left:
        ready = [item for item in left if not any(follows(item, other) for other in left)]
        order.append(generator.choice(ready))
        left.remove(order[-1])
    return order


@settings(max_examples=300, deadline=None)
@given(graphs, st.integers(0, 1000))
def test_parents_are_the_nearest_calls_that_one_follows(graph: Graph, seed: int) -> None:
    made = list(walk(graph, (), (), itertools.count()))
    linked = link([Entry(call(item.id), item.place, place) for place, item in enumerate(ended(made, seed))])
    assert [item.id for item in linked] == [item.id for item in made]  # depth first, in send order
    by_id = {item.id: item for item in made}
    for item in linked:
        before = [other for other in made if follows(by_id[item.id], other)]
        nearest = {other.id for other in before if not any(follows(third, other) for third in before)}
        assert set(item.parents) == nearest and len(item.parents) == len(nearest)
