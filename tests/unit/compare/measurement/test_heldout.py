import pytest
from transformers import AutoTokenizer

from compare.measurement.heldout import (
    distinct_prompts,
    longest_first,
    plain_prompts,
    prompt_lengths,
    read_held_out,
)
from potstill.chat import render_prompt
from potstill.errors import ArtifactError
from potstill.schema import Message
from potstill.tables import conversations_to_table, write_table


@pytest.fixture
def named(make_conversation):
    """Return a function that makes a held-out conversation by its prompt's number."""

    def make(index, num_tokens=2, split="test", **fields):
        token_ids = [1, 2] + [3] * num_tokens
        turns = [(2, num_tokens)]
        return make_conversation(token_ids, turns, name=f"p{index}", split=split, **fields)

    return make


def names(conversations):
    return [conversation.prompt.prompt_id for conversation in conversations]


def test_first_test_conversations_in_stored_order_over_files(tmp_path, named, write_conversations):
    write_conversations(tmp_path, [named(0, split="train"), named(1), named(2, split="validation")])
    write_conversations(tmp_path, [named(3), named(4, split="train"), named(5)], part=1)
    write_table(tmp_path / "dropped.parquet", conversations_to_table([named(6)], 49_152))
    assert names(read_held_out(tmp_path, 2)) == ["p1", "p3"]
    assert names(read_held_out(tmp_path, 64)) == ["p1", "p3", "p5"]


def test_no_held_out_conversation_is_an_error(tmp_path, named, write_conversations):
    write_conversations(tmp_path, [named(0, split="train")])
    with pytest.raises(ArtifactError, match="no held-out conversation"):
        read_held_out(tmp_path, 64)


def test_several_answers_to_one_prompt_count_once(named):
    held_out = [named(7), named(7, answer_index=1), named(8), named(9)]
    assert names(distinct_prompts(held_out, 2)) == ["p7", "p8"]


def test_longest_first_answer_first_and_stored_order_among_equals(named, make_conversation):
    short_then_long = make_conversation([1, *range(20)], [(1, 2), (5, 15)], name="p3", split="test")
    held_out = [named(0, 3), named(1, 9), named(2, 3), short_then_long]
    assert names(longest_first(held_out)) == ["p1", "p0", "p2", "p3"]


def test_prompts_with_tools_are_not_asked(named):
    result = Message(role="tool", content="4", tool_call_id="call_0")
    call = Message(role="assistant", content="", tool_calls='[{"type": "function"}]')
    with_tools = [
        named(0, tools='[{"type": "function"}]'),
        named(1, given=(Message(role="user", content="How?"), call)),
        named(2, given=(result,)),
    ]
    assert names(plain_prompts([*with_tools, named(3)])) == ["p3"]
    with pytest.raises(ArtifactError, match="no held-out prompt can be asked"):
        plain_prompts(with_tools)


def test_prompts_are_as_long_as_the_teacher_read_them(named):
    assert prompt_lengths([named(0), named(1)], None) == {"p0": 2, "p1": 2}


def test_prompts_are_as_long_as_a_student_with_other_tokens_reads_them(
    named, tiny_student_dir, tmp_path
):
    tokenizer = AutoTokenizer.from_pretrained(tiny_student_dir)
    length = len(render_prompt(tokenizer, named(0).given))
    assert prompt_lengths([named(0)], tiny_student_dir) == {"p0": length}
    system = Message(role="system", content="Be brief.")
    refused = named(1, given=(system, *named(0).given))
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
        + tokenizer.chat_template
    )
    tokenizer.save_pretrained(tmp_path)
    assert prompt_lengths([named(0), refused], tmp_path) == {"p0": length}
    with pytest.raises(ArtifactError, match="takes no held-out prompt"):
        prompt_lengths([refused], tmp_path)
