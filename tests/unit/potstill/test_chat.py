import json

import pytest

from potstill.chat import (
    answer_message,
    chat_template_sha256,
    render_prompt,
    tokenize,
    tokenizer_sha256,
    user_slot_prefix,
)
from potstill.errors import ArtifactError
from potstill.files import sha256_bytes
from potstill.schema import Message

CONVERSATIONS = [
    [("user", "What is 17 plus 25?")],
    [("system", "You answer in French."), ("user", "Hello!")],
    [("user", "Hello"), ("assistant", "Hello, how can I help?"), ("user", "  Tell me more.  ")],
    [("user", "")],
    [("user", "naïve café, 東京, 🙂, \u00a0 and\ttabs\n\n")],
    [("user", "what does <|im_end|> mean to <|im_start|>assistant?")],
]


def messages(turns) -> list[Message]:
    return [Message(role=role, content=content) for role, content in turns]


@pytest.fixture(scope="module")
def tokenizer(teacher_dir):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(teacher_dir)


@pytest.fixture
def checkpoint_dir(tmp_path):
    """A directory with a small tokenizer.json."""
    change(tmp_path, version="1.0", model={"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []})
    return tmp_path


def change(directory, **changes):
    path = directory / "tokenizer.json"
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | changes))


@pytest.mark.parametrize("turns", CONVERSATIONS)
def test_a_prompt_has_the_ids_that_the_tokenizers_own_template_gives(tokenizer, turns):
    asked = messages(turns)
    expected = tokenizer.apply_chat_template(
        [message.model_dump() for message in asked],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=False,
    )
    assert render_prompt(tokenizer, asked) == expected


def test_a_prompt_ends_where_the_assistant_begins(tokenizer):
    text = tokenizer.decode(render_prompt(tokenizer, messages([("user", "Hello!")])))
    assert text.endswith("<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n")
    assert text.count("<|im_start|>") == 3


class AddingTokenizer:
    """A tokenizer that would open every text with a special token, as Llama's does."""

    chat_template = "{{ messages }}"

    def apply_chat_template(self, conversation, *, tools, tokenize, add_generation_prompt):
        assert not tokenize
        assert tools is None
        return (
            "<s>" + "".join(turn["content"] for turn in conversation) + "?" * add_generation_prompt
        )

    def __call__(self, text, *, add_special_tokens):
        return {"input_ids": [0] * add_special_tokens + [ord(letter) for letter in text]}


def test_special_tokens_are_not_added_to_those_of_the_template():
    ids = render_prompt(AddingTokenizer(), messages([("user", "hi")]))
    assert ids == [ord(letter) for letter in "<s>hi?"]


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "stop", "arguments": {"a": 1,}}\n</tool_call>',
        '<tool_call>\n{"name": "stop", "arguments": {"a": ',
        "<tool_call>\nnothing\n</tool_call>",
        "Nothing to call.",
    ],
)
def test_an_answer_without_a_complete_call_stays_text(tokenizer, text):
    answer = answer_message(tokenizer, tokenize(tokenizer, text), has_tools=True)
    assert answer == Message(role="assistant", content=text)


def test_calls_in_an_answer_are_read_where_there_are_tools(tokenizer):
    call = '<tool_call>\n{"name": "stop", "arguments": {"a": "ü"}}\n</tool_call>'
    ids = tokenize(tokenizer, f"Well.\n{call}\n{call}<|im_end|>")
    plain = answer_message(tokenizer, ids, has_tools=False)
    assert plain == Message(role="assistant", content=f"Well.\n{call}\n{call}")
    answer = answer_message(tokenizer, ids, has_tools=True, num_calls=3)
    assert answer.content == "Well."
    calls = json.loads(answer.tool_calls)
    assert [one["id"] for one in calls] == ["call00003", "call00004"]
    assert [one["function"] for one in calls] == [{"name": "stop", "arguments": '{"a": "ü"}'}] * 2


def test_calls_are_read_that_a_special_token_begins(teacher_dir):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(teacher_dir)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[TOOL_CALLS]"]})
    tokenizer.chat_template = "{{ tools }} [TOOL_CALLS] {{ message.tool_calls }}"
    ids = tokenize(tokenizer, '[TOOL_CALLS] [{"name": "stop", "arguments": {}}]')
    answer = answer_message(tokenizer, ids, has_tools=True)
    assert answer.content == ""
    assert json.loads(answer.tool_calls)[0]["function"]["name"] == "stop"


def test_thinking_between_special_tokens_is_no_part_of_an_answer(teacher_dir):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(teacher_dir)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    tokenizer.chat_template = "{{ '[THINK]' }}{# tools #}"
    call = '<tool_call>{"name": "look", "arguments": {}}</tool_call>'
    ids = tokenize(tokenizer, f"[THINK]Should I {call}?[/THINK]It is 42.<|im_end|>")
    for has_tools in (True, False):
        answer = answer_message(tokenizer, ids, has_tools=has_tools)
        assert (answer.content, answer.reasoning_content) == ("It is 42.", f"Should I {call}?")
        assert answer.tool_calls is None
        opened = answer_message(tokenizer, ids[1:-10], has_tools=has_tools, opened=True)
        assert opened.content == ""
    called = answer_message(
        tokenizer, tokenize(tokenizer, f"[THINK]Hm.[/THINK]{call}"), has_tools=True
    )
    assert (called.content, called.reasoning_content) == ("", "Hm.")
    assert json.loads(called.tool_calls)[0]["function"]["name"] == "look"


def test_the_users_slot_begins_where_the_users_words_would(tokenizer):
    prefix = user_slot_prefix(tokenizer)
    assert prefix.endswith("<|im_end|>\n<|im_start|>user\n")
    for content in ("Hello!", "東京"):
        turns = [{"role": "user", "content": content}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=False)
        assert text.startswith(prefix + content)


def test_a_template_is_hashed_as_text():
    assert chat_template_sha256("{{ é }}") == sha256_bytes("{{ é }}".encode())
    assert chat_template_sha256("{{ é }}") != chat_template_sha256("{{ e }}")


def test_the_hash_ignores_padding_and_truncation(checkpoint_dir):
    before = tokenizer_sha256(checkpoint_dir)
    change(checkpoint_dir, padding={"strategy": "BatchLongest"}, truncation={"max_length": 512})
    assert tokenizer_sha256(checkpoint_dir) == before
    change(checkpoint_dir, padding=None, truncation=None)
    assert tokenizer_sha256(checkpoint_dir) == before


def test_the_hash_ignores_layout_and_order_of_keys(checkpoint_dir):
    before = tokenizer_sha256(checkpoint_dir)
    path = checkpoint_dir / "tokenizer.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(content.items())), indent=4))
    assert tokenizer_sha256(checkpoint_dir) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"type": "BPE", "vocab": {"a": 1, "b": 0}, "merges": []}},
        {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [["a", "b"]]}},
        {"pre_tokenizer": {"type": "ByteLevel"}},
        {"added_tokens": [{"id": 2, "content": "<|im_end|>"}]},
        {"normalizer": {"type": "NFC"}},
    ],
)
def test_the_hash_changes_with_whatever_decides_an_id(checkpoint_dir, changes):
    before = tokenizer_sha256(checkpoint_dir)
    change(checkpoint_dir, **changes)
    assert tokenizer_sha256(checkpoint_dir) != before


def test_a_tokenizer_that_was_loaded_and_saved_keeps_its_hash(tokenizer, teacher_dir, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer_sha256(tmp_path) == tokenizer_sha256(teacher_dir)


@pytest.mark.parametrize("content", [None, b"", b'{"model": ', b"\xff\xfe"])
def test_a_missing_or_broken_tokenizer_is_an_error_that_names_it(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ArtifactError, match="tokenizer cannot be read") as caught:
        tokenizer_sha256(tmp_path)
    assert caught.value.where == tmp_path / "tokenizer.json"


def test_a_tokenizer_that_is_no_object_is_an_error(tmp_path):
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(ArtifactError):
        tokenizer_sha256(tmp_path)
