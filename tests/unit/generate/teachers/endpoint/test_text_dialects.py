import json
from dataclasses import replace

import pytest

from generate.teachers.endpoint.dialects import NEUTRAL
from generate.teachers.endpoint.text_dialects import text_dialects
from generate.teachers.endpoint.text_tokens import AnswerTokens
from potstill.errors import TeacherError
from potstill.schema import Message
from potstill.token_scores import UnusableAnswerError
from potstill.tools.formats import stored_call_id

END = 0
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [
    {
        "type": "function",
        "function": {"name": "weather", "description": "Look up.", "parameters": PARAMETERS},
    }
]
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
CHAT = (
    Message(role="system", content="Be brief."),
    Message(role="user", content="rain?"),
    Message(role="assistant", content="I look.", tool_calls=json.dumps([CALL])),
    Message(role="tool", content="sun", tool_call_id="call_1"),
    Message(role="tool", content="dry", tool_call_id="call_1"),
)
SCHEMA = {"type": "object"}
WANTED = {"effort": "low"}
"""A parameter that the configuration adds."""


@pytest.fixture
def dialects(toy_tokenizer):
    tokens = AnswerTokens(toy_tokenizer, frozenset({END}))
    return {
        api: list(text_dialects(api, "toy", tokens, NEUTRAL, WANTED))
        for api in ("openai", "anthropic")
    }


@pytest.fixture
def chat(request_of):
    request = request_of("q", "rain?", max_tokens=9, seed=3)
    return replace(request, messages=CHAT, tools=json.dumps(TOOLS), schema=json.dumps(SCHEMA))


def openai_answer(content, reason="stop", **message):
    return {"choices": [{"finish_reason": reason, "message": {"content": content, **message}}]}


def anthropic_answer(*blocks, reason="end_turn"):
    return {"content": list(blocks), "stop_reason": reason}


def test_openai_gets_tools_schema_and_all_parameters(dialects, chat):
    first, plain, new, bare = dialects["openai"]
    thought = tuple(
        one.model_copy(update={"reasoning_content": "Hm."} if one.role == "assistant" else {})
        for one in CHAT
    )
    body = first.body(replace(chat, messages=thought), 5)
    assert body == {
        "model": "toy",
        "max_tokens": 9,
        "temperature": 1.0,
        "top_p": 1.0,
        "seed": 3,
        **NEUTRAL,
        **WANTED,
        "messages": [message.to_chat() for message in CHAT],
        "tools": TOOLS,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
        },
    }
    assert plain.body(chat, 5) == {key: body[key] for key in body.keys() - NEUTRAL.keys()}
    assert new.body(chat, 5).keys() == plain.body(chat, 5).keys() - {"max_tokens"} | {
        "max_completion_tokens"
    }
    assert new.body(chat, 5).keys() - bare.body(chat, 5).keys() == {"temperature", "top_p", "seed"}


def test_anthropic_gets_blocks_and_one_parameter_at_most(dialects, chat):
    first, bare = dialects["anthropic"]
    sharp = replace(chat, sampling=chat.sampling.model_copy(update={"temperature": 0.5}))
    assert first.body(chat, None) == bare.body(sharp, None)
    assert first.body(sharp, None) == {
        "model": "toy",
        "max_tokens": 9,
        "temperature": 0.5,
        **WANTED,
        "system": "Be brief.",
        "messages": [
            {"role": "user", "content": "rain?"},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "call_1", "name": "weather", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "call_1", "content": text}
                    for text in ("sun", "dry")
                ],
            },
        ],
        "tools": [{"name": "weather", "description": "Look up.", "input_schema": PARAMETERS}],
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
    }


@pytest.mark.parametrize(
    ("api", "answer", "reason"),
    [
        ("openai", openai_answer("the rain"), "stop"),
        ("openai", openai_answer("the rain", "length"), "length"),
        ("anthropic", anthropic_answer({"type": "text", "text": "the rain"}), "stop"),
        (
            "anthropic",
            anthropic_answer({"type": "text", "text": "the rain"}, reason="max_tokens"),
            "length",
        ),
    ],
)
def test_tokens_are_those_of_the_text(dialects, request_of, toy_tokenizer, api, answer, reason):
    sample = dialects[api][0].read(answer, request_of("q"), 5)
    text = toy_tokenizer("the rain", add_special_tokens=False)["input_ids"]
    assert list(sample.token_ids) == text + [END] * (reason == "stop")
    assert (sample.message.content, sample.finish_reason) == ("the rain", reason)
    assert sample.signal.top_token_ids_N.tolist() == list(sample.token_ids)
    assert sample.signal.sampled_logprobs_T.tolist() == [0.0] * len(sample.token_ids)


@pytest.mark.parametrize(
    ("api", "answer"),
    [
        (
            "openai",
            openai_answer(
                None,
                "tool_calls",
                tool_calls=[{"id": "x", "function": {"name": "weather", "arguments": '{"a": 1}'}}],
            ),
        ),
        (
            "anthropic",
            anthropic_answer(
                {"type": "tool_use", "id": "x", "name": "weather", "input": {"a": 1}},
                reason="tool_use",
            ),
        ),
    ],
)
def test_calls_are_stored_as_those_of_other_teachers(dialects, chat, api, answer):
    (call,) = json.loads(dialects[api][0].read(answer, chat, None).message.tool_calls)
    assert call["function"] == {"name": "weather", "arguments": '{"a": 1}'}
    assert call["id"] == stored_call_id(1)


@pytest.mark.parametrize(
    ("api", "answer"),
    [
        ("openai", openai_answer("the rain", reasoning_content="Hm.")),
        ("openai", openai_answer("the rain", reasoning="Hm.")),
        ("openai", openai_answer("<think>\nHm.\n</think>\n\nthe rain")),
        ("openai", openai_answer("Hm.\n</think>\n\nthe rain")),
        (
            "anthropic",
            anthropic_answer(
                {"type": "thinking", "thinking": "Hm.", "signature": "x"},
                {"type": "text", "text": "the rain"},
            ),
        ),
    ],
)
def test_thinking_is_no_part_of_the_answer(dialects, request_of, toy_tokenizer, api, answer):
    sample = dialects[api][0].read(answer, request_of("q"), 5)
    assert (sample.message.content, sample.message.reasoning_content) == ("the rain", "Hm.")
    text = toy_tokenizer("the rain", add_special_tokens=False)["input_ids"]
    assert list(sample.token_ids) == [*text, END]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (openai_answer("  "), "is empty"),
        (openai_answer("a<|end|>b"), "text of a control token"),
        (openai_answer("no", refusal="I may not"), "refuses to answer"),
        (openai_answer("no", "content_filter"), "content_filter"),
    ],
)
def test_answers_that_teach_nothing_fail(dialects, request_of, answer, said):
    with pytest.raises(UnusableAnswerError, match=said):
        dialects["openai"][0].read(answer, request_of("q"), None)


def test_an_answer_must_end_as_sampling_does(toy_tokenizer, request_of):
    tokens = AnswerTokens(toy_tokenizer, frozenset({99}))
    with pytest.raises(TeacherError, match="does not end answers with a token"):
        tokens.find(request_of("q"), Message(role="assistant", content="a"), "stop")


def test_the_bound_of_a_prompt_covers_every_byte(dialects, chat):
    worst = dialects["openai"][0].worst_prompt_tokens(chat)
    assert worst > sum(len(message.content.encode()) for message in CHAT)
