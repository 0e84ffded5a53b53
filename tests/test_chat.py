import pytest
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage

from agents.chat import SharedChatModel
from agents.errors import ConfigError
from tests.toy_model import toy_model

MESSAGES = [SystemMessage("You answer questions."), HumanMessage("Who wrote Dune?")]


@pytest.fixture(scope="module")
def policy():
    return toy_model()


def _chat(policy, **options) -> SharedChatModel:
    return SharedChatModel(policy=policy, max_tokens=12, **options)


def test_invoke_speaks_and_says_why_it_ended(policy):
    message = _chat(policy).invoke(MESSAGES)
    assert message.content and message.response_metadata["finish_reason"] == "length"
    assert _chat(policy).invoke("Who wrote Dune?").content  # a bare string is a human turn


def test_streaming_says_the_same_in_pieces(policy):
    for temperature in (0.0, 1.0):
        whole = _chat(policy, temperature=temperature).invoke(MESSAGES).content
        pieces = [chunk.content for chunk in _chat(policy, temperature=temperature).stream(MESSAGES)]
        assert "".join(pieces).rstrip("\ufffd") == whole.rstrip("\ufffd")
        assert len([piece for piece in pieces if piece]) > 2


def test_seed_temperature_and_max_tokens_are_honoured(policy):
    warm = [_chat(policy, temperature=1.0, seed=seed).invoke(MESSAGES).content for seed in (0, 0, 1)]
    assert warm[0] == warm[1] != warm[2]
    assert _chat(policy).invoke(MESSAGES, temperature=1.0, seed=1).content == warm[2]
    chat = _chat(policy)
    assert len(chat.invoke(MESSAGES, max_tokens=1).content) < len(chat.invoke(MESSAGES).content)


def test_stop_strings_cut_the_text_and_are_left_out(policy):
    whole = _chat(policy, temperature=1.0).invoke(MESSAGES).content
    for stops in ([whole[6:8]], [whole[12:14], whole[6:8]]):
        cut = whole[: min(whole.find(stop) for stop in stops)]
        message = _chat(policy, temperature=1.0).invoke(MESSAGES, stop=stops)
        assert message.content == cut
        assert message.response_metadata["finish_reason"] == "stop"
        streamed = [chunk.content for chunk in _chat(policy, temperature=1.0).stream(MESSAGES, stop=stops)]
        assert "".join(streamed) == cut


def test_what_the_model_cannot_read_is_refused(policy):
    chat = _chat(policy)
    with pytest.raises(ConfigError, match="tool message"):
        chat.invoke([ToolMessage("x", tool_call_id="1")])
    with pytest.raises(ConfigError, match="must be text"):
        chat.invoke([HumanMessage([{"type": "text", "text": "hi"}])])
    with pytest.raises(ConfigError, match="unknown option top_p; allowed"):
        chat.invoke(MESSAGES, top_p=0.9)


def test_errors_of_the_policy_reach_the_reader_of_a_stream(policy):
    with pytest.raises(ConfigError, match="no adapter 'none'"):
        list(_chat(policy, adapter="none").stream(MESSAGES))
