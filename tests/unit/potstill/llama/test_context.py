"""Logits with the settings of every measurement, on a tiny random model."""

import llama_cpp
import numpy as np
import pytest

from potstill.errors import ContextLengthError
from potstill.llama import context as subject
from potstill.llama.context import Context, log_softmax, measuring, measuring_params
from potstill.llama.model import LlamaModel
from tests.fixtures.tiny_gguf import write_tiny_gguf

TOKEN_IDS = list(range(100, 150))


@pytest.fixture(scope="module")
def context(tiny_gguf):
    with measuring(tiny_gguf, 64, 1) as opened:
        yield opened


def test_cache_and_attention_round_nothing():
    """What `quantize` and `compare` report is comparable only while both use these settings."""
    params = measuring_params(64, 1)
    assert params.type_k == params.type_v == llama_cpp.GGML_TYPE_F32
    assert params.flash_attn_type == llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    assert params.n_ubatch == params.n_batch == subject.BATCH_TOKENS
    assert not params.offload_kqv
    assert not params.op_offload


@pytest.mark.parametrize("start", [0, 1, 15, 16, 17, 49])
def test_logits_follow_each_position_whatever_the_batch(context, monkeypatch, start):
    (whole_TV,) = context.logits(TOKEN_IDS, 0)
    assert whole_TV.shape == (len(TOKEN_IDS), context.model.vocab_size)
    monkeypatch.setattr(subject, "BATCH_TOKENS", 16)
    parts = list(context.logits(TOKEN_IDS, start))
    assert max(map(len, parts)) <= 16
    np.testing.assert_allclose(np.concatenate(parts), whole_TV[start:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", [32, 64])
def test_logits_are_the_same_whatever_kernels_compute_them(tmp_path, width):
    write_tiny_gguf(tmp_path / "tiny.gguf", width=width)
    logits = []
    for repacks in (True, False):
        with (
            LlamaModel(tmp_path / "tiny.gguf", repacks=repacks) as model,
            Context(model, measuring_params(64, 1)) as context,
        ):
            logits += context.logits(TOKEN_IDS, 0)
    np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-4)


def test_kept_tokens_are_not_evaluated_again(context, monkeypatch):
    ends = [TOKEN_IDS[:40] + list(range(start, start + 6)) for start in (200, 300)]
    expected = [np.concatenate(list(context.logits(ids, 39))) for ids in ends]
    decoded = []
    decode = context.decode
    monkeypatch.setattr(
        context, "decode", lambda ids, *where: (decoded.append(len(ids)), decode(ids, *where))
    )
    list(context.logits(ends[0], 39))
    for ids, whole_TV in zip(ends, expected, strict=True):
        (found_TV,) = context.logits(ids, 39, kept=39)
        np.testing.assert_allclose(found_TV, whole_TV, rtol=1e-4, atol=1e-4)
    assert decoded == [46, 7, 7]


def test_greedy_text_is_the_most_probable_continuation(context):
    found = context.greedy(TOKEN_IDS, 5)
    assert len(found) == 5
    for number, token_id in enumerate(found):
        *_, logits_TV = context.logits(TOKEN_IDS + found[:number], 0)
        assert logits_TV[-1].argmax() == token_id


def test_a_sequence_beyond_the_context_is_refused(context):
    with pytest.raises(ContextLengthError) as caught:
        list(context.logits([7] * 65, 0))
    assert (caught.value.expected, caught.value.found) == ("at most 64 tokens", 65)


@pytest.mark.parametrize("shape", [(1, 3), (3,)])
def test_log_softmax_stands_large_logits(shape):
    logits = np.array([1e4, 0.0, -1e4], np.float32).reshape(shape)
    assert log_softmax(logits).ravel().tolist() == [0.0, -1e4, -2e4]
