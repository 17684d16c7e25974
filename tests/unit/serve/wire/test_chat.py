"""Wire types: defaults, ranges, and what is refused rather than ignored."""

import pytest
from pydantic import ValidationError

from serve.backends.local.preparation import messages_of, sampler_params
from serve.engine.sampler import SamplerParams
from serve.errors import InvalidRequestError, UnsupportedParameterError
from serve.wire.chat import ChatRequest
from serve.wire.shared import SAMPLER_FIELDS

HELLO = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def parse(**more) -> ChatRequest:
    request = ChatRequest.model_validate({**HELLO, **more})
    request.check()
    return request


def test_null_is_the_same_as_absent():
    nothing = dict.fromkeys(set(ChatRequest.model_fields) - {"model", "messages"})
    for request in (parse(**nothing), parse()):
        assert sampler_params(request, 0, {}) == SamplerParams()


def test_each_choice_has_a_seed_of_its_own():
    request = parse(n=3, seed=0)
    assert [sampler_params(request, choice, {}).seed for choice in range(3)] == [0, 1, 2]


def test_every_sampling_field_reaches_the_engine():
    given = {
        "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "typical_p": 0.8,
        "top_n_sigma": 2.0, "xtc_probability": 0.2, "xtc_threshold": 0.3, "mirostat": 2,
        "mirostat_tau": 4.0, "mirostat_eta": 0.2, "repeat_penalty": 1.1, "repeat_last_n": 9,
        "dry_multiplier": 0.7, "dry_base": 1.5, "dry_allowed_length": 3, "dry_penalty_last_n": 5,
        "presence_penalty": 0.4, "frequency_penalty": -0.4,
    }  # fmt: skip
    params = sampler_params(parse(**given, dry_sequence_breakers=["x"]), 0, {1: 2.0})
    assert {name: getattr(params, name) for name in given} == given
    assert set(given) == set(SAMPLER_FIELDS)
    assert (params.dry_sequence_breakers, params.logit_bias) == (("x",), {1: 2.0})


def test_the_newer_name_of_the_token_limit_wins():
    assert parse(max_tokens=5).max_new_tokens == 5
    assert parse(max_tokens=5, max_completion_tokens=3).max_new_tokens == 3
    assert parse(max_tokens=-1).max_new_tokens is None


def test_biases_name_tokens_by_id_or_text():
    assert parse(logit_bias={"7": 1, "foo": -2}).bias_pairs == [(7, 1.0), ("foo", -2.0)]
    assert parse(logit_bias=[[7, False], ["a", 3]]).bias_pairs == [(7, float("-inf")), ("a", 3.0)]


def test_messages_become_the_templates_roles_and_plain_text():
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": t} for t in ("a", "b")]},
        {"role": "assistant", "content": None},
    ]
    request = parse(messages=messages)
    found = [(m["role"], m["content"]) for m in messages_of(request.messages)]
    assert found == [("system", "Be brief."), ("user", "a\nb"), ("assistant", "")]


def test_unknown_and_empty_parameters_are_ignored():
    parse(metadata={"a": "b"}, user="u", store=True, tools=[], tool_choice="auto")
    parse(response_format={"type": "text"}, modalities=["text"], anything=[1])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tool_choice", {"type": "allowed_tools", "allowed_tools": {}}),
        ("modalities", ["text", "audio"]),
        ("functions", [{}]),
    ],
)
def test_unsupported_parameters_are_refused(name, value):
    with pytest.raises(UnsupportedParameterError, match=name):
        parse(**{name: value})


def test_images_are_refused():
    image = {"type": "image_url", "image_url": {"url": "http://x/y.png"}}
    with pytest.raises(ValidationError, match="content of type 'image_url' is not supported"):
        parse(messages=[{"role": "user", "content": [image]}])


def test_top_logprobs_without_logprobs_is_refused():
    with pytest.raises(InvalidRequestError, match="top_logprobs"):
        parse(top_logprobs=2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 2.1}, {"temperature": float("nan")}, {"top_p": -0.1}, {"n": 0},
        {"max_tokens": -2}, {"stop": ""}, {"stop": ["a"] * 17}, {"logit_bias": {"foo": 101}},
        {"logit_bias": {"1": 101}}, {"top_logprobs": 21}, {"messages": []},
        {"messages": [{"role": "tool"}]}, {"seed": "abc"},
        {"messages": [{"role": "user", "content": "\ud800"}]}, {"mirostat": 3}, {"top_k": 2**40},
        {"dry_sequence_breakers": ["x"] * 1000}, {"repeat_penalty": 0.0},
        *({name: value} for name in SAMPLER_FIELDS for value in (float("nan"), float("inf"))),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        parse(**wrong)


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def test_a_tool_may_be_offered_required_named_or_withheld():
    assert [tool.function.name for tool in parse(tools=[TOOL]).callable_tools] == ["f"]
    assert parse(tools=[TOOL]).required_tools == []
    assert parse(tools=[TOOL], tool_choice="none").callable_tools == []
    assert len(parse(tools=[TOOL], tool_choice="required").required_tools) == 1
    named = {"type": "function", "function": {"name": "f"}}
    assert len(parse(tools=[TOOL], tool_choice=named).required_tools) == 1
    named["function"]["name"] = "g"
    with pytest.raises(InvalidRequestError, match="'g'"):
        parse(tools=[TOOL], tool_choice=named)


@pytest.mark.parametrize(
    "wrong",
    [
        {"tool_choice": "required"},
        {"grammar": 'root ::= "a"', "json_schema": {}},
        {"tools": [TOOL], "tool_choice": "required", "json_schema": {}},
        {"continue_final_message": True},
        {"continue_final_message": True, "add_generation_prompt": True},
        {"messages": [{"role": "user", "content": "x"}] + 2 * [{"role": "assistant"}]},
    ],
)
def test_contradictory_parameters_are_refused(wrong):
    with pytest.raises(InvalidRequestError):
        parse(**wrong)


def test_forms_of_answers():
    def schema(**response_format) -> object:
        return parse(response_format=response_format).answer_format

    assert schema(type="text") is None
    assert schema(type="json_object") == {}
    assert schema(type="json_object", schema={"const": 1}) == {"const": 1}
    wanted = {"name": "n", "schema": {"type": "object"}, "strict": True}
    assert schema(type="json_schema", json_schema=wanted) == {"type": "object"}
    with pytest.raises(ValidationError, match="json_schema needs"):
        schema(type="json_schema")
