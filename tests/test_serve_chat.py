"""The OpenAI-compatible face: shapes as OpenAI's clients read them, streamed or whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.chat import ChatBody, unsaid
from tests.serving_toy import Toy, calling, events, play, serving
from tests.test_serve_ask import own_graph

USER = {"role": "user", "content": "Who? Q1"}


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


def test_a_whole_completion(toy: Toy) -> None:
    async def story() -> None:
        async with serving(toy.graph, name="wiki") as served:
            response = await served.chat("Who? Q1")
            got = response.json()
            assert response.status_code == 200 and got["object"] == "chat.completion" and got["model"] == "wiki"
            (choice,) = got["choices"]
            assert choice["message"] == {"role": "assistant", "content": "answer to Q1", "refusal": None}
            assert choice["finish_reason"] == "stop" and choice["index"] == 0
            (run,) = toy.runs
            prompt = sum(len(call.prompt_ids) for call in run.calls)
            generated = sum(len(call.response_ids) for call in run.calls)
            usage = {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}
            assert got["usage"] == usage and prompt > 0
            assert got["jade"]["run"] == run.run and got["jade"]["workflow"]["plan"] == "R,AG"

    play(story)


def test_a_streamed_completion(toy: Toy) -> None:
    async def story() -> None:
        async with serving(toy.graph) as served:
            response = await served.chat("Who? Q1", stream=True, stream_options={"include_usage": True})
            told = [data for _, data in events(response.text)]
            assert told[-1] == "[DONE]" and {chunk["object"] for chunk in told[:-1]} == {"chat.completion.chunk"}
            assert len({chunk["id"] for chunk in told[:-1]}) == 1
            first, *middle, last, usage = told[:-1]
            assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
            pieces = [chunk["choices"][0]["delta"]["content"] for chunk in middle]
            assert len(pieces) > 1 and "".join(pieces) == "answer to Q1"
            assert last["choices"][0]["finish_reason"] == "stop" and last["jade"]["answer"] == "answer to Q1"
            assert usage["choices"] == [] and usage["usage"]["total_tokens"] > 0

    play(story)


def test_a_graph_that_streams_no_tokens_says_its_answer_at_once(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(own_graph(tmp_path)) as served:
            told = [data for _, data in events((await served.chat("Is it?", stream=True)).text)]
            texts = [chunk["choices"][0]["delta"].get("content") for chunk in told[:-1]]
            assert texts == ["", "so it is", None]
            assert "usage" not in told[-2]

    play(story)


def test_the_last_user_message_is_the_question(toy: Toy) -> None:
    async def story() -> None:
        async with serving(toy.graph) as served:
            turns = [
                {"role": "system", "content": "Be rude."},
                {"role": "user", "content": "Who? Q1"},
                {"role": "assistant", "content": "answer to Q1"},
                {"role": "user", "content": [{"type": "text", "text": "And"}, {"type": "text", "text": "Q2?"}]},
            ]
            got = (await served.chat("", messages=turns, jade={"workflow": "AG"}, top_p=0.5, user="me")).json()
            assert got["choices"][0]["message"]["content"] == "answer to Q2"
            assert got["jade"]["ignored_messages"] == 3 and got["jade"]["workflow"]["plan"] == "AG"
            assert [run.question for run in toy.runs] == ["And\nQ2?"]

    play(story)


@pytest.mark.parametrize(
    "more, told",
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "no message of role 'user'"),
        ({"messages": [{"role": "user", "content": None}]}, "not blank"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "image_url"),
        ({"n": 2}, "n=2"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"seed": -1}, "seed=-1"),
        ({"temperature": 9}, "temperature=9"),
        ({"jade": {"max_turn": 1}}, "max_turn"),
    ],
)
def test_mistakes_have_openais_shape_and_status(toy: Toy, more: dict[str, Any], told: str) -> None:
    async def story() -> None:
        async with calling(toy.graph) as client:
            response = await client.post("/v1/chat/completions", json={"messages": [USER], **more})
            error = response.json()["error"]
            assert response.status_code == 400 and told in error["message"]
            assert error["type"] == "invalid_request_error" and set(error) == {"message", "type", "param", "code"}

    play(story)


def test_a_failure_in_a_stream_is_an_error_object_and_no_end(toy: Toy) -> None:
    async def story() -> None:
        async with serving(toy.graph) as served:
            response = await served.chat("boom Q1", stream=True)
            told = list(events(response.text))
            assert told[-1][0] is None and told[-1][1]["error"]["type"] == "server_error"
            assert "[DONE]" not in response.text

    play(story)


def test_models_are_the_one_graph(toy: Toy) -> None:
    async def story() -> None:
        async with serving(toy.graph, name="wiki") as served:
            listed = (await served.client.get("/v1/models")).json()
            assert listed["object"] == "list" and [model["id"] for model in listed["data"]] == ["wiki"]
            assert (await served.client.get("/v1/models/wiki")).json() == listed["data"][0]
            missing = await served.client.get("/v1/models/gpt")
            assert missing.status_code == 404 and missing.json()["error"]["code"] == "not_found"

    play(story)


def test_openais_names_become_options() -> None:
    body = ChatBody.model_validate({"messages": [USER], "temperature": 0.5, "seed": 3, "max_tokens": 9999})
    assert body.options() == {"temperature": 0.5, "seed": 3, "max_new_tokens": 2048}
    newer = {"messages": [USER], "max_tokens": 7, "max_completion_tokens": 8, "jade": {"max_new_tokens": 9}}
    assert ChatBody.model_validate(newer).options() == {"max_new_tokens": 9}
    assert ChatBody.model_validate({"messages": [USER]}).options() == {}


@given(st.text(), st.integers(0, 20))
def test_what_was_streamed_and_the_rest_are_the_answer(answer: str, place: int) -> None:
    said = answer[:place]
    assert said + unsaid(said, answer) == answer


def test_what_was_said_is_not_said_again() -> None:
    assert unsaid("Paris, the capital", "Paris") == "" and unsaid("Rome", "Paris") == ""
