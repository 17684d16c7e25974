"""Wire types: defaults, ranges, and what is refused rather than ignored."""

import pytest
from pydantic import ValidationError

from serve.api.wire import ChatRequest
from serve.errors import InvalidRequestError, UnsupportedParameterError

HELLO = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def parse(**more) -> ChatRequest:
    request = ChatRequest.model_validate({**HELLO, **more})
    request.check()
    return request


def test_null_is_the_same_as_absent():
    nothing = dict.fromkeys(set(ChatRequest.model_fields) - {"model", "messages"})
    assert parse(**nothing).to_requests([1])[0].sampler == parse().to_requests([1])[0].sampler


def test_each_choice_has_a_seed_of_its_own():
    seeds = [request.sampler.seed for request in parse(n=3, seed=0).to_requests([1])]
    assert seeds == [0, 1, 2]


def test_the_newer_name_of_the_token_limit_wins():
    assert parse(max_tokens=5).to_requests([1])[0].max_new_tokens == 5
    both = parse(max_tokens=5, max_completion_tokens=3)
    assert both.to_requests([1])[0].max_new_tokens == 3


def test_messages_become_the_templates_roles_and_plain_text():
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": t} for t in ("a", "b")]},
        {"role": "assistant", "content": None},
    ]
    found = [(m.role, m.content) for m in parse(messages=messages).to_messages()]
    assert found == [("system", "Be brief."), ("user", "a\nb"), ("assistant", "")]


def test_unknown_parameters_are_ignored_and_empty_wishes_granted():
    parse(metadata={"a": "b"}, user="u", store=True, tools=[], tool_choice="auto")
    parse(response_format={"type": "text"}, modalities=["text"], anything=[1])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "required"),
        ("response_format", {"type": "json_object"}),
        ("modalities", ["text", "audio"]),
        ("functions", [{}]),
    ],
)
def test_what_cannot_be_honoured_is_refused(name, value):
    with pytest.raises(UnsupportedParameterError, match=name):
        parse(**{name: value})


def test_images_are_refused():
    image = {"type": "image_url", "image_url": {"url": "http://x/y.png"}}
    with pytest.raises(UnsupportedParameterError, match="image_url"):
        parse(messages=[{"role": "user", "content": [image]}]).to_messages()


def test_top_logprobs_without_logprobs_is_refused():
    with pytest.raises(InvalidRequestError, match="top_logprobs"):
        parse(top_logprobs=2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 2.1}, {"temperature": float("nan")}, {"top_p": -0.1}, {"n": 0},
        {"max_tokens": -1}, {"stop": ""}, {"stop": ["a"] * 5}, {"logit_bias": {"foo": 0}},
        {"logit_bias": {"1": 101}}, {"top_logprobs": 21}, {"messages": []},
        {"messages": [{"role": "tool", "content": "x"}]}, {"seed": "abc"},
        {"messages": [{"role": "user", "content": "\ud800"}]},
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        parse(**wrong)
