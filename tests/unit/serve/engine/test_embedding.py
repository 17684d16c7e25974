"""Vectors of texts, compared with transformers' arithmetic in numpy and with one another."""

import asyncio

import numpy as np
import pytest

from potstill.errors import BackendUnavailableError, ContextLengthError
from serve.engine.context import Chunk
from serve.engine.request import EngineLimits, Request
from serve.engine.sampler import SamplerParams
from serve.engine.thread import EngineThread
from serve.errors import InvalidRequestError, QueueFullError

TEXTS = [[5, 6, 7], [8, 9], list(range(100, 300)), [5, 6, 7], *([n] for n in range(20, 50))]


def embed(bench, texts) -> np.ndarray:
    future = bench.engine.embed(texts)
    for _ in range(1000):
        if future.done():
            return np.array(future.result())
        bench.engine.step()
    raise AssertionError("no vectors come")


def test_a_vector_is_the_unit_mean_of_the_final_hidden_states(bench, tiny_model, make_context):
    vectors = embed(bench, TEXTS)
    assert vectors.shape == (len(TEXTS), tiny_model.embedding_width)
    settings = {"context_tokens": 256, "max_batch_tokens": 256, "max_outputs": 256}
    context = make_context(**settings, embeddings=True)
    for text, vector in zip(TEXTS, vectors, strict=True):
        context.clear()
        mean = context.decode([Chunk(0, 0, text, len(text))])[0].mean(axis=0, dtype=np.float64)
        assert vector == pytest.approx(mean / np.linalg.norm(mean), abs=2e-3)


def test_a_text_s_embedding_does_not_depend_on_the_others(bench):
    together = embed(bench, TEXTS)
    assert (together[0] == together[3]).all()
    for number in (1, 2, 10):
        assert embed(bench, [TEXTS[number]])[0] == pytest.approx(together[number], abs=2e-3)


def test_streams_go_on_while_texts_are_read(bench):
    stream = Request([1, 2], SamplerParams(temperature=0.0), 30, num_top_logprobs=0)
    bench.engine.submit([stream])
    bench.engine.step()
    future = bench.engine.embed([list(range(100, 300))])
    num_before = len(bench.logprobs(stream))
    while not future.done():
        bench.engine.step()
    assert len(bench.logprobs(stream)) >= num_before + 5


def test_owners_take_turns(make_bench):
    bench = make_bench(has_owners=True, max_queue=4)
    long = [[7] * 200] * 20
    mine = [bench.engine.embed(long, "a") for _ in range(2)]
    with pytest.raises(QueueFullError):
        bench.engine.embed([[1]], "a")
    bench.engine.step()
    other = bench.engine.embed([[8] * 10], "b")
    num_steps = 0
    while not other.done():
        bench.engine.step()
        num_steps += 1
    # A group of 250 tokens takes 8 steps, and both lists of texts 320.
    assert num_steps < 20
    while not all(one.done() for one in mine):
        bench.engine.step()
    assert mine[0].result() == mine[1].result()


def test_texts_that_cannot_be_read_are_refused(bench):
    for texts in ([[]], [[1], [49152]], [[-1]]):
        with pytest.raises(InvalidRequestError):
            bench.engine.embed(texts)
    with pytest.raises(ContextLengthError):
        bench.engine.embed([[1] * 257])


def test_cancelled_texts_are_dropped(bench):
    first, second = bench.engine.embed([[1] * 250]), bench.engine.embed([[1, 2]])
    bench.engine.step()
    assert first.cancel()
    while not second.done():
        bench.engine.step()
    assert len(second.result()) == 1


def test_the_thread_gives_vectors_and_statistics_to_coroutines(tiny_model):
    async def use() -> tuple[list[list[float]], int]:
        thread = EngineThread(tiny_model, EngineLimits(64, 2, 16, 4), threads=1)
        with pytest.raises(BackendUnavailableError):
            await thread.embed([[1]])
        thread.start()
        vectors = await thread.embed([[1, 2, 3], [4]])
        num_steps = thread.stats().num_steps
        await thread.stop()
        return vectors, num_steps

    vectors, num_steps = asyncio.run(use())
    assert [round(sum(x * x for x in v), 6) for v in vectors] == [1.0, 1.0]
    assert num_steps == 0
