import pytest
from transformers import AutoTokenizer

from compare.answers.questions import question_from
from compare.answers.requests import Request
from compare.measurement.lengths import TEMPLATE_TOKENS, longest_request, prompt_lengths
from potstill.chat import render_prompt
from potstill.errors import ArtifactError
from potstill.schema import Message
from tests.fixtures.tiny_gguf import smollm2_path


@pytest.fixture
def named(make_conversation):
    """Return a function that makes a held-out conversation by its prompt's number."""

    def make(index, **fields):
        return make_conversation([1, 2, 3, 3], [(2, 2)], name=f"p{index}", split="test", **fields)

    return make


def test_prompts_are_as_long_as_the_teacher_read_them(named):
    asked = [question_from(named(0)), question_from(named(1))]
    assert prompt_lengths(asked, None) == {"p0": 2, "p1": 2}


def test_prompt_without_tokens_is_no_longer_than_its_bytes(questions):
    assert prompt_lengths(questions[:1], None) == {"id0": len("question 0") + 32}


def test_prompts_are_as_long_as_a_student_with_other_tokens_reads_them(
    named, tiny_student_dir, tmp_path
):
    tokenizer = AutoTokenizer.from_pretrained(tiny_student_dir)
    plain = question_from(named(0))
    length = len(render_prompt(tokenizer, plain.messages))
    assert prompt_lengths([plain], tiny_student_dir) == {"p0": length}
    system = Message(role="system", content="Be brief.")
    refused = question_from(named(1, given=(system, *plain.messages)))
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
        + tokenizer.chat_template
    )
    tokenizer.save_pretrained(tmp_path)
    assert prompt_lengths([plain, refused], tmp_path) == {"p0": length}
    with pytest.raises(ArtifactError, match="rejects every held-out prompt"):
        prompt_lengths([refused], tmp_path)


def test_longest_request_has_room_for_the_rendered_prompt(teacher_dir):
    """Measured with the real vocabulary against what the real template renders."""
    messages = (
        Message(role="system", content="Name the team. " * 40),
        Message(role="user", content="Where is my card?"),
    )
    requests = [Request(messages[1:]), Request(messages)]
    tokenizer = AutoTokenizer.from_pretrained(teacher_dir)
    rendered = len(render_prompt(tokenizer, messages))
    found = longest_request(requests, smollm2_path())
    assert rendered <= found <= rendered + 3 * TEMPLATE_TOKENS
    tools = '[{"type": "function", "function": {"name": "check_balance"}}]'
    assert longest_request([Request(messages, tools)], smollm2_path()) > found
