"""Conversations as batches: what is stored at token t of an answer stays with token t."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from potstill.distributions import MAX_LEVEL, MAX_SQRT_ERROR, SIGNAL_COLUMNS
from train.data.batches import IGNORED_LABEL, Collator, PackedCollator, num_tokens
from train.data.cache import load_split, stored_batches

NO = IGNORED_LABEL


def collated(directory, max_length, *indices):
    split = load_split(directory, "train", max_length, directory / "scratch")
    collator = Collator(max_length, pad_token_id=0, pad_to_multiple_of=1)
    return collator([split[index] for index in indices])


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


@pytest.mark.parametrize(("max_length", "expected"), [(9, 8), (8, 8), (7, 7)])
def test_batches_have_few_lengths_and_none_above_the_longest(stored, max_length, expected):
    split = load_split(stored, "train", max_length, stored / "scratch")
    collator = Collator(max_length, pad_token_id=0, pad_to_multiple_of=4)
    batch = collator([split[0], split[2]])  # Four tokens and seven.
    packed = PackedCollator(split, collator)(bins([0], [2]))
    assert {batch[name].shape[1] for name in ("input_ids", "attention_mask", "labels")} == {
        expected
    }
    assert torch.equal(packed["input_ids"], batch["input_ids"])
    assert torch.equal(packed["labels"], batch["labels"])
    assert batch["attention_mask"][:, 7:].sum() == 0
    assert num_tokens(packed) == num_tokens(batch) == 11


def test_rows_are_what_is_stored(make_conversation, tmp_path, write_conversations):
    random = np.random.default_rng(0)
    mine = []
    for index in range(40):
        turns = [(3, 2), (7, 4)] if index % 2 else [(1, 1 + index)]
        counts = random.integers(1, 9, size=sum(length for _, length in turns))
        masses = [np.sort(random.dirichlet(np.ones(count)))[::-1] for count in counts]
        entries = [
            list(zip(random.choice(8_192, len(p), replace=False), p, strict=True)) for p in masses
        ]
        mine.append(make_conversation(random.integers(0, 8_192, 50), turns, entries=entries))
    write_conversations(tmp_path, mine)
    split = load_split(tmp_path, "train", 1024, tmp_path / "scratch")
    for row, one in zip(split, mine, strict=True):
        batch = Collator(1024, 0)([row])
        assert row["length"] == len(one.token_ids)
        labels = batch["labels"][0]
        assert labels[labels != NO].tolist() == one.token_ids[one.positions_T].tolist()
        ids_TK, logprobs_TK = one.signal.padded()
        assert np.array_equal(batch["top_token_ids"], ids_TK)
        found_TK, sqrt_TK = np.exp(batch["top_logprobs"].numpy() / 2), np.exp(logprobs_TK / 2)
        assert np.abs(found_TK - sqrt_TK).max() <= MAX_SQRT_ERROR


def test_tensors_have_the_types_a_model_takes(stored):
    batch = collated(stored, 9, 0, 2)
    floats = {"top_logprobs", "sampled_logprobs"}
    assert {batch[name].dtype for name in floats} == {torch.float32}
    assert {batch[name].dtype for name in batch if name not in floats} == {torch.int64}


def test_absent_entries_are_impossible(stored):
    batch = collated(stored, 9, 0, 1, 2)
    absent = batch["top_token_ids"] < 0
    assert absent.any()
    assert torch.equal(absent, batch["top_logprobs"] == -torch.inf)


def test_the_sampled_tokens_log_probabilities_follow_the_labels(
    tmp_path, make_conversation, write_conversations
):
    write_conversations(
        tmp_path,
        [
            make_conversation([1, 2, 3, 4], [(2, 2)], sampled_logprobs=[-1.0, -2.0]),
            make_conversation([5, 6, 7, 8], [(1, 1), (3, 1)], sampled_logprobs=[-3.0, -4.0]),
        ],
    )
    assert collated(tmp_path, 9, 0, 1)["sampled_logprobs"].tolist() == [-1, -2, -3, -4]
    assert collated(tmp_path, 3, 1, 0)["sampled_logprobs"].tolist() == [-3, -1]


def bins(*groups):
    return [{"conversations": np.array(group)} for group in groups]


def packed_batch(directory, groups, **options):
    split = load_split(directory, "train", 9, directory / "scratch")
    collator = Collator(9, pad_token_id=0, pad_to_multiple_of=1)
    return PackedCollator(split, collator, **options)(bins(*groups))


def test_packed_conversations_begin_anew_and_keep_their_rows(stored):
    batch = packed_batch(stored, [[1, 0], [2]])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 1, 2, 3, 4], [1, 11, 12, 2, 3, 13, 4, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5, 6, 0]]
    assert batch["labels"].tolist() == [
        [NO, 6, 7, 8, NO, NO, 3, 4],
        [NO, 11, 12, NO, NO, 13, NO, NO],
    ]
    padded = collated(stored, 9, 1, 0, 2)
    for name in ("top_token_ids", "top_logprobs", "sampled_logprobs"):
        assert torch.equal(batch[name], padded[name])
    assert "attention_mask" not in batch


def test_flash_attention_gets_one_row_without_padding(stored):
    batch = packed_batch(stored, [[1, 0], [2]], one_row=True)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 1, 2, 3, 4, 1, 11, 12, 2, 3, 13, 4]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6]]


def test_tokens_are_counted_without_padding(stored):
    assert num_tokens(collated(stored, 9, 0, 1, 2)) == 15
    assert num_tokens(packed_batch(stored, [[1, 0], [2]])) == 15
    assert num_tokens(packed_batch(stored, [[0, 1, 2], [0]])) == 19


def test_without_the_teachers_signal_no_entries_are_stored(stored):
    def read(directory, split):
        for batch in stored_batches(directory, split):
            yield batch.drop_columns(list(SIGNAL_COLUMNS))

    split, collator = load_split(stored, "train", 9, stored / "bare", read), Collator(9, 0)
    for batch in (collator(list(split)), PackedCollator(split, collator)(bins([0, 1, 2]))):
        num_labeled = int((batch["labels"] != NO).sum())
        assert num_labeled == 8
        assert batch["top_token_ids"].shape == batch["top_logprobs"].shape == (num_labeled, 0)
        assert batch["sampled_logprobs"].isnan().tolist() == [True] * num_labeled


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


def hidden_states(model, batch, *names):
    with torch.no_grad():
        states_BLD = model.base_model(
            **{name: batch[name] for name in names}, use_cache=False
        ).last_hidden_state
    return states_BLD[:, :-1][batch["labels"][:, 1:] != IGNORED_LABEL]


@pytest.mark.parametrize("groups", [[[0, 1, 2]], [[1, 0], [2]], [[2], [1], [0]]])
@pytest.mark.parametrize("one_row", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_conversations_do_not_see_one_another(stored, model, groups, one_row, attention):
    model.set_attn_implementation(attention)
    batch = packed_batch(stored, groups, one_row=one_row)
    alone = [
        hidden_states(model, collated(stored, 9, index), "input_ids", "attention_mask")
        for group in groups
        for index in group
    ]
    together = hidden_states(model, batch, "input_ids", "position_ids")
    torch.testing.assert_close(together, torch.cat(alone), atol=2e-5, rtol=2e-5)
    if len(groups) < 3 or one_row:
        seeing = hidden_states(model, batch, "input_ids")
        assert (seeing - torch.cat(alone)).abs().max() > 0.1
