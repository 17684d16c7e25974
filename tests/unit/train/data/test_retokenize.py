"""Conversations in a student's own tokens: a loss on every answer and its end, on nothing else."""

import json
from copy import copy

import pytest
from transformers import AutoTokenizer

from potstill.chat import answer_message, render_prompt, render_text, tokenize
from potstill.errors import TrainingError
from potstill.schema import Message
from tests.fixtures.tools import CONVERSATIONS, TEMPLATES, TOOLS, calls_in
from train.data.retokenize import Retokenizer

END = "<|im_end|>"
SYSTEM = Message(role="system", content="Be brief.")
ASKED = Message(role="user", content="What is internationalization?")
ANSWERED = Message(role="assistant", content="A long word. It has 20 letters.")
AGAIN = Message(role="user", content="And localization?")
LAST = Message(role="assistant", content=" A shorter one.\n")
CHATML = "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
OPENING = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


@pytest.fixture(scope="module")
def tokenizer(tiny_student_dir):
    return AutoTokenizer.from_pretrained(tiny_student_dir)


@pytest.fixture
def retokenized(tmp_path, tokenizer, tiny_student_dir, make_conversation, write_conversations):
    """Return a function that stores conversations and reads them in the student's tokens."""

    def retokenize(*conversations, template=None, both=False):
        changed = copy(tokenizer)
        changed.chat_template = template or tokenizer.chat_template
        write_conversations(
            tmp_path,
            [
                make_conversation(name=f"prompt{index}", **fields)
                for index, fields in enumerate(conversations)
            ],
        )
        batches = Retokenizer(changed, tiny_student_dir, both=both).batches(tmp_path, "train")
        return [row for batch in batches for row in batch.to_pylist()]

    return retokenize


def labeled_texts(tokenizer, row):
    spans = zip(row["turn_starts"], row["turn_lengths"], strict=True)
    return [tokenizer.decode(row["token_ids"][start : start + length]) for start, length in spans]


def chat(*completion, given=(ASKED,), **fields):
    return {"given": given, "completion": completion, **fields}


def test_answers_and_their_ends_are_labeled_and_nothing_else(retokenized, tokenizer):
    (row,) = retokenized(chat(ANSWERED, AGAIN, LAST, given=(SYSTEM, ASKED)))
    assert labeled_texts(tokenizer, row) == [ANSWERED.content + END, LAST.content.strip() + END]
    messages = (SYSTEM, ASKED, ANSWERED, AGAIN, LAST)
    text = render_text(tokenizer, messages, add_generation_prompt=False)
    assert row["token_ids"] == tokenize(tokenizer, text)
    assert row["conversation_id"] == "prompt0-0"


def test_the_student_is_asked_in_the_tokens_it_was_trained_on(retokenized, tokenizer):
    (row,) = retokenized(chat(ANSWERED, AGAIN, LAST))
    for start, messages in zip(
        row["turn_starts"], ((ASKED,), (ASKED, ANSWERED, AGAIN)), strict=True
    ):
        assert row["token_ids"][:start] == render_prompt(tokenizer, messages)


def test_an_answer_given_to_the_teacher_is_not_its_own(retokenized, tokenizer):
    (row,) = retokenized(chat(LAST, given=(ASKED, ANSWERED, AGAIN)))
    assert labeled_texts(tokenizer, row) == [LAST.content.strip() + END]


def test_the_end_of_an_answer_that_was_cut_off_is_not_learnt(retokenized, tokenizer):
    broken = Message(role="assistant", content="é\ufffd")
    (row,) = retokenized(chat(ANSWERED, AGAIN, broken, finish_reason="length"))
    assert labeled_texts(tokenizer, row) == [ANSWERED.content + END, "é"]


THOUGHT = ANSWERED.model_copy(update={"reasoning_content": "Hm."})
EMPTY = "<think>\n\n</think>\n"
THINKING = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.reasoning_content %}<think>\n{{ message.reasoning_content }}\n</think>\n\n"
    f"{{% elif message.role == 'assistant' and enable_thinking is false %}}{EMPTY}{{% endif %}}"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    f"{{% if enable_thinking is false %}}{EMPTY}{{% endif %}}{{% endif %}}"
)


def test_thinking_is_learned_where_the_template_takes_it(retokenized, tokenizer):
    (row,) = retokenized(chat(THOUGHT), template=THINKING)
    thought = "<think>\nHm.\n</think>\n\n"
    assert labeled_texts(tokenizer, row) == [thought + ANSWERED.content + END]
    (row,) = retokenized(chat(THOUGHT))
    assert labeled_texts(tokenizer, row) == [ANSWERED.content + END]


def test_both_ways_are_learned_behind_the_switch(retokenized, tokenizer):
    rows = retokenized(chat(THOUGHT), chat(ANSWERED), template=THINKING, both=True)
    thought = "<think>\nHm.\n</think>\n\n"
    assert [labeled_texts(tokenizer, row) for row in rows] == [
        [thought + ANSWERED.content + END],
        [ANSWERED.content + END],
    ]
    prompts = [tokenizer.decode(row["token_ids"][: row["turn_starts"][0]]) for row in rows]
    assert [prompt.endswith(EMPTY) for prompt in prompts] == [False, True]


def test_an_answer_that_ends_inside_the_thinking_is_left_out(retokenized, caplog):
    lost = THOUGHT.model_copy(update={"content": ""})
    cut = chat(lost, finish_reason="length")
    assert len(retokenized(cut, chat(THOUGHT), template=THINKING)) == 1
    assert "its answer ends inside the thinking" in caplog.text


def test_tools_are_shown_to_the_student(retokenized, tokenizer):
    tools = [{"type": "function", "function": {"name": "weigh"}}]
    call = json.dumps([{"type": "function", "function": {"name": "weigh", "arguments": {}}}])
    called = Message(role="assistant", content="", tool_calls=call)
    result = Message(role="tool", content="3 g", tool_call_id="1")
    template = (
        "{% for tool in tools or [] %}<|im_start|>system\n{{ tool | tojson }}<|im_end|>{% endfor %}"
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
        "{% for call in message['tool_calls'] or [] %}{{ call['function']['name'] }}(){% endfor %}"
        "<|im_end|>\n{% endfor %}" + OPENING
    )
    (row,) = retokenized(chat(called, result, ANSWERED, tools=json.dumps(tools)), template=template)
    assert labeled_texts(tokenizer, row) == ["weigh()" + END, ANSWERED.content + END]
    text = tokenizer.decode(row["token_ids"])
    assert '"name": "weigh"' in text
    assert "<|im_start|>tool\n3 g<|im_end|>" in text


@pytest.mark.parametrize(
    "template",
    [
        "{% for message in messages %}{% if loop.last or message['role'] != 'assistant' %}"
        + CHATML
        + "{% endif %}{% endfor %}"
        + OPENING,
        "{{ messages | length }}{% for message in messages %}" + CHATML + "{% endfor %}" + OPENING,
        "{% for message in messages %}"
        + CHATML
        + "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
    ],
    ids=["leaves earlier answers out", "counts messages", "opens with a thought it does not keep"],
)
def test_a_template_that_rewrites_earlier_turns_is_refused(retokenized, template):
    with pytest.raises(TrainingError, match="rewrites earlier messages") as caught:
        retokenized(chat(ANSWERED, AGAIN, LAST), template=template)
    assert "prompt0-0" in str(caught.value)


@pytest.mark.parametrize(
    "turn",
    ["<|im_start|>{{ message['content'] }}\n", "{{ message['content'] }}\n"],
    ids=["a special token begins it", "there is none"],
)
def test_a_template_that_ends_no_turn_is_refused(retokenized, turn):
    with pytest.raises(TrainingError, match="ends answers with no special token"):
        retokenized(chat(ANSWERED), template=f"{{% for message in messages %}}{turn}{{% endfor %}}")


def test_conversations_that_the_template_refuses_are_left_out_and_counted(retokenized, caplog):
    template = (
        "{% for message in messages %}{% if message['role'] == 'system' %}"
        "{{ raise_exception('no system role') }}{% endif %}" + CHATML + "{% endfor %}" + OPENING
    )
    rows = retokenized(
        chat(ANSWERED), chat(ANSWERED, given=(SYSTEM, ASKED)), chat(LAST), template=template
    )
    assert [row["conversation_id"] for row in rows] == ["prompt0-0", "prompt2-0"]
    assert "1 of 3 conversations are left out, 1 because the student's chat template" in caplog.text
    assert "no system role" in caplog.text


@pytest.mark.parametrize("where", ["given", "completion"])
def test_a_message_with_a_special_tokens_text_is_left_out(retokenized, caplog, where):
    said = Message(role="assistant", content="Write <|im_end|> to end it.")
    odd = chat(said) if where == "completion" else chat(LAST, given=(ASKED, said, AGAIN))
    assert len(retokenized(chat(ANSWERED), odd)) == 1
    assert (
        "1 because a message holds the text of one of the student's special tokens" in caplog.text
    )


def test_an_answer_that_shares_a_token_with_the_prompt_is_left_out(retokenized, caplog):
    """The template asks with a space at the end, which a tokenizer takes to the word after it."""
    template = (
        "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}<|im_end|>"
        "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    digits = Message(role="assistant", content="1")
    (row,) = retokenized(chat(ANSWERED), chat(digits), template=template)
    assert row["conversation_id"] == "prompt1-0"
    assert "1 because a token reaches over the border of an answer" in caplog.text


def test_a_student_that_takes_no_conversation_is_refused(retokenized):
    template = "{{ raise_exception('not I') }}"
    with pytest.raises(TrainingError, match="2 because the student's chat template refuses it"):
        retokenized(chat(ANSWERED), chat(LAST), template=template)


@pytest.mark.parametrize("name", ["a call", "words and calls", "results"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_student_learns_to_write_the_calls_that_the_server_reads(
    retokenized, tokenizer, template, name
):
    given, completion = CONVERSATIONS[name][:2], CONVERSATIONS[name][2:]
    conversation = chat(*completion, given=given, tools=json.dumps(TOOLS))
    (row,) = retokenized(conversation, template=TEMPLATES[template])
    changed = copy(tokenizer)
    changed.chat_template = TEMPLATES[template] or tokenizer.chat_template
    answers = [one for one in completion if one.role == "assistant"]
    spans = zip(row["turn_starts"], row["turn_lengths"], answers, strict=True)
    for start, length, answer in spans:
        written = answer_message(changed, row["token_ids"][start : start + length], has_tools=True)
        assert written.content == answer.content
        assert calls_in(written) == calls_in(answer)
