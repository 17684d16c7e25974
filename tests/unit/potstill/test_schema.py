import numpy as np
import pytest
from pydantic import ValidationError

from potstill.distributions import TokenDistributions
from potstill.schema import Conversation, Message, Prompt, SamplingParams, Turn, turn_positions


def prompt(*roles: str, **changes) -> Prompt:
    plain = {
        "prompt_id": "p",
        "cluster_id": "c",
        "split": "train",
        "messages": tuple(Message(role=role, content=f"the {role} speaks") for role in roles),
        "source": "made in a test",
    }
    return Prompt(**(plain | changes))


def turn(start: int, num_tokens: int) -> Turn:
    return Turn(start=start, num_tokens=num_tokens, finish_reason="stop", seed=0)


def signal(num_tokens: int) -> TokenDistributions:
    ids = np.arange(num_tokens, dtype=np.int32)
    logprobs = np.full(num_tokens, -0.5, dtype=np.float32)
    return TokenDistributions(logprobs, np.ones(num_tokens, dtype=np.int64), ids, logprobs)


def conversation(turns, num_tokens=8, num_predicted=None) -> Conversation:
    spans = tuple(turn(*span) for span in turns)
    return Conversation(
        prompt=prompt("user"),
        answer_index=3,
        given=prompt("user").messages,
        completion=(Message(role="assistant", content="yes"),),
        token_ids=np.arange(num_tokens, dtype=np.int32),
        turns=spans,
        signal=signal(num_predicted or sum(length for _, length in turns)),
    )


def test_values_cannot_be_changed():
    message = Message(role="user", content="hello")
    with pytest.raises(ValidationError, match="frozen"):
        message.content = "goodbye"
    assert message.content == "hello"


def test_unknown_fields_are_refused():
    with pytest.raises(ValidationError, match=r"name\n.*not permitted"):
        Message(role="user", content="hello", name="Ada")


def test_a_message_is_laid_out_as_openai_spells_it():
    assert Message(role="user", content="hello").to_chat() == {"role": "user", "content": "hello"}
    call = Message(role="assistant", content="", tool_calls='[{"id": "call_0"}]')
    assert call.to_chat()["tool_calls"] == [{"id": "call_0"}]
    result = Message(role="tool", content="4", tool_call_id="call_0")
    assert result.to_chat() == {"role": "tool", "content": "4", "tool_call_id": "call_0"}


def test_a_prompt_may_be_a_conversation_to_go_through():
    roles = ("system", "user", "assistant", "tool", "assistant")
    assert [message.role for message in prompt(*roles).messages] == list(roles)


def test_a_prompt_without_messages_is_refused():
    with pytest.raises(ValidationError, match="at least 1 item"):
        prompt()


@pytest.mark.parametrize(
    ("cls", "content", "field"),
    [
        (Message, {"role": "developer", "content": "x"}, "role"),
        (Message, {"role": "user", "content": 3}, "content"),
        (Prompt, {**prompt("user").model_dump(), "split": "valid"}, "split"),
        (Turn, {**turn(1, 1).model_dump(), "finish_reason": "abort"}, "finish_reason"),
        (Turn, {**turn(1, 1).model_dump(), "start": 0}, "start"),
        (Turn, {**turn(1, 1).model_dump(), "num_tokens": 0}, "num_tokens"),
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


@pytest.mark.parametrize(
    ("turns", "positions"),
    [
        ([(1, 1)], [1]),
        ([(2, 3)], [2, 3, 4]),
        ([(1, 2), (5, 3)], [1, 2, 5, 6, 7]),
        ([(1, 2), (3, 5)], [1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_positions_are_those_of_every_answers_tokens(turns, positions):
    one = conversation(turns)
    assert one.positions_T.tolist() == positions
    assert one.positions_T.dtype == np.int64
    assert one.conversation_id == "p-3"


def test_no_turns_have_no_positions():
    assert turn_positions([]).tolist() == []


@pytest.mark.parametrize("turns", [[(6, 3)], [(1, 2), (2, 1)], [(4, 1), (1, 1)], [(8, 1)]])
def test_turns_that_overlap_or_leave_the_conversation_are_refused(turns):
    with pytest.raises(ValueError, match="overlaps or leaves"):
        conversation(turns)


@pytest.mark.parametrize("num_predicted", [2, 4])
def test_every_token_of_an_answer_has_one_row_of_the_signal(num_predicted):
    with pytest.raises(ValueError, match=f"3 tokens in turns, {num_predicted} predicted"):
        conversation([(1, 2), (5, 1)], num_predicted=num_predicted)
