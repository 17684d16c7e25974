import pytest

from potstill.schema import Message
from quantize.loading import load_tokenizer
from quantize.modelfile import translate_template, write_modelfile

SYSTEM = Message(role="system", content="Answer in rhyme.")
USER = Message(role="user", content="Why is the sky blue?")
ASSISTANT = Message(role="assistant", content="Because it is true.")
CHATS = [[USER], [SYSTEM, USER], [USER, ASSISTANT, USER], [SYSTEM, USER, ASSISTANT, USER]]

EXPECTED = '''FROM ./student-Q4_K_M.gguf
TEMPLATE """{{ range .Messages }}{{ if eq .Role "system" }}<|im_start|>system
{{ .Content }}<|im_end|>
{{ else if eq .Role "user" }}<|im_start|>user
{{ .Content }}<|im_end|>
{{ else if eq .Role "assistant" }}<|im_start|>assistant
{{ .Content }}<|im_end|>
{{ end }}{{ end }}<|im_start|>assistant
"""
SYSTEM """You help."""
PARAMETER stop "<|im_end|>"
PARAMETER temperature 1
'''


@pytest.fixture
def tokenizer(tokenizer_dir):
    return load_tokenizer(tokenizer_dir)


def test_plain_template_is_written_in_go_with_its_default_system_message(tokenizer):
    text = write_modelfile("student-Q4_K_M.gguf", tokenizer, ["<|im_end|>"], CHATS)
    assert text == EXPECTED


def test_chats_with_tools_do_not_prevent_a_translation(tokenizer):
    call = Message(role="assistant", content="", tool_calls='[{"type": "function"}]')
    result = Message(role="tool", content="4", tool_call_id="call_0")
    text = write_modelfile("student-Q4_K_M.gguf", tokenizer, ["<|im_end|>"], [[USER, call, result]])
    assert text == EXPECTED


@pytest.mark.parametrize("chat", CHATS, ids=["user", "system", "two turns", "all"])
def test_translation_renders_what_the_checkpoint_renders(chat, tokenizer):
    template = translate_template(tokenizer, [])
    assert template is not None
    messages = [message.model_dump() for message in chat]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert template.render(chat) == rendered


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("message['content']", "message['content'] | trim | upper"),
        ("'<|im_end|>\n'", "('<|im_end|>\n' if loop.index < 4 else '<|endoftext|>')"),
        ("'<|im_start|>' + message['role']", "'<|im_start|>' + '{{' + message['role']"),
        ("You help.", 'You help."""\\nFROM ./evil.gguf'),
    ],
    ids=["changes content", "depends on the position", "text that Go would read", "instructions"],
)
def test_other_templates_are_not_translated(old, new, tokenizer):
    tokenizer.chat_template = tokenizer.chat_template.replace(old, new)
    text = write_modelfile("student-F16.gguf", tokenizer, ["<|im_end|>"], CHATS)
    assert "TEMPLATE left out" in text
    assert 'TEMPLATE """' not in text


def test_a_stop_that_cannot_be_quoted_is_left_out(tokenizer):
    stops = ["<|im_end|>", 'x"\nFROM ./evil.gguf']
    text = write_modelfile("student-Q4_K_M.gguf", tokenizer, stops, CHATS)
    assert text.count("PARAMETER stop") == text.count("FROM") == 1
