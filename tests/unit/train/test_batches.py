"""Conversations as batches: what is stored at token t of an answer stays with token t."""

import numpy as np
import pytest
import torch

from potstill.distributions import MAX_LEVEL, MAX_SQRT_ERROR
from train.batches import IGNORED_LABEL, Collator
from train.cache import load_split

NO = IGNORED_LABEL


def collated(directory, max_length, *indices):
    split = load_split(directory, "train", max_length, directory / "scratch")
    return Collator(max_length, pad_token_id=0)([split[index] for index in indices])


def test_a_batch_aligns_the_teachers_rows_with_the_answers_tokens(stored):
    batch = collated(stored, 9, 0, 1)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert batch["labels"].tolist() == [[NO, NO, 3, 4], [NO, 6, 7, 8]]
    assert batch["top_token_ids"].tolist() == [
        [0, 1, -1],
        [100, -1, -1],
        [0, -1, -1],
        [100, 101, 102],
        [200, 201, -1],
    ]
    for ids_K, logprobs_K in zip(batch["top_token_ids"], batch["top_logprobs"], strict=True):
        for place, logprob in zip(ids_K.tolist(), logprobs_K.tolist(), strict=True):
            if place >= 0:
                level = 140 - 20 * (place // 100) - 5 * (place % 100)
                assert logprob == pytest.approx(2 * np.log(level / MAX_LEVEL), abs=1e-6)


def test_every_answer_of_a_conversation_is_trained_on_and_nothing_between(stored):
    batch = collated(stored, 9, 2)
    assert batch["labels"].tolist() == [[NO, 11, 12, NO, NO, 13, NO]]
    assert batch["top_token_ids"].tolist() == [[0, -1, -1], [100, 101, -1], [200, 201, 202]]


@pytest.mark.parametrize(
    ("max_length", "labels", "num_rows"),
    [
        (2, [NO, 11], 1),
        (4, [NO, 11, 12, NO], 2),
        (5, [NO, 11, 12, NO, NO], 2),
        (6, [NO, 11, 12, NO, NO, 13], 3),
    ],
)
def test_truncation_cuts_tokens_and_their_rows_alike(
    tmp_path, conversation, write_conversations, max_length, labels, num_rows
):
    long = conversation([1, 11, 12, 2, 3, 13, 4], [(1, 2), (5, 1)], [1, 2, 3])
    write_conversations(tmp_path, [long])
    batch = collated(tmp_path, max_length, 0)
    assert batch["labels"].tolist() == [labels]
    assert batch["input_ids"].tolist() == [long.token_ids[:max_length].tolist()]
    assert batch["top_token_ids"][:, 0].tolist() == [0, 100, 200][:num_rows]


def test_padding_is_neither_seen_nor_trained_on(stored):
    batch = collated(stored, 9, 0, 2)
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0, 0], [1] * 7]
    assert batch["labels"][0].tolist() == [NO, NO, 3, 4, NO, NO, NO]


def test_rows_are_what_is_stored(make_conversation, tmp_path, write_conversations):
    random = np.random.default_rng(0)
    mine = []
    for index in range(40):
        turns = [(3, 2), (7, 4)] if index % 2 else [(1, 1 + index)]
        counts = random.integers(1, 9, size=sum(length for _, length in turns))
        masses = [np.sort(random.dirichlet(np.ones(count)))[::-1] for count in counts]
        entries = [
            list(zip(random.choice(49_152, len(p), replace=False), p, strict=True)) for p in masses
        ]
        mine.append(make_conversation(random.integers(0, 49_152, 50), turns, entries=entries))
    write_conversations(tmp_path, mine)
    split = load_split(tmp_path, "train", 1024, tmp_path / "scratch")
    for row, one in zip(split, mine, strict=True):
        teacher = Collator(1024, 0).teacher_rows(row)
        assert row["length"] == len(one.token_ids)
        assert teacher.token_ids_T.tolist() == one.token_ids[one.positions_T].tolist()
        ids_TK, logprobs_TK = one.signal.padded()
        assert np.array_equal(teacher.top_token_ids_TK, ids_TK)
        found_TK, sqrt_TK = np.exp(teacher.top_logprobs_TK / 2), np.exp(logprobs_TK / 2)
        assert np.abs(found_TK - sqrt_TK).max() <= MAX_SQRT_ERROR


def test_tensors_have_the_types_a_model_takes(stored):
    batch = collated(stored, 9, 0, 2)
    assert batch["top_logprobs"].dtype == torch.float32
    assert {batch[name].dtype for name in batch if name != "top_logprobs"} == {torch.int64}
