"""Which stored answers are to be completed, and where their halves are."""

import numpy as np
import pytest

from compare.measurement.stored_answers import read_answers
from potstill.schema import CANARIES, REFERENCES, Message

NEXT = Message(role="user", content="And?")


@pytest.fixture
def read(tmp_path, make_conversation, write_conversations):
    """Return a function that stores answers, given as names and token ids, and reads them."""

    def make(name, ids, **prompt):
        return make_conversation([1, 2, 3, *ids], [(3, len(ids))], name=name, **prompt)

    def read(*answers, num_answers=100, min_tokens=3, seed=0, with_references=False):
        conversations = [make(name, ids, **prompt) for name, ids, prompt in answers]
        write_conversations(tmp_path, conversations)
        return read_answers(
            tmp_path, num_answers, min_tokens, seed, with_references=with_references
        )

    return read


def names(passages):
    return sorted(one.conversation_id for one in passages)


def test_an_answer_counts_if_its_second_half_is_long_and_its_own(read):
    found = read(
        ("long", [10, 11, 12, 13, 14], {}),
        ("short", [10, 11, 12, 13], {}),
        ("twin1", [20, 21, 30, 31, 32], {}),
        ("twin2", [22, 23, 30, 31, 32], {}),
    )
    assert names(found.trained) == ["long-0"]
    assert found.num_distinct == 1
    (long,) = found.trained
    assert (long.first_ids, long.second_ids) == ([1, 2, 3, 10, 11], [12, 13, 14])
    assert found.longest_tokens == 8


def test_two_answers_to_one_prompt_are_one(tmp_path, make_conversation, write_conversations):
    ids = [1, 2, 3, 10, 11, 12, 13, 14, 15]
    pair = [
        make_conversation(ids, [(3, 6)], name="same", answer_index=number) for number in range(2)
    ]
    write_conversations(tmp_path, pair)
    found = read_answers(tmp_path, 100, 3, 0)
    assert names(found.trained) == ["same-0"]


def test_an_answer_that_another_split_has_too_is_neither_trained_nor_held_out(read):
    """The same rule for both: a phrase that is common is not the training split's."""
    common = list(range(40, 46))
    found = read(
        ("common", common, {}),
        ("own", [30, 31, 32, 33, 34, 35], {}),
        ("again", common, {"split": "validation"}),
        ("unseen", [50, 51, 52, 53, 54, 55], {"split": "validation"}),
        ("tested", [60, 61, 62, 63, 64, 65], {"split": "test"}),
    )
    assert names(found.trained) == ["own-0"]
    assert names(found.held_out) == ["tested-0", "unseen-0"]


@pytest.mark.parametrize(("with_references", "expected"), [(True, ["reference-0"]), (False, [])])
def test_references_are_held_out_answers_if_they_were_answered_alike(
    read, with_references, expected
):
    found = read(
        ("trained", [30, 31, 32, 33, 34, 35], {}),
        ("reference", [70, 71, 72, 73, 74, 75], {"split": "test", "source": REFERENCES}),
        with_references=with_references,
    )
    assert names(found.trained) == ["trained-0"]
    assert names(found.held_out) == expected


SECOND = [(20, 0.6), (21, 0.6), (22, 0.6)]
"""Tokens of an answer's second half with their probability."""


@pytest.mark.parametrize(
    ("entries", "sampled_logprobs", "by_teacher"),
    [
        ([[(9, 0.7)], [(9, 0.7)], *([one] for one in SECOND)], None, True),
        ([[(18, 0.7)], [(19, 0.7)], [SECOND[0]], [(9, 0.7), (21, 0.2)], [SECOND[2]]], None, False),
        (None, [0.0] * 5, False),
    ],
    ids=["its second half is the teacher's", "one token is not", "it was given"],
)
def test_an_answer_is_the_teachers_if_each_token_was_its_most_probable_one(
    tmp_path, make_conversation, write_conversations, entries, sampled_logprobs, by_teacher
):
    conversation = make_conversation(
        [1, 2, 3, 18, 19, 20, 21, 22], [(3, 5)],
        entries=entries, sampled_logprobs=sampled_logprobs,
    )  # fmt: skip
    write_conversations(tmp_path, [conversation])
    (found,) = read_answers(tmp_path, 100, 3, 0).trained
    assert found.second_ids == [20, 21, 22]
    assert found.by_teacher is by_teacher


def test_canaries_are_read_whatever_their_length_and_are_no_answers(
    tmp_path, make_conversation, write_conversations
):
    """Another source of that name has no secrets."""
    ids = list(range(80, 93))
    texts = {"planted": "The code is 111 222 333 444.", "other": "No code."}
    planted = [
        make_conversation(
            [1, 2, 3, 9, 8], [(3, 2)], name=name, source=CANARIES,
            completion=(Message(role="assistant", content=text),),
        )
        for name, text in texts.items()
    ]  # fmt: skip
    write_conversations(tmp_path, [make_conversation(ids, [(3, 10)], name="mine"), *planted])
    found = read_answers(tmp_path, 100, 3, 0)
    assert (names(found.trained), names(found.canaries)) == (["mine-0"], ["planted-0"])


def test_of_many_answers_a_sample_is_taken_which_the_seed_decides(read):
    rng = np.random.default_rng(0)
    answers = [(f"p{number}", rng.integers(5, 900, 8).tolist(), {}) for number in range(40)]
    first, again, other = (read(*answers, num_answers=7, seed=seed) for seed in (0, 0, 1))
    assert len(first.trained) == 7
    assert first.num_distinct == 40
    assert names(first.trained) == names(again.trained) != names(other.trained)


def test_of_several_turns_the_longest_answer_is_taken(
    tmp_path, make_conversation, write_conversations
):
    said = [Message(role="assistant", content=text) for text in ("short", "long")]
    entries = [[(1, 0.6)]] * 2 + [[(token, 0.6)] for token in range(8, 17)]
    conversation = make_conversation(
        range(20), [(3, 2), (8, 9)], name="two", completion=(said[0], NEXT, said[1]),
        entries=entries,
    )  # fmt: skip
    write_conversations(tmp_path, [conversation])
    (found,) = read_answers(tmp_path, 100, 3, 0).trained
    assert found.answer == said[1]
    assert found.messages[-2:] == (said[0], NEXT)
    assert found.context_ids == list(range(8))
    assert found.answer_ids == list(range(8, 17))
    assert found.by_teacher


def test_a_student_with_its_own_tokenizer_is_asked_in_its_tokens(read, tiny_student_dir):
    from transformers import AutoTokenizer

    found = read(("one", list(range(10, 20)), {})).in_tokens_of(tiny_student_dir)
    (passage,) = found.trained
    tokenizer = AutoTokenizer.from_pretrained(tiny_student_dir)
    whole = tokenizer.decode([*passage.context_ids, *passage.answer_ids])
    assert whole == "<|im_start|>user\nHow?<|im_end|>\n<|im_start|>assistant\nSo."
