"""Conversations as batches: what is stored at token t of an answer stays with token t."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from potstill.distributions import MAX_LEVEL, MAX_SQRT_ERROR
from potstill.errors import ArtifactError, TrainingError
from potstill.tables import conversations_to_table, write_table
from train.dataset import IGNORED_LABEL, Collator, SimilarLengths, largest_token_id, load_split

NO = IGNORED_LABEL


@pytest.fixture
def conversation(make_conversation):
    """Return a function whose conversations' stored ids name their place: 100 t + k."""

    def make(token_ids, turns, counts, **fields):
        entries = [
            [(100 * t + k, ((140 - 20 * t - 5 * k) / MAX_LEVEL) ** 2) for k in range(count)]
            for t, count in enumerate(counts)
        ]
        return make_conversation(token_ids, turns, entries=entries, **fields)

    return make


@pytest.fixture
def stored(tmp_path, conversation, write_conversations):
    """A train split of three: short, long, and one of two answers with a user's turn between."""
    write_conversations(
        tmp_path,
        [
            conversation([1, 2, 3, 4], [(2, 2)], [2, 1]),
            conversation([5, 6, 7, 8], [(1, 3)], [1, 3, 2]),
            conversation([1, 11, 12, 2, 3, 13, 4], [(1, 2), (5, 1)], [1, 2, 3]),
        ],
    )
    return tmp_path


def collated(directory, max_length, *indices):
    split = load_split(directory, "train", max_length)
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
    split = load_split(tmp_path, "train", 1024)
    for row, one in zip(split, mine, strict=True):
        teacher = Collator(1024, 0).teacher_rows(row)
        assert row["length"] == len(one.token_ids)
        assert teacher.token_ids_T.tolist() == one.token_ids[one.positions_T].tolist()
        ids_TK, logprobs_TK = one.signal.padded()
        assert np.array_equal(teacher.top_token_ids_TK, ids_TK)
        found_TK, sqrt_TK = np.exp(teacher.top_logprobs_TK / 2), np.exp(logprobs_TK / 2)
        assert np.abs(found_TK - sqrt_TK).max() <= MAX_SQRT_ERROR


def test_files_of_a_split_are_read_in_order_and_the_others_not(
    tmp_path, conversation, write_conversations
):
    for part, first in enumerate((3, 4, 5)):
        write_conversations(tmp_path, [conversation([1, first], [(1, 1)], [1])], part)
    other = conversation([1, 900], [(1, 1)], [1], split="test")
    write_conversations(tmp_path, [other])
    write_table(tmp_path / "dropped.parquet", conversations_to_table([other], 1000))
    split = load_split(tmp_path, "train", 9)
    assert [row["token_ids"].tolist() for row in split] == [[1, 3], [1, 4], [1, 5]]
    assert largest_token_id(split) == 5
    assert largest_token_id(load_split(tmp_path, "test", 9)) == 900


def test_stored_alternatives_count_among_the_largest_ids(stored):
    assert largest_token_id(load_split(stored, "train", 9)) == 202


def test_an_empty_file_among_others_is_no_hindrance(stored):
    write_table(stored / "train-00001.parquet", conversations_to_table([], 49_152))
    assert len(load_split(stored, "train", 9)) == 3


@pytest.mark.parametrize(
    ("split", "max_length", "found"),
    [("test", 9, "none"), ("validation", 9, "none"), ("train", 1, "3 conversations, all with")],
)
def test_an_empty_split_is_refused(stored, split, max_length, found):
    write_table(stored / "validation-00000.parquet", conversations_to_table([], 49_152))
    with pytest.raises(TrainingError, match=found):
        load_split(stored, split, max_length)


def test_conversations_whose_prompt_is_too_long_are_left_out_and_counted(stored, caplog):
    assert len(load_split(stored, "train", 2)) == 2
    assert "1 of 3 conversations are left out" in caplog.text


def test_a_damaged_file_is_refused(stored):
    path = stored / "train-00000.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ArtifactError, match="a table cannot be read"):
        load_split(stored, "train", 9)


@pytest.mark.parametrize(("vocab_size", "width"), [(49_152, pa.uint16()), (128_256, pa.uint32())])
def test_columns_stay_as_narrow_as_they_are_stored(
    tmp_path, make_conversation, write_conversations, vocab_size, width
):
    write_conversations(tmp_path, [make_conversation()], vocab_size=vocab_size)
    schema = load_split(tmp_path, "train", 9).data.table.schema
    assert schema.field("top_token_ids").type == schema.field("token_ids").type == pa.list_(width)
    assert schema.field("top_probability_drops").type == pa.list_(pa.uint8())


def test_batches_hold_similar_lengths_in_an_order_of_seed_and_epoch():
    lengths = np.random.default_rng(0).integers(1, 500, size=203)
    sampler = SimilarLengths(lengths, batch_size=4, seed=1)
    first, again = list(sampler), list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert first == again != second
    assert sorted(first) == sorted(second) == list(range(203))
    padded = sum(4 * lengths[first[i : i + 4]].max() for i in range(0, 200, 4))
    assert lengths.sum() / padded > 0.9


def test_tensors_have_the_types_a_model_takes(stored):
    batch = collated(stored, 9, 0, 2)
    assert batch["top_logprobs"].dtype == torch.float32
    assert {batch[name].dtype for name in batch if name != "top_logprobs"} == {torch.int64}
