import numpy as np
import pyarrow as pa
import pytest
import torch

from potstill.errors import TrainingError
from potstill.tables import CONVERSATION_SCHEMA, write_rows
from train.dataset import IGNORED_LABEL, Collator, SimilarLengths, largest_token_id, load_split


def row(prompt_ids, completion_ids, counts, split="train"):
    """A conversation whose stored ids name their place: token t's entry k is 100 t + k."""
    top = [100 * t + k for t, count in enumerate(counts) for k in range(count)]
    plain = {field.name: None for field in CONVERSATION_SCHEMA}
    return plain | {
        "split": split,
        "prompt_token_ids": prompt_ids,
        "completion_token_ids": completion_ids,
        "num_top_logprobs": counts,
        "top_token_ids": top,
        "top_logprobs": [-float(value) for value in top],
    }


SHORT = row([1, 2], [3, 4], [2, 1])
LONG = row([5], [6, 7, 8], [1, 3, 2])


def write(directory, *rows):
    write_rows(directory / "part-00000.parquet", CONVERSATION_SCHEMA, rows)
    return directory


def test_batch_aligns_teacher_rows_with_completion_tokens(tmp_path):
    split = load_split(write(tmp_path, SHORT, LONG), "train", max_length=9)
    batch = Collator(max_length=9, pad_token_id=0)([split[0], split[1]])
    ignored = IGNORED_LABEL
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert batch["labels"].tolist() == [[ignored, ignored, 3, 4], [ignored, 6, 7, 8]]
    assert batch["labels"][batch["labels"] != ignored].tolist() == [3, 4, 6, 7, 8]
    assert batch["top_token_ids"].tolist() == [
        [0, 1, -1],
        [100, -1, -1],
        [0, -1, -1],
        [100, 101, 102],
        [200, 201, -1],
    ]
    stored = batch["top_token_ids"] >= 0
    assert torch.equal(batch["top_logprobs"][stored], -batch["top_token_ids"][stored].float())


def test_truncation_cuts_tokens_and_their_rows_alike(tmp_path):
    split = load_split(write(tmp_path, SHORT, LONG), "train", max_length=3)
    batch = Collator(max_length=3, pad_token_id=0)([split[0], split[1]])
    assert batch["input_ids"].tolist() == [[1, 2, 3], [5, 6, 7]]
    assert batch["top_token_ids"].tolist() == [[0, 1, -1], [0, -1, -1], [100, 101, 102]]
    assert split["length"][:].tolist() == [3, 3]


def test_padding_is_neither_seen_nor_trained_on(tmp_path):
    split = load_split(write(tmp_path, row([1], [2], [1]), LONG), "train", max_length=9)
    batch = Collator(max_length=9, pad_token_id=0)([split[0], split[1]])
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch["labels"][0].tolist() == [IGNORED_LABEL, 2, IGNORED_LABEL, IGNORED_LABEL]


def test_split_is_chosen_and_ids_counted(tmp_path):
    other = row([1], [900], [1], split="test")
    directory = write(tmp_path, SHORT, other)
    assert len(load_split(directory, "train", 9)) == 1
    assert largest_token_id(load_split(directory, "train", 9)) == 100
    assert largest_token_id(load_split(directory, "test", 9)) == 900


@pytest.mark.parametrize(
    ("split", "max_length", "found"), [("test", 9, "none"), ("train", 2, "1 conv")]
)
def test_empty_split_is_refused(tmp_path, split, max_length, found):
    with pytest.raises(TrainingError, match=found):
        load_split(write(tmp_path, SHORT), split, max_length)


def test_columns_stay_arrow(tmp_path):
    split = load_split(write(tmp_path, SHORT), "train", 9)
    assert split.data.table.schema.field("top_token_ids").type == pa.list_(pa.int32())


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
