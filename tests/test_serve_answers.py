"""/openapi.json tells what is answered: every route, every status, and bodies that are what their models say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from serving.answers import Alive, Answer, Completion, Model, Models, Ready
from serving.problems import FaultBody
from tests.serving_toy import Toy, calling, play

CHAT = {"messages": [{"role": "user", "content": "Q1"}]}


@pytest.mark.parametrize(
    "method, path, body, model",
    [
        ("POST", "/ask", {"question": "Q1"}, Answer),
        ("POST", "/ask", {"question": "Q1", "record": "off", "workflow": "AG"}, Answer),
        ("POST", "/v1/chat/completions", CHAT, Completion),
        ("GET", "/v1/models", None, Models),
        ("GET", "/v1/models/jade", None, Model),
        ("GET", "/health", None, Alive),
        ("GET", "/ready", None, Ready),
        ("POST", "/ask", {"question": ""}, FaultBody),
        ("POST", "/v1/chat/completions", {"messages": []}, FaultBody),
        ("GET", "/v1/models/other", None, FaultBody),
    ],
)
def test_what_is_answered_is_what_is_told(
    tmp_path: Path, method: str, path: str, body: Any, model: type[BaseModel]
) -> None:
    async def story() -> None:
        async with calling(Toy(tmp_path).graph) as client:
            response = await client.request(method, path, json=body)
            model.model_validate_json(response.content, strict=True)
            told = (await client.get("/openapi.json")).json()
            operation = told["paths"][path.replace("jade", "{identifier}").replace("other", "{identifier}")]
            schema = operation[method.lower()]["responses"][str(response.status_code)]["content"]["application/json"]
            assert schema["schema"]["$ref"] == f"#/components/schemas/{model.__name__}"

    play(story)


def test_every_route_tells_of_every_way_to_fail(tmp_path: Path) -> None:
    async def story() -> None:
        async with calling(Toy(tmp_path).graph) as client:
            told = (await client.get("/openapi.json")).json()
        operations = {(path, verb): one for path, verbs in told["paths"].items() for verb, one in verbs.items()}
        assert len(operations) == 7
        for name, operation in operations.items():
            statuses = {"200", "400", "401", "403", "404", "408", "413", "422", "429", "500", "503", "504"}
            assert set(operation["responses"]) == statuses, name
        for path in ("/ask", "/v1/chat/completions"):
            assert "text/event-stream" in operations[path, "post"]["responses"]["200"]["content"]
        assert list(operations["/metrics", "get"]["responses"]["200"]["content"]) == ["text/plain"]

    play(story)


def test_chat_clients_are_told_that_somebody_must_ask(tmp_path: Path) -> None:
    async def story() -> None:
        async with calling(Toy(tmp_path).graph) as client:
            schemas = (await client.get("/openapi.json")).json()["components"]["schemas"]
            assert "contains" in schemas["ChatBody"]["properties"]["messages"]
            assert "user" in schemas["ChatMessage"]["properties"]["role"]["enum"]
            unknown = {"messages": [{"role": "robot", "content": "x"}, *CHAT["messages"]]}
            response = await client.post("/v1/chat/completions", json=unknown)
            assert response.status_code == 200 and response.json()["jade"]["ignored_messages"] == 1

    play(story)


def test_an_answer_without_its_costs_is_not_what_is_told() -> None:
    with pytest.raises(ValidationError):
        Answer.model_validate({"answer": "x", "outcome": "ok", "run": None})
