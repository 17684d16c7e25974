"""Prefix reuse of models whose memory is no plain cache: recurrent states, sliding windows."""

from __future__ import annotations

import pytest

from quantize.conversion.convert import write_base_gguf
from serve.engine.model import GgufModel
from serve.engine.request import Request
from serve.engine.sampler import SamplerParams
from tests.fixtures.conversion import shared_converter
from tests.fixtures.tiny_checkpoints import NEW_FAMILIES, TINY_FAMILIES, save_tiny_checkpoint
from tests.unit.serve.conftest import Bench

__all__ = ["shared_converter"]

RECURRENT = ("qwen3.5", "lfm2", "granite hybrid", "falcon-h1")
WINDOWED = ("gemma3", "gemma3n", "gemma4")
GREEDY = SamplerParams(temperature=0.0)
SYSTEM, QUESTION, OTHER = range(100, 140), range(200, 220), range(300, 330)


@pytest.fixture(scope="module", params=[*RECURRENT, *WINDOWED])
def model(request, tmp_path_factory) -> GgufModel:
    directory = tmp_path_factory.mktemp("family")
    family = (TINY_FAMILIES | NEW_FAMILIES)[request.param]
    save_tiny_checkpoint(family, directory / "checkpoint")
    path = directory / "model.gguf"
    write_base_gguf(directory / "checkpoint", path, "F32", request.param)
    return GgufModel(path)


@pytest.fixture
def ask(model):
    """Return a function that asks one engine, and a new one, and compares what both say."""
    bench = Bench(model, max_parallel=3, max_batch_tokens=32)

    def ask(*prompt: int, owner: str = "", public: int = 0) -> tuple[list[int], int]:
        def request() -> Request:
            return Request(
                prompt, GREEDY, 6, num_top_logprobs=0, owner=owner, num_public_tokens=public
            )

        asked, alone = request(), request()
        bench.run(asked)
        fresh = Bench(model, max_parallel=1, max_batch_tokens=256)
        fresh.run(alone)
        for (token_id, logprob), (expected_id, expected) in zip(
            bench.logprobs(asked), fresh.logprobs(alone), strict=True
        ):
            assert token_id == expected_id
            assert logprob == pytest.approx(expected, abs=0.02)
        answer = [token_id for token_id, _ in bench.logprobs(asked)]
        return answer, bench.last(asked).num_cached_tokens

    return ask


def turn(model, *texts: range) -> list[int]:
    """Return messages, each with the token that ends a turn."""
    (end, *_) = sorted(model.end_tokens)
    return [token_id for text in texts for token_id in [*text, end]]


def test_the_next_turn_reads_what_is_new(model, ask):
    prompt = [*turn(model, SYSTEM, QUESTION), 5, 6]
    answer, num_cached = ask(*prompt)
    assert num_cached == 0
    continued = [*prompt, *answer[:-1]]
    _, num_cached = ask(*continued, *turn(model, OTHER), 5, 6)
    assert num_cached >= len(continued) - 1


def test_another_answer_in_the_history_goes_back_to_the_end_of_its_question(model, ask):
    prompt = [*turn(model, SYSTEM, QUESTION), 5, 6]
    ask(*prompt)
    _, num_cached = ask(*prompt, 400, 401, *turn(model, OTHER), 5, 6)
    assert len(prompt) - 2 <= num_cached <= len(prompt)
    _, num_cached = ask(*prompt)
    assert len(prompt) - 2 <= num_cached < len(prompt), "the same prompt again"


def test_another_question_shares_the_system_prompt(model, ask):
    shared = turn(model, SYSTEM)
    ask(*shared, *turn(model, QUESTION), 5, 6)
    ask(*shared, *turn(model, OTHER), 5, 6)
    _, num_cached = ask(*shared, *turn(model, range(350, 400)), 5, 6)
    assert num_cached >= len(shared)


def test_another_owner_shares_what_is_public_alone(model, ask):
    shared = turn(model, SYSTEM)
    prompt = [*shared, *turn(model, QUESTION), 5, 6]
    ask(*prompt, owner="one", public=len(shared))
    _, num_cached = ask(*prompt, owner="two", public=len(shared))
    assert num_cached == len(shared)
    _, num_cached = ask(*prompt, owner="three")
    assert num_cached == 0


def test_states_take_no_more_memory_than_they_may(model, monkeypatch):
    bench = Bench(model, max_parallel=3, max_batch_tokens=32)
    slots = bench.engine._slots._slots

    def ask(start: int) -> None:
        prompt = [*turn(model, range(start, start + 40), QUESTION), 5, 6]
        bench.run(Request(prompt, GREEDY, 2, num_top_logprobs=0))

    ask(200)
    most = 2 * sum(slot.num_saved_bytes for slot in slots)
    monkeypatch.setattr("serve.engine.slots.MOST_SAVED_BYTES", most)
    for start in (300, 400, 500):
        ask(start)
        assert sum(slot.num_saved_bytes for slot in slots) <= most
    assert sum(slot.num_saved_bytes > 0 for slot in slots) == (2 if most else 0)
