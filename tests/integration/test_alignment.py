"""Stored signal against the teacher that gave it: each row belongs to its token, however laid out.

The tiny teacher's own distributions are the expected ones, so a row in the wrong place shows.
"""

from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from potstill.distributions import MAX_SQRT_ERROR
from train.config import KDConfig
from train.data.batches import IGNORED_LABEL, Collator
from train.data.cache import load_split
from train.data.packing import pack_split
from train.heads import labeled_hidden_states, output_head
from train.losses import mix_of
from train.losses.chunked import distillation_loss
from train.trainer import targets_of

pytestmark = pytest.mark.usefixtures("one_thread")

LONGEST = 1024


@pytest.fixture(scope="module")
def teacher(tiny_teacher_dir):
    return AutoModelForCausalLM.from_pretrained(tiny_teacher_dir, dtype=torch.float32).eval()


@pytest.fixture
def split(tiny_run, tmp_path):
    """Return a function that opens the train split, cut at a length."""

    def load(max_length=LONGEST):
        scratch_dir = tmp_path / f"scratch{max_length}"
        return load_split(tiny_run.stage_dir("conversations"), "train", max_length, scratch_dir)

    return load


def padded(split, collator):
    return collator(list(split))


def packed(split, collator, *, one_row=False):
    bins, packer = pack_split(split, collator, seed=0, one_row=one_row)
    return packer(list(bins))


def loss_of(model, batch, **kd):
    """Return the sums over a batch, with everything needed for a gradient."""
    hidden_TD = labeled_hidden_states(model, batch)
    mix = mix_of(KDConfig(**kd))
    return distillation_loss(hidden_TD, output_head(model), targets_of(batch), mix)


def shifted(batch, by):
    names = ("top_token_ids", "top_logprobs", "sampled_logprobs")
    return batch | {name: batch[name].roll(by, 0) for name in names}


@pytest.mark.parametrize("max_length", [LONGEST, 60, 48])
@pytest.mark.parametrize(
    "lay_out", [padded, packed, partial(packed, one_row=True)], ids=["padded", "packed", "one row"]
)
def test_each_row_is_what_the_teacher_predicts_at_its_token(teacher, split, lay_out, max_length):
    """First and last tokens, second answers and answers that are cut off among them."""
    batch = lay_out(split(max_length), Collator(max_length, 0))
    with torch.no_grad():
        hidden_TD = labeled_hidden_states(teacher, batch)
        logprobs_TV = teacher.lm_head(hidden_TD).log_softmax(-1)
    ids_TK, stored_TK = batch["top_token_ids"], batch["top_token_ids"] >= 0
    predicted_TK = logprobs_TV.gather(-1, ids_TK.clamp_min(0))
    errors_TK = (predicted_TK / 2).exp() - (batch["top_logprobs"] / 2).exp()
    assert errors_TK[stored_TK].abs().max() <= MAX_SQRT_ERROR + 1e-5
    labels = batch["labels"][:, 1:]
    sampled_T = logprobs_TV.gather(-1, labels[labels != IGNORED_LABEL][:, None])[:, 0]
    torch.testing.assert_close(batch["sampled_logprobs"], sampled_T, rtol=2e-3, atol=1e-4)


def test_labels_are_the_answers_and_nothing_else(split, tiny_conversations):
    stored = {one.conversation_id: one for one in tiny_conversations}
    num_turns = []
    for row in split():
        one = stored[row["conversation_id"]]
        labels = Collator(LONGEST, 0)([row])["labels"][0].numpy()
        assert np.array_equal(np.flatnonzero(labels != IGNORED_LABEL), one.positions_T)
        assert np.array_equal(labels[one.positions_T], one.token_ids[one.positions_T])
        num_turns.append(len(one.turns))
    assert set(num_turns) == {1, 2}


@pytest.mark.parametrize("max_length", [45, 50, 60])
def test_a_cut_takes_tokens_and_rows_off_the_end_alike(split, max_length):
    whole = {row["conversation_id"]: row for row in split()}
    num_cut_off = 0
    for shorter in split(max_length):
        before = Collator(LONGEST, 0)([whole[shorter["conversation_id"]]])
        after = Collator(max_length, 0)([shorter])
        num_labeled = int((before["labels"][0, :max_length] != IGNORED_LABEL).sum())
        assert torch.equal(after["labels"][0], before["labels"][0, :max_length])
        for name in ("top_token_ids", "top_logprobs"):
            found, width = after[name], after[name].shape[1]
            assert torch.equal(found, before[name][:num_labeled, :width])
        assert torch.equal(after["sampled_logprobs"], before["sampled_logprobs"][:num_labeled])
        num_cut_off += len(before["sampled_logprobs"]) - num_labeled
    assert num_cut_off > 0


@pytest.mark.parametrize("tail", ["bucket", "sample"])
@pytest.mark.parametrize("by", [1, -1])
@pytest.mark.parametrize("lay_out", [padded, packed])
def test_rows_beside_their_tokens_change_the_loss(teacher, split, tail, by, lay_out):
    batch = lay_out(split(), Collator(LONGEST, 0))
    with torch.no_grad():
        right, wrong = (
            float(loss_of(teacher, one, weight=1.0, tail=tail).total) / len(one["top_token_ids"])
            for one in (batch, shifted(batch, by))
        )
    assert abs(right) < 0.001
    assert wrong > 0.1


@pytest.mark.parametrize("lay_out", [packed, partial(packed, one_row=True)])
def test_packed_rows_have_the_loss_and_gradient_of_padded_ones(teacher, split, lay_out):
    conversations, collator, results = split(), Collator(LONGEST, 0), []
    for batch in (padded(conversations, collator), lay_out(conversations, collator)):
        student = deepcopy(teacher)
        with torch.no_grad():
            student.model.norm.weight.mul_(1.5)
        sums = loss_of(student, batch, weight=0.7)
        sums.total.backward()
        results.append((sums, [parameter.grad for parameter in student.parameters()]))
    (sums, gradients), (packed_sums, packed_gradients) = results
    assert sums.divergence > 10
    for name in ("total", "divergence", "cross_entropy"):
        torch.testing.assert_close(
            getattr(packed_sums, name), getattr(sums, name), rtol=1e-5, atol=0
        )
    for found, expected in zip(packed_gradients, gradients, strict=True):
        assert (found - expected).norm() <= 1e-4 * expected.norm()
