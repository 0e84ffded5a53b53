"""The one door through which a node speaks: what is asked of the policy, and what becomes of the response."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.graph import END, START, StateGraph

from agents.call import Constraint
from agents.errors import ConfigError, FormatError, PromptError
from agents.role import Prompts, Role, quote, read_tag
from graphs.acting import Spoken, aact, act, aspeak, fit, speak, to_json
from tests.scripted import Recording, ScriptedPolicy, decode_ids, record


def lines(inputs: Any) -> str:
    documents = [f"Document: {quote(item)}" for item in inputs.get("documents", [])]
    return "\n".join([*documents, f"Question: {quote(inputs['question'])}"])


ECHO: Role[str] = Role(
    name="echo",
    instruction="Say it.",
    examples="Question: Hello?\n<say>Hello.</say>",
    user=lines,
    parse=lambda text, inputs: read_tag(text, "say"),
    fallback=lambda inputs, text: f"fallback for {inputs['question']}",
    max_new_tokens=20,
    stop="</say>",
    constraint=lambda inputs: Constraint(choices=("<say>yes</say>", "<say>no</say>")),
)


class State(TypedDict):
    question: str
    answer: Any


Node = Callable[[dict[str, Any], RunnableConfig], dict[str, Any]]


def graph_of(sync: Node, asynchronous: Any = None) -> Any:
    graph = StateGraph(State)
    node: Any = RunnableLambda(sync, asynchronous, name="node") if asynchronous else sync
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    graph.add_edge("node", END)
    return graph.compile()


def recording(folder: Path, node: Node, said: str = "<say>hello</say>", **extra: Any) -> Recording:
    return record(lambda _: graph_of(node), lambda role, user: said, folder, **extra)


def once(state: dict[str, Any], config: RunnableConfig) -> dict[str, Any]:
    return {"answer": act(ECHO, state, config)}


def heard(folder: Path, said: str, **options: Any) -> tuple[Spoken, Any]:
    """Return what a node learns from a response, and the recorded call."""
    spoken: list[Spoken] = []

    def node(state: dict[str, Any], config: RunnableConfig) -> dict[str, Any]:
        spoken.append(speak(ECHO, state, config))
        return {"answer": spoken[0].value}

    _, trajectory = recording(folder, node, said).ask("Who?", **options)
    return spoken[0], trajectory.calls[0]


def test_a_valid_response_is_parsed_and_recorded(tmp_path: Path) -> None:
    spoken, call = heard(tmp_path, "<say> hello </say>")
    assert spoken == Spoken("hello", "node", True, 0)
    assert (call.id, call.path, call.role, call.value, call.format_error) == ("node", "node", "echo", "hello", None)
    assert call.text == "<say> hello </say>" == decode_ids(call.response_ids)
    assert decode_ids(call.prompt_ids[call.head :]) == "Question: Who?"
    assert len(call.logprobs) == len(call.mask) == len(call.response_ids)
    assert not call.truncated and call.greedy and call.temperature == 1.0
    assert call.constraint is None and set(call.seconds) == {"wait", "prefill", "decode"}


def test_an_invalid_response_falls_back_and_says_why(tmp_path: Path) -> None:
    spoken, call = heard(tmp_path, "hello")
    assert spoken == Spoken("fallback for Who?", "node", False, 0)
    assert call.format_error == "no <say> at the start" and call.text == "hello"
    assert call.value == "fallback for Who?" and not call.truncated


def test_a_truncated_response_is_invalid_even_if_it_parses(tmp_path: Path) -> None:
    text = "<say>" + "word " * 50 + "</say>"
    spoken, call = heard(tmp_path, text)
    assert not spoken.valid and call.truncated and call.format_error == "truncated"
    assert len(call.response_ids) == ECHO.max_new_tokens
    _, short = heard(tmp_path, "<say>hello</say>", max_new_tokens=2)
    assert short.truncated and len(short.response_ids) == 2


def test_errors_other_than_format_errors_are_not_swallowed(tmp_path: Path) -> None:
    def parse(text: str, inputs: Any) -> str:
        raise ZeroDivisionError

    role: Role[str] = Role("r", "i", lines, parse, lambda inputs, text: "", 20)
    with pytest.raises(ZeroDivisionError):
        recording(tmp_path, lambda state, config: {"answer": act(role, state, config)}).ask("Who?")


def test_the_request_carries_key_temperature_constraint_and_budget(tmp_path: Path) -> None:
    def twice(state: dict[str, Any], config: RunnableConfig) -> dict[str, Any]:
        return {"answer": [act(ECHO, state, config), act(ECHO, state, config), act(ECHO, state, config, path="mine")]}

    made = recording(tmp_path, twice, adapters={"*": "all", "echo": "mine"})
    _, trajectory = made.ask("  Who? ", seed=5, record="train", max_new_tokens=30, decoding="constrained")
    requests = [item for batch in made.policy.batches for item in batch]
    assert [item.key for item in requests] == [(5, "Who?", "node", 0), (5, "Who?", "node", 1), (5, "Who?", "mine", 0)]
    assert {(item.temperature, item.stop, item.max_new_tokens, item.adapter) for item in requests} == {
        (1.0, "</say>", 20, "mine")
    }
    assert [call.id for call in trajectory.calls] == ["node", "node#1", "mine"]
    assert [call.parents for call in trajectory.calls] == [(), ("node",), ("node#1",)]
    assert all(call.constraint == ECHO.constraint({}) and not call.greedy for call in trajectory.calls)
    assert all(call.adapter == "mine" for call in trajectory.calls)
    _, hot = made.ask("Who?", temperature=0.7)
    assert hot.calls[0].temperature == 0.7 and not hot.calls[0].greedy and hot.calls[0].constraint is None


def test_both_faces_record_the_same(tmp_path: Path) -> None:
    async def later(state: dict[str, Any], config: RunnableConfig) -> dict[str, Any]:
        spoken = await aspeak(ECHO, state, config)
        return {"answer": [spoken.value, await aact(ECHO, state, config)]}

    def now(state: dict[str, Any], config: RunnableConfig) -> dict[str, Any]:
        return {"answer": [speak(ECHO, state, config).value, act(ECHO, state, config)]}

    made = record(lambda _: graph_of(now, later), lambda role, user: "<say>hi</say>", tmp_path)
    result, sync = made.ask("Who?")
    assert asyncio.run(made.graph.ainvoke("Who?")) == result == {"question": "Who?", "answer": ["hi", "hi"]}
    keys = ("id", "parents", "prompt_ids", "response_ids", "value")
    assert [[getattr(call, key) for key in keys] for call in made.trajectories[-1].calls] == [
        [getattr(call, key) for key in keys] for call in sync.calls
    ]


def test_the_prompt_set_decides_what_a_role_is_told(tmp_path: Path) -> None:
    for prompts, system in (
        (Prompts("bare"), "Say it."),
        (Prompts("examples"), "Say it.\n\nQuestion: Hello?\n<say>Hello.</say>"),
        (Prompts("bare", (("echo", "Shout it."),)), "Shout it."),
    ):
        _, trajectory = recording(tmp_path, once, prompts=prompts).ask("Who?")
        call = trajectory.calls[0]
        assert decode_ids(call.prompt_ids[: call.head]) == system


def test_acting_outside_a_recorded_graph_is_refused() -> None:
    with pytest.raises(ConfigError, match="trainable"):
        graph_of(once).invoke({"question": "Who?"})


# ---- prompts that are too long


def test_whole_documents_are_dropped_from_the_tail_and_the_run_says_so(tmp_path: Path) -> None:
    def node(state: dict[str, Any], config: RunnableConfig) -> dict[str, Any]:
        documents = [f"number {place} " + "x" * 100 for place in range(9)]
        spoken = speak(ECHO, {**state, "documents": documents}, config)
        return {"answer": spoken.dropped}

    made = recording(tmp_path, node, prompts=Prompts("bare"), context_length=130)
    result, trajectory = made.ask("Who?")
    call = trajectory.calls[0]
    user = decode_ids(call.prompt_ids[call.head :])
    assert result["answer"] == call.dropped_documents == 6
    assert [line[:18] for line in user.splitlines()] == [
        *(f"Document: number {n}"[:18] for n in range(3)),
        "Question: Who?",
    ]
    assert len(call.prompt_ids) + ECHO.max_new_tokens <= 130
    assert trajectory.warnings == ("node: 6 document(s) dropped from the tail so that the prompt fits",)


def test_a_question_is_never_halved(tmp_path: Path) -> None:
    made = recording(tmp_path, once, context_length=200)
    with pytest.raises(PromptError, match=r"echo has \d+ tokens.*200 tokens leaves 180.*shorten the question"):
        made.ask("Who? " * 300)
    assert made.trajectories[0].outcome == "crashed" and made.trajectories[0].calls == ()


@given(st.lists(st.integers(0, 300), max_size=6), st.integers(30, 400))
def test_fit_drops_as_few_documents_as_possible(sizes: list[int], context: int) -> None:
    documents = ["x" * size for size in sizes]
    policy, prompts = ScriptedPolicy(lambda role, user: "", context_length=context), Prompts("bare")

    def length(count: int) -> int:
        return len(policy.encode(ECHO.messages({"question": "Who?", "documents": documents[:count]}, prompts)).ids)

    possible = [count for count in range(len(sizes) + 1) if length(count) <= context - 20]
    inputs = {"question": "Who?", "documents": documents}
    if not possible:
        with pytest.raises(PromptError):
            fit(ECHO, inputs, prompts, policy, 20)
        return
    prompt, shown, dropped = fit(ECHO, inputs, prompts, policy, 20)
    assert len(shown["documents"]) == max(possible) == len(sizes) - dropped
    assert len(prompt.ids) == length(max(possible))


# ---- tokens of the final answer


def streaming(folder: Path, said: str, final: str) -> list[Any]:
    def node(state: dict[str, Any], config: RunnableConfig) -> dict[str, Any]:
        for path in ("draft", "final"):
            value = speak(ECHO, state, config, path=path, final=path == final).value
        return {"answer": value}

    made = recording(folder, node, said)
    return list(made.graph.stream("Who?", stream_mode="custom"))


def test_tokens_are_the_text_inside_the_tag_of_the_final_call(tmp_path: Path) -> None:
    events = streaming(tmp_path, "<say>a hello of many words</say>", "final")
    assert len(events) > 3 and all(set(event) == {"token"} and event["token"] for event in events)
    assert "".join(event["token"] for event in events) == "a hello of many words"


def test_no_tokens_without_a_final_call_a_tag_or_a_listener(tmp_path: Path) -> None:
    assert streaming(tmp_path, "<say>hello</say>", "nobody") == []
    assert streaming(tmp_path, "hello", "final") == []
    made = recording(tmp_path, once)
    made.graph.invoke("Who?")
    assert made.policy.batches[0][0].on_text is None


# ---- values in the record


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_values_become_plain_json(value: Any) -> None:
    plain = to_json(value)
    assert json.loads(json.dumps(plain)) == plain == json.loads(json.dumps(value))


def test_strange_values_become_text() -> None:
    assert to_json({"a": FormatError("x"), 1: {2.5}}) == {"a": "x", "1": [2.5]}
