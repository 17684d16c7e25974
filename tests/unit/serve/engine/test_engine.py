"""The engine's promises, on a tiny random model that really decodes."""

import gguf
import llama_cpp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.errors import BackendError, BackendUnavailableError, ContextLengthError
from serve.engine.context import Chunk
from serve.engine.grammar import GrammarSource
from serve.engine.model import GgufModel
from serve.engine.request import Request
from serve.engine.sampler import SamplerParams
from serve.errors import InvalidRequestError, QueueFullError
from tests.fixtures.tiny_gguf import write_tiny_gguf

GREEDY = SamplerParams(temperature=0.0)


def request(*prompt: int, new: int | None = 8, sampler: SamplerParams = GREEDY, **more) -> Request:
    return Request(prompt, sampler, max_new_tokens=new, num_top_logprobs=0, **more)


@pytest.fixture(scope="module", params=["Q4_0", "Q4_1", "Q8_0"])
def model_of_type(request, tmp_path_factory) -> GgufModel:
    path = tmp_path_factory.mktemp("types") / f"{request.param}.gguf"
    write_tiny_gguf(path, request.param)
    return GgufModel(path)


@pytest.fixture(scope="module")
def loaded(make_bench, model_of_type):
    """One engine for many examples: earlier ones leave their tokens in its slots."""
    return make_bench(model_of_type, max_parallel=6, max_batch_tokens=80)


prompts = st.lists(st.integers(100, 130), min_size=1, max_size=100)


@pytest.mark.slow
@settings(max_examples=15)
@given(st.lists(st.tuples(prompts, st.integers(1, 12), st.integers(0, 3)), min_size=1, max_size=10))
def test_answers_do_not_depend_on_load_history_or_neighbors(loaded, make_bench, model_of_type, mix):
    assert model_of_type.is_reproducible
    requests = [
        request(*prompt, new=new, sampler=SamplerParams(temperature=1.0, seed=seed))
        for prompt, new, seed in mix
    ]
    loaded.run(*requests)
    prompt, new, seed = mix[-1]
    alone = make_bench(model_of_type, max_parallel=1, max_batch_tokens=256)
    lonely = request(*prompt, new=new, sampler=SamplerParams(temperature=1.0, seed=seed))
    alone.run(lonely)
    assert loaded.logprobs(requests[-1]) == alone.logprobs(lonely)


@pytest.mark.parametrize("reproducible", [True, False])
def test_chunks_change_the_last_bits_of_an_answer_unless_reproducible(make_bench, reproducible):
    answers = []
    for max_batch_tokens in (256, 100, 17):
        bench = make_bench(max_batch_tokens=max_batch_tokens, reproducible=reproducible)
        long = request(*range(100, 250))
        bench.run(long)
        answers.append(bench.logprobs(long))
    assert (answers[0] == answers[1] == answers[2]) is reproducible


def test_keys_and_values_in_eight_bits_change_little_and_take_half(make_bench):
    sizes, answers = [], []
    for kv_cache in (None, "q8_0"):
        bench = make_bench(kv_cache=kv_cache, reproducible=False)
        long = request(*range(100, 250))
        bench.run(long)
        answers.append(np.array([logprob for _, logprob in bench.logprobs(long)]))
        pointer = bench.engine._context.pointer
        sizes.append(llama_cpp.llama_state_seq_get_size(pointer, 0))
    assert 0 < abs(answers[0][0] - answers[1][0]) < 0.5, "random weights exaggerate"
    assert sizes[1] < 0.56 * sizes[0]


def test_a_long_prompt_does_not_stall_a_running_stream(bench):
    running = request(5, 6, 7, new=40)
    bench.engine.submit([running])
    bench.engine.step()
    before = len(bench.logprobs(running))
    bench.engine.submit([request(*range(100, 300), new=1)])
    for _ in range(5):
        bench.engine.step()
    assert len(bench.logprobs(running)) == before + 5


def test_a_shared_prefix_is_computed_once(bench):
    shared = tuple(range(200, 240))
    bench.run(request(*shared, 1000))
    decoded = bench.engine.stats().num_decoded_tokens
    second = request(*shared, 1001, 1002, new=1)
    bench.run(second)
    assert bench.last(second).num_cached_tokens == len(shared)
    assert bench.engine.stats().num_decoded_tokens == decoded + 2


def test_a_shared_prefix_is_copied_from_a_running_request_too(bench):
    shared = tuple(range(200, 220))
    running = request(*shared, 1000, new=30)
    bench.engine.submit([running])
    bench.engine.step()
    second = request(*shared, 1001, new=5)
    bench.engine.submit([second])
    bench.finish(running, second)
    assert bench.last(second).num_cached_tokens == len(shared)


def test_cancelled_requests_free_their_slots_and_have_no_more_output(make_bench):
    bench = make_bench(max_parallel=1)
    cancelled, waiting, kept = request(1, 2, 3, new=200), request(4, 5), request(6, 7, new=3)
    bench.engine.submit([cancelled, waiting, kept])
    bench.engine.step()
    said = len(bench.outputs[cancelled])
    bench.engine.cancel([cancelled, waiting])
    bench.finish(kept)
    assert len(bench.outputs[cancelled]) == said
    assert waiting not in bench.outputs


def test_a_request_llama_cpp_refuses_fails_alone(bench):
    tokens = [7, 8]
    good, bad, also_good = request(5, 6), Request(tokens, GREEDY, 8), request(8, 9)
    bench.engine.submit([good, bad, also_good])
    tokens[1] = 10**6
    bench.finish(good, bad, also_good)
    assert isinstance(bench.last(bad).error, BackendError)
    for one in (good, also_good):
        fresh = request(*one.prompt_token_ids)
        bench.run(fresh)
        assert bench.logprobs(one) == bench.logprobs(fresh)
        assert bench.last(one).error is None


def test_requests_too_long_for_the_context_are_refused_at_once(make_bench):
    bench = make_bench(context_tokens=16)
    for too_long in (request(*range(16), new=None), request(*range(10), new=7)):
        with pytest.raises(ContextLengthError, match="context is 16 tokens"):
            bench.engine.submit([too_long])
    exact, open_ended = request(*range(100, 110), new=6), request(*range(100, 115), new=None)
    bench.run(exact, open_ended)
    assert bench.last(exact).num_new_tokens == 6
    assert bench.last(open_ended).num_new_tokens == 1
    assert bench.last(open_ended).finish_reason == "length"


def test_the_queue_is_bounded_and_takes_all_or_none(make_bench):
    bench = make_bench(max_parallel=1, max_queue=2)
    bench.engine.submit([request(1), request(2)])
    with pytest.raises(QueueFullError):
        bench.engine.submit([request(3), request(4)])
    last = request(5)
    bench.run(last)
    with pytest.raises(InvalidRequestError, match="too many choices"):
        bench.engine.submit([request(number) for number in range(4)])


def test_a_closed_engine_refuses_requests_and_fails_the_unfinished(make_bench):
    bench = make_bench()
    unfinished = request(1, 2)
    bench.engine.submit([unfinished])
    bench.engine.close()
    bench.engine.run()
    assert isinstance(bench.last(unfinished).error, BackendUnavailableError)
    with pytest.raises(BackendUnavailableError):
        bench.engine.submit([request(1)])


def test_a_request_for_no_tokens_ends_at_once(bench):
    nothing = request(1, 2, new=0)
    assert bench.run(nothing) == [""]
    assert bench.last(nothing).finish_reason == "length"


def test_the_end_token_has_a_row_of_its_own(bench, tiny_model):
    end = next(i for i in range(tiny_model.vocab_size) if tiny_model.ends_generation(i))
    ended = request(1, 2, new=8, sampler=SamplerParams(logit_bias={end: 100.0}))
    assert bench.run(ended) == [""]
    assert bench.last(ended).finish_reason == "stop"
    assert [token_id for token_id, _ in bench.logprobs(ended)] == [end]


def test_impossible_values_are_refused(bench):
    with pytest.raises(InvalidRequestError, match="prompt is empty"):
        bench.engine.submit([request()])
    with pytest.raises(InvalidRequestError, match="logit_bias"):
        bench.engine.submit([request(1, sampler=SamplerParams(logit_bias={49152: 1.0}))])


def test_logprobs_are_the_log_softmax_of_the_raw_logits(bench, make_context):
    prompt = [5, 6, 7, 8]
    asked = Request(
        prompt,
        SamplerParams(temperature=0.7, seed=1, logit_bias={77: 100.0}, repeat_penalty=1.5),
        max_new_tokens=3,
        num_top_logprobs=5,
    )
    bench.run(asked)
    entries = [entry for output in bench.outputs[asked] for entry in output.logprobs]
    context = make_context()
    fed = list(prompt)
    for entry in entries:
        context.forget(0, 0)
        logits = context.decode([Chunk(0, 0, fed, 1)])[0][0].astype(np.float64)
        expected = logits - np.logaddexp.reduce(logits)
        assert entry.logprob == pytest.approx(expected[entry.token_id], abs=1e-9)
        assert [i for i, _ in entry.top] == np.argsort(-expected)[:5].tolist()
        assert [p for _, p in entry.top] == pytest.approx(np.sort(expected)[::-1][:5], abs=1e-9)
        fed.append(entry.token_id)


def test_a_batch_the_context_has_no_room_for_is_refused_before_c_aborts(make_context):
    context = make_context()
    for num_tokens in (0, 9):
        with pytest.raises(BackendError, match="max_batch_tokens"):
            context.decode([Chunk(0, 0, list(range(num_tokens)), 1)])


def test_a_prefix_of_simultaneous_requests_is_read_once(make_bench):
    bench = make_bench(max_parallel=4, max_batch_tokens=16)
    shared = tuple(range(300, 360))
    together = [request(*shared, 1000 + number, new=3) for number in range(4)]
    bench.run(*together)
    num_cached = sorted(bench.last(one).num_cached_tokens for one in together)
    assert num_cached == [0, 60, 60, 60]
    for one in together:
        alone = request(*one.prompt_token_ids, new=3)
        bench.run(alone)
        assert bench.logprobs(one) == bench.logprobs(alone)


def test_several_choices_of_one_prompt_read_it_once(bench):
    prompt = tuple(range(300, 360))
    choices = [
        request(*prompt, new=4, sampler=SamplerParams(temperature=1.0, seed=seed))
        for seed in range(3)
    ]
    bench.run(*choices)
    stats = bench.engine.stats()
    assert stats.num_prompt_tokens == 3 * 60
    assert stats.num_cached_tokens == 2 * 59
    assert stats.num_decoded_tokens == 60 + 2 + 3 * 3


def test_requests_waiting_for_a_prompt_continue_when_it_is_cancelled(make_bench):
    bench = make_bench(max_parallel=3, max_batch_tokens=8)
    shared = tuple(range(300, 360))
    first, second = request(*shared, 1, new=2), request(*shared, 2, new=2)
    bench.engine.submit([first, second])
    bench.engine.step()
    bench.engine.cancel([first])
    bench.finish(second)
    assert first not in bench.outputs
    assert bench.last(second).num_cached_tokens >= 8


def test_a_cancelled_prompt_is_left_within_one_step(make_bench):
    bench = make_bench(max_batch_tokens=8)
    long = request(*range(100, 300), new=2)
    bench.engine.submit([long])
    bench.engine.step()
    bench.engine.cancel([long])
    bench.engine.step()
    assert bench.engine.stats().num_decoded_tokens == 8
    assert bench.engine.stats().num_active == 0


def test_running_streams_are_decoded_side_by_side(make_bench):
    # llama.cpp decodes sequences together only if their numbers have no gap.
    bench = make_bench(max_parallel=6)
    streams = [request(10 + number, new=4 if number in (1, 3) else 30) for number in range(5)]
    bench.engine.submit(streams)
    for _ in range(6):
        bench.engine.step()
    ids = sorted(s.slot.sequence_id for s in bench.engine._active.values())
    assert len(ids) == 3
    assert ids[-1] - ids[0] == 2
    bench.finish(*streams)
    for stream in streams:
        alone = request(*stream.prompt_token_ids, new=stream.max_new_tokens)
        bench.run(alone)
        assert bench.logprobs(stream) == bench.logprobs(alone)


def test_the_prompt_s_own_logprobs_are_those_of_a_run_over_it(make_bench, make_context):
    bench = make_bench(max_batch_tokens=16)
    prompt = list(range(100, 140))
    bench.run(request(*prompt))
    for new in (0, 2):
        asked = Request(prompt, GREEDY, max_new_tokens=new, num_prompt_logprobs=3)
        bench.run(asked)
        told = [o.prompt_logprobs for o in bench.outputs[asked] if o.prompt_logprobs]
        assert len(told) == 1
        assert told[0][0] is None
        assert len(told[0]) == len(prompt)
        assert bench.last(asked).num_new_tokens == new
        assert bench.last(asked).finish_reason == "length"
    context = make_context(max_batch_tokens=64, max_outputs=40)
    logits_TV = context.decode([Chunk(0, 0, prompt, 40)])[0].astype(np.float64)
    for position, entry in enumerate(told[0][1:]):
        expected = logits_TV[position] - np.logaddexp.reduce(logits_TV[position])
        assert entry.token_id == prompt[position + 1]
        assert entry.logprob == pytest.approx(expected[entry.token_id], abs=1e-9)
        assert [i for i, _ in entry.top] == np.argsort(-expected)[:3].tolist()


def test_token_ids_are_delivered_once_with_the_end_token(bench, tiny_model):
    end = tiny_model.end_tokens[0]
    bias = {77: 100.0, end: 60.0}
    params = SamplerParams(temperature=0.0, logit_bias=bias, presence_penalty=80.0)
    asked = Request([1, 2], params, max_new_tokens=8)
    bench.run(asked)
    told = [token_id for output in bench.outputs[asked] for token_id in output.token_ids]
    assert told == [77, end]
    assert bench.last(asked).num_new_tokens == 2
    asked = Request([1, 2], params, max_new_tokens=3, ignore_eos=True)
    bench.run(asked)
    assert bench.last(asked).finish_reason == "length"


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt_token_ids": [1, 49152]},
        {"prompt_token_ids": [-1]},
        {"num_top_logprobs": 49152},
        {"max_new_tokens": -1},
        {"grammar": GrammarSource("x" * 140_000)},
        {"sampler": SamplerParams(logit_bias={1: float("inf")})},
    ],
)
def test_requests_that_would_abort_the_process_are_refused(bench, wrong):
    with pytest.raises(InvalidRequestError):
        bench.engine.submit([Request(**{"prompt_token_ids": [1], **wrong})])


def test_a_window_wider_than_any_memory_is_cut_to_the_context(bench):
    far = SamplerParams(
        temperature=0.0,
        repeat_penalty=1.1,
        repeat_last_n=2**31 - 1,
        dry_multiplier=0.1,
        dry_penalty_last_n=2**31 - 1,
    )
    bench.run(request(1, 2, sampler=far, new=4))


def test_statistics_add_up(bench):
    bench.run(request(1, 2, 3, new=5), request(4, 5, new=5))
    stats = bench.engine.stats()
    assert (stats.num_waiting, stats.num_active, stats.num_sequences) == (0, 0, 4)
    assert stats.num_prompt_tokens == 5
    assert stats.num_generated_tokens == 10
    assert stats.num_decoded_tokens == 5 + 10 - 2
    assert stats.num_scheduled_sequences == stats.num_steps * 2
    assert stats.decode_seconds > 0
    assert stats.other_seconds > 0


@pytest.mark.slow
def test_a_model_whose_numbers_overflowed_fails_requests_and_lives(bench, tiny_gguf, tmp_path):
    path = tmp_path / "poisoned.gguf"
    content = bytearray(tiny_gguf.read_bytes())
    reader = gguf.GGUFReader(tiny_gguf)
    embeddings = next(t for t in reader.tensors if t.name == "token_embd.weight")
    scale_of_token_0 = slice(embeddings.data_offset, embeddings.data_offset + 2)
    content[scale_of_token_0] = np.float16(np.nan).tobytes()
    path.write_bytes(content)
    bench = type(bench)(GgufModel(path))
    for params in (GREEDY, SamplerParams(seed=1), SamplerParams(seed=1, top_p=0.5)):
        poisoned = request(1, 2, sampler=params)
        bench.run(poisoned)
        assert isinstance(bench.last(poisoned).error, BackendError)
    assert bench.engine.stats().num_active == 0
