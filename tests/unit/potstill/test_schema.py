import pytest
from pydantic import ValidationError

from potstill.schema import Conversation, Message, Prompt, SamplingParams, TokenLogprobs


def prompt(*roles: str) -> Prompt:
    messages = tuple(Message(role=role, content=f"the {role} speaks") for role in roles)
    return Prompt(prompt_id="p", split="train", messages=messages, source="made in a test")


def logprobs(num_rows: int) -> TokenLogprobs:
    return TokenLogprobs(
        sampled_logprobs=(-0.5,) * num_rows,
        top_token_ids=((3, 4),) * num_rows,
        top_logprobs=((-0.5, -1.0),) * num_rows,
    )


def conversation(**changes) -> Conversation:
    plain = {
        "prompt": prompt("user"),
        "completion": "yes",
        "prompt_token_ids": (1, 2),
        "completion_token_ids": (3, 4, 5),
        "logprobs": logprobs(3),
        "finish_reason": "stop",
        "seed": 0,
    }
    return Conversation(**(plain | changes))


def test_values_cannot_be_changed():
    message = Message(role="user", content="hello")
    with pytest.raises(ValidationError, match="frozen"):
        message.content = "goodbye"
    assert message.content == "hello"


def test_unknown_fields_are_refused():
    with pytest.raises(ValidationError, match=r"name\n.*not permitted"):
        Message(role="user", content="hello", name="Ada")


@pytest.mark.parametrize("roles", [("user",), ("system", "user"), ("user", "assistant", "user")])
def test_a_prompt_ends_with_the_user(roles):
    assert [message.role for message in prompt(*roles).messages] == list(roles)


@pytest.mark.parametrize("roles", [("system",), ("user", "assistant")])
def test_a_prompt_that_ends_with_another_is_refused_and_says_who(roles):
    with pytest.raises(ValidationError, match=f"must be the user's, found role '{roles[-1]}'"):
        prompt(*roles)


def test_a_prompt_without_messages_is_refused():
    with pytest.raises(ValidationError, match="at least 1 item"):
        prompt()


@pytest.mark.parametrize(
    ("cls", "content", "field"),
    [
        (Message, {"role": "tool", "content": "x"}, "role"),
        (Message, {"role": "user", "content": 3}, "content"),
        (Prompt, {**prompt("user").model_dump(), "split": "valid"}, "split"),
        (Conversation, {**conversation().model_dump(), "finish_reason": "abort"}, "finish_reason"),
        (Conversation, {**conversation().model_dump(), "logprobs": logprobs(0)}, "0 log-prob rows"),
    ],
)
def test_values_outside_the_vocabulary_are_refused(cls, content, field):
    with pytest.raises(ValidationError, match=field):
        cls.model_validate(content)


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": -0.1},
        {"temperature": 2.1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"max_tokens": 0},
        {"seed": 0.5},
    ],
)
def test_sampling_params_have_ranges(changes):
    edge = {"temperature": 2.0, "top_p": 1.0, "max_tokens": 1, "seed": 0}
    assert SamplingParams(**edge).model_dump() == edge
    with pytest.raises(ValidationError, match=next(iter(changes))):
        SamplingParams(**(edge | changes))


def test_rows_of_log_probabilities_may_be_ragged():
    ragged = TokenLogprobs(
        sampled_logprobs=(-0.5, -0.7),
        top_token_ids=((3,), (4, 5, 6)),
        top_logprobs=((-0.5,), (-0.7, -1.0, -2.0)),
    )
    assert [len(ids) for ids in ragged.top_token_ids] == [1, 3]


def test_rows_of_log_probabilities_must_be_of_equal_number():
    with pytest.raises(ValidationError, match=r"equal number, found \[1, 2\]"):
        TokenLogprobs(sampled_logprobs=(-0.5, -0.7), top_token_ids=((3,),), top_logprobs=((-0.5,),))


def test_a_row_has_as_many_ids_as_log_probabilities():
    with pytest.raises(ValidationError, match="2 ids but 1 log-probabilities"):
        TokenLogprobs(sampled_logprobs=(-0.5,), top_token_ids=((3, 4),), top_logprobs=((-0.5,),))


@pytest.mark.parametrize("num_rows", [2, 4])
def test_a_conversation_has_one_row_per_completion_token(num_rows):
    with pytest.raises(ValidationError, match=f"3 completion tokens but {num_rows} log-prob rows"):
        conversation(logprobs=logprobs(num_rows))


def test_a_conversation_without_completion_tokens_is_refused():
    with pytest.raises(ValidationError, match="completion_token_ids"):
        conversation(completion_token_ids=(), logprobs=logprobs(0))
