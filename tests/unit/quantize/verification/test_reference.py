import pytest

from potstill.chat import render_prompt, tokenize
from potstill.errors import ConversionError
from potstill.schema import Message
from quantize.loading import load_tokenizer
from quantize.verification.reference import read_held_out


@pytest.fixture
def stored(tmp_path, make_conversation, write_conversations):
    """Two files of the test split: 2 and 1 + 3 + 2 tokens after the prompt, then 4; and others."""
    write_conversations(
        tmp_path,
        [
            make_conversation([1, 2, 3, 4], [(2, 2)], split="test"),
            make_conversation([5, 6, 7, 8, 9, 1, 2], [(1, 1), (5, 2)], split="test"),
            make_conversation([9, 9], [(1, 1)], split="train"),
        ],
    )
    write_conversations(tmp_path, [make_conversation([1] * 6, [(2, 4)], split="test")], part=1)
    return tmp_path


@pytest.mark.parametrize(
    ("max_tokens", "lengths"),
    [(1, [2]), (2, [3]), (3, [3, 1]), (7, [3, 5]), (8, [3, 6]), (9, [3, 6, 2]), (99, [3, 6, 5])],
)
def test_held_out_conversations_are_cut_to_a_number_of_predictions(stored, max_tokens, lengths):
    held_out = read_held_out(stored, max_tokens)
    assert [len(sequence["token_ids"]) for sequence in held_out.sequences] == lengths
    assert [sequence["start"] for sequence in held_out.sequences] == [1, 0, 1][: len(lengths)]
    predicted = sum(len(one["token_ids"]) - one["start"] for one in held_out.sequences)
    assert predicted == held_out.num_tokens == min(max_tokens, 12)
    assert len(held_out.chats) == len(lengths)


def test_what_follows_the_first_answer_is_predicted_too(stored):
    second = read_held_out(stored, 99).sequences[1]
    assert second == {
        "token_ids": [5, 6, 7, 8, 9, 1],
        "start": 0,
        "target_ids": [6, 7, 8, 9, 1, 2],
    }


def test_a_model_with_its_own_tokenizer_gets_its_own_tokens(
    tmp_path, make_conversation, write_conversations, tokenizer_dir
):
    tokenizer = load_tokenizer(tokenizer_dir)
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
        + tokenizer.chat_template
    )
    asked = Message(role="user", content="How?")
    answered = Message(role="assistant", content="So, as ever.")
    given = [(asked,), (Message(role="system", content="Be brief."), asked)]
    write_conversations(
        tmp_path,
        [
            make_conversation(name=f"p{index}", given=one, completion=(answered,), split="test")
            for index, one in enumerate(given)
        ],
    )
    held_out = read_held_out(tmp_path, 99, tokenizer)
    (sequence,) = held_out.sequences
    asked_ids = render_prompt(tokenizer, [asked])
    answer_ids = tokenize(tokenizer, "So, as ever.<|im_end|>\n")
    assert sequence == {
        "token_ids": (asked_ids + answer_ids)[:-1],
        "start": len(asked_ids) - 1,
        "target_ids": answer_ids,
    }
    assert held_out.num_tokens == len(answer_ids)
    assert held_out.chats == [[asked]]


def test_a_run_without_held_out_conversations_is_refused(
    tmp_path, make_conversation, write_conversations
):
    write_conversations(tmp_path, [make_conversation()])
    with pytest.raises(ConversionError, match="no held-out conversations"):
        read_held_out(tmp_path, 99)
