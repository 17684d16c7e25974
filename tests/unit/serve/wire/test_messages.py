"""Anthropic's requests as chats."""

import pytest
from pydantic import ValidationError

from serve.errors import InvalidRequestError, UnsupportedParameterError
from serve.wire.messages import MessageRequest, message_error


def chat_of(messages: list[dict] | None = None, **more) -> dict:
    given = messages or [{"role": "user", "content": "Hi"}]
    request = MessageRequest(model="m", messages=given, max_tokens=5, **more)
    return request.to_chat().chat.model_dump(exclude_unset=True)


def test_a_conversation_with_calls_becomes_messages():
    chat = chat_of(
        [
            {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": ""},
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "Köln"}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [
                    {"type": "text", "text": "rain"}]},
                {"type": "text", "text": "And now?"}]},
        ],
        system="Be brief.",
    )  # fmt: skip
    system, user, assistant, result, more = chat["messages"]
    assert (system["role"], system["content"]) == ("system", "Be brief.")
    assert user["content"][0]["text"] == "Weather?"
    assert assistant["reasoning_content"] == "Hm."
    assert assistant["content"][0]["text"] == "Let me see."
    assert assistant["tool_calls"][0]["function"] == {
        "name": "look",
        "arguments": '{"at": "K\\u00f6ln"}',
    }
    assert (result["role"], result["tool_call_id"]) == ("tool", "t1")
    assert result["content"][0]["text"] == "rain"
    assert (more["role"], more["content"][0]["text"]) == ("user", "And now?")
    assert "continue_final_message" not in chat


def test_settings_have_their_places_in_a_chat():
    tool = {"name": "look", "description": "Looks.", "input_schema": {"type": "object"}}
    chat = chat_of(
        tools=[tool],
        tool_choice={"type": "tool", "name": "look", "disable_parallel_tool_use": True},
        stop_sequences=["x"],
        top_k=3,
        metadata={"user_id": "u"},
        thinking={"type": "enabled", "budget_tokens": 2000},
        output_config={"effort": "high"},
    )
    assert chat["tools"][0]["function"]["parameters"] == {"type": "object"}
    assert chat["tool_choice"]["function"]["name"] == "look"
    assert chat["parallel_tool_calls"] is False
    assert (chat["stop"], chat["top_k"], chat["user"]) == (["x"], 3, "u")
    assert chat["max_completion_tokens"] == 5
    assert chat["chat_template_kwargs"] == {"enable_thinking": True}
    assert chat["reasoning_effort"] == "high"
    assert chat_of(tools=[tool], tool_choice={"type": "any"})["tool_choice"] == "required"
    assert chat_of(thinking={"type": "disabled"})["chat_template_kwargs"] == {
        "enable_thinking": False
    }


def test_an_answer_that_was_begun_is_continued():
    begun = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well, "}]
    assert chat_of(begun)["continue_final_message"] is True


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image", "source": {}},
        {"type": "tool_use", "name": "f", "input": {}},
        {"type": "tool_result", "content": "x"},
        {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image"}]},
    ],
)
def test_blocks_that_are_no_text_or_not_complete_are_refused(block):
    with pytest.raises(ValidationError):
        chat_of([{"role": "user", "content": [block]}])


def test_what_only_anthropic_runs_is_refused():
    with pytest.raises(UnsupportedParameterError, match="container"):
        chat_of(container={"id": "c"})
    with pytest.raises(UnsupportedParameterError, match=r"tools\[0\]"):
        chat_of(tools=[{"type": "web_search_20250305", "name": "web_search"}])
    with pytest.raises(InvalidRequestError, match="messages"):
        chat_of([{"role": "user", "content": []}])


def test_an_error_names_its_place_once():
    detail = {"message": "n: too many", "type": "x", "param": "n", "code": None}
    shown = message_error({"error": detail}, 400)["error"]
    assert shown == {"type": "invalid_request_error", "message": "n: too many"}
    shown = message_error({"error": {**detail, "message": "broken", "param": None}}, 502)["error"]
    assert shown == {"type": "api_error", "message": "broken"}
