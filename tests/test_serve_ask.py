"""`POST /ask`: the result, its making as events, and what bad requests and failing runs get."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph

from agents.tagged import tagged
from graphs import act, load_graph, trainable
from graphs.ledger import LedgerWriter
from graphs.recorded import RecordedGraph
from serving.sse import encode_event
from tests.scripted import PASSAGES, ListRetriever, ScriptedPolicy
from tests.serving_toy import SECRET, Toy, calling, events, play, serving
from tests.toy_model import toy_model


def test_a_question_gets_all_that_invoke_gives_and_what_the_record_knows(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    expected = toy.graph.invoke("Where was Mozart born? Q1", seed=7)

    async def story() -> None:
        async with serving(toy.graph) as served:
            response = await served.ask("Where was Mozart born? Q1", seed=7)
            assert response.status_code == 200
            got = response.json()
            assert got.keys() == expected.keys() | {"outcome", "seconds"}
            same = expected.keys() - {"run"}
            assert {key: got[key] for key in same} == {key: expected[key] for key in same}
            assert got["answer"] == "answer to Q1" and got["evidence"][0]["id"] == "mozart"
            assert got["outcome"] == "ok" and got["seconds"]["total"] > 0
            assert [run.seed for run in toy.runs if run.run == got["run"]] == [7]

    play(story)


def test_options_of_one_question_are_its_own(tmp_path: Path) -> None:
    toy = Toy(tmp_path)

    async def story() -> None:
        async with serving(toy.graph) as served:
            closed = (await served.ask("Q1", workflow="AG", record="off", max_new_tokens=200)).json()
            assert closed["workflow"]["plan"] == "AG" and closed["retrievals"] == 0 and closed["run"] is None
            assert (await served.ask("Q2")).json()["retrievals"] == 1
        assert [run.question for run in toy.runs] == ["Q2"]

    play(story)


@pytest.mark.parametrize(
    "body, told",
    [
        ({}, "question is missing"),
        ({"question": 5}, "question=5"),
        ({"question": "  "}, "not blank"),
        ({"question": "x" * 4001}, "4,001 characters"),
        ({"question": "who?", "max_turns": 0}, "max_turns=0"),
        ({"question": "who?", "max_turn": 1}, "unknown option 'max_turn'; allowed: max_turns"),
        ({"question": "who?", "workflow": "DS,AG"}, "DS"),
        ({"question": "who?", "workflow": "R,AG", "max_retrievals": 0}, "max_retrievals"),
        ({"question": "who?", "record": "train", "temperature": 0}, "greedy"),
        ({"question": "who?", "stream": 1}, "stream=1"),
        ([], "JSON object"),
        ("who?", "JSON object"),
    ],
)
def test_what_cannot_be_used_is_named_before_anything_runs(tmp_path: Path, body: Any, told: str) -> None:
    toy = Toy(tmp_path)

    async def story() -> None:
        async with calling(toy.graph) as client:
            response = await client.post("/ask", json=body)
            error = response.json()["error"]
            assert response.status_code == 422 and told in error["message"]
            assert (error["type"], error["code"]) == ("invalid_request_error", "invalid")
        assert toy.recording.policy.asked == [] and toy.runs == []

    play(story)


@pytest.mark.parametrize(
    "content, kind",
    [
        (b"{", "application/json"),
        (b"\xff\xfe", "application/json"),
        (b"[" * 20_000, "application/json"),
        (b'{"question": "\\ud800"}', "application/json"),
        (b'{"\\ud800": 1, "question": "who?"}', "application/json"),
        (b'{"question": "who?", "temperature": NaN}', "application/json"),
        (b'{"question": "who?", "seed": 1e999}', "application/json"),
        (b'{"question": "who?"}', "text/plain"),
        (b"", "application/json"),
    ],
)
def test_a_body_that_is_no_question_is_refused_in_the_same_shape(tmp_path: Path, content: bytes, kind: str) -> None:
    async def story() -> None:
        async with calling(Toy(tmp_path).graph) as client:
            response = await client.post("/ask", content=content, headers={"Content-Type": kind})
            assert response.status_code in (400, 422)
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}

    play(story)


def test_unknown_places_have_the_same_shape(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(Toy(tmp_path).graph) as served:
            assert (await served.client.get("/nowhere")).json()["error"]["code"] == "not_found"
            response = await served.client.get("/ask")
            assert response.status_code == 405 and response.headers["allow"] == "POST"
            schema = (await served.client.get("/openapi.json")).json()
            assert {"question", "workflow", "max_turns"} <= set(
                schema["components"]["schemas"]["AskBody"]["properties"]
            )
            assert {"200", "422", "429", "504"} <= set(schema["paths"]["/ask"]["post"]["responses"])

    play(story)


def test_a_stream_tells_nodes_then_tokens_then_the_result(tmp_path: Path) -> None:
    toy = Toy(tmp_path)

    async def story() -> None:
        async with serving(toy.graph) as served:
            response = await served.ask("Who? Q3", stream=True)
            assert response.status_code == 200 and response.headers["content-type"].startswith("text/event-stream")
            told = list(events(response.text))
            names = [name for name, _ in told]
            assert names[0] == "run" and names[-1] == "result" and names.count("result") == 1
            nodes = [next(iter(data)) for name, data in told if name == "update"]
            assert nodes == ["open", "plan", "single_round", "close"]
            tokens = [data["token"] for name, data in told if name == "token"]
            assert len(tokens) > 1 and "".join(tokens) == "answer to Q3" == told[-1][1]["answer"]
            assert told[0][1]["run"] == told[-1][1]["run"] == toy.runs[-1].run

    play(story)


@pytest.mark.parametrize("stream", [False, True])
def test_a_failing_run_tells_its_id_and_nothing_of_the_inside(tmp_path: Path, stream: bool) -> None:
    toy = Toy(tmp_path)

    async def story() -> None:
        async with serving(toy.graph) as served:
            response = await served.ask("boom Q1", stream=stream)
            assert response.status_code == (200 if stream else 500)
            name, told = list(events(response.text))[-1] if stream else ("error", response.json())
            assert name == "error" and told["error"]["code"] == "failed"
            assert SECRET not in response.text and "Traceback" not in response.text
            (run,) = toy.runs
            assert run.outcome == "crashed" and run.run in told["error"]["message"] and SECRET in str(run.error)
            assert (await served.ask("Q2")).json()["answer"] == "answer to Q2"

    play(story)


def test_one_users_error_does_not_touch_anothers_answer(tmp_path: Path) -> None:
    toy = Toy(tmp_path)

    async def story() -> None:
        async with serving(toy.graph, capacity=8) as served:
            questions = [f"boom Q{n}" if n % 3 == 0 else f"Who is Q{n}?" for n in range(8)]
            responses = await asyncio.gather(*map(served.ask, questions))
            for number, response in enumerate(responses):
                if number % 3 == 0:
                    assert response.status_code == 500
                else:
                    assert response.json()["answer"] == f"answer to Q{number}"

    play(story)


def test_a_real_model_says_over_http_what_it_says_in_python(tmp_path: Path) -> None:
    graph = load_graph(
        policy=toy_model(), retriever=ListRetriever(PASSAGES), prompts="bare", decoding="constrained", ledger=tmp_path
    )
    questions = [f"Who was born first, number {n}?" for n in range(3)]
    options: dict[str, Any] = {"workflow": "R,AG", "max_new_tokens": 12, "temperature": 1.0}
    expected = [graph.invoke(question, **options)["answer"] for question in questions]

    async def story() -> None:
        async with serving(graph) as served:
            asked = (served.ask(question, stream=number > 0, **options) for number, question in enumerate(questions))
            whole, *streamed = await asyncio.gather(*asked)
            results = [whole.json(), *(list(events(response.text))[-1][1] for response in streamed)]
            assert [result["answer"] for result in results] == expected

    play(story)


class State(TypedDict, total=False):
    question: str
    verdict: str


def own_graph(folder: Path) -> RecordedGraph:
    """Return a graph with another output, no options of its own, and no token stream."""
    judge = tagged("judge", "Is it so?", sees=["question"], tag="verdict")

    def speak(state: State, config: RunnableConfig) -> State:
        return {"verdict": act(judge, state, config)}

    builder = StateGraph(State)
    builder.add_node("judge", speak)
    builder.add_edge(START, "judge")
    builder.add_edge("judge", END)
    policy = ScriptedPolicy(lambda role, user: "<verdict>so it is</verdict>")
    return trainable(builder.compile(), "verdict", policy=policy, ledger=LedgerWriter(folder))


@pytest.mark.parametrize("stream", [False, True])
def test_a_graph_of_ones_own_is_served_alike(tmp_path: Path, stream: bool) -> None:
    async def story() -> None:
        async with serving(own_graph(tmp_path)) as served:
            response = await served.ask("Is it?", stream=stream)
            got = list(events(response.text))[-1][1] if stream else response.json()
            assert got["answer"] == got["verdict"] == "so it is"
            assert got["model_calls"] == 1 and got["prompt_tokens"] > 0 and got["run"]

    play(story)


@given(st.dictionaries(st.text(), st.text()))
def test_an_event_is_one_line_whatever_it_holds(data: dict[str, str]) -> None:
    encoded = encode_event(data, "token").decode()
    assert encoded.endswith("\n\n") and encoded.count("\n") == 3 and "\r" not in encoded
    assert json.loads(encoded.splitlines()[1].removeprefix("data: ")) == data
