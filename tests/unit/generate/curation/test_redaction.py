import json

import pytest

from generate.curation.config import CurationConfig
from generate.curation.pii import PersonalData
from generate.curation.redaction import redact_prompt
from generate.sources.raw_prompt import RawPrompt
from potstill.schema import Message
from potstill.task.answers import Answer, ToolCall


@pytest.fixture(scope="module")
def personal_data():
    return PersonalData(CurationConfig())


def test_all_turns_are_redacted(asked, personal_data):
    prompt = asked("I am bob@example.com", "Call +49 30 901820", system="Ann is ann@example.com")
    redacted, kinds = redact_prompt(prompt, personal_data)

    texts = [message.content for message in redacted.messages]
    assert texts == ["Ann is [email]", "I am [email]", "", "Call [phone]"]
    assert kinds == ("email", "phone")
    assert redacted.prompt_id != prompt.prompt_id


def test_json_stays_json(personal_data):
    arguments = {"to": ["bob@example.com"], "card": 4111111111111111, "copies": 2, "now": True}
    call = {
        "id": "call_4155552671",
        "type": "function",
        "function": {"name": "send", "arguments": json.dumps(arguments)},
    }
    prompt = RawPrompt(
        (Message(role="assistant", content="", tool_calls=json.dumps([call])),),
        "test",
        tools='[{"type": "function", "function": {"name": "send", "description": "a@b.com"}}]',
    )

    redacted, kinds = redact_prompt(prompt, personal_data)

    (changed,) = json.loads(redacted.messages[0].tool_calls)
    assert changed["id"] == "call_4155552671", "an answer refers to it"
    assert json.loads(changed["function"]["arguments"]) == arguments | {
        "to": ["[email]"],
        "card": "[credit_card]",
    }
    assert json.loads(redacted.tools)[0]["function"]["description"] == "[email]"
    assert set(kinds) == {"email", "credit_card"}


def test_a_prompt_without_personal_data_is_itself(personal_data):
    calls = '[{"type":"function","function":{"name":"f","arguments":"{ }"}}]'
    prompt = RawPrompt(
        (Message(role="assistant", content="1, 2", tool_calls=calls),), "test", tools="[ ]"
    )

    redacted, kinds = redact_prompt(prompt, personal_data)

    assert redacted is prompt
    assert kinds == ()


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (Answer(text='{"to": "bob@example.com"}'), Answer(text='{"to": "[email]"}')),
        (Answer(text="Write to bob@example.com."), Answer(text="Write to [email].")),
        (
            Answer(tool_calls=(ToolCall(name="send", arguments='{"to": "bob@example.com"}'),)),
            Answer(tool_calls=(ToolCall(name="send", arguments='{"to": "[email]"}'),)),
        ),
    ],
)
def test_the_known_answer_is_redacted_with_its_prompt(personal_data, known, expected):
    question = (Message(role="user", content="Write to bob@example.com"),)
    prompt = RawPrompt(question, "test", known=known.model_dump_json())
    redacted, _ = redact_prompt(prompt, personal_data)
    assert Answer.model_validate_json(redacted.known) == expected
