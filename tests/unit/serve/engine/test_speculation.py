"""A draft changes how many tokens a step gives, and never which."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.errors import ConfigError
from serve.engine.engine import Engine
from serve.engine.grammar import GrammarSource
from serve.engine.request import EngineLimits, Request
from serve.engine.sampler import SamplerParams
from serve.engine.speculation import Drafter

LIMITS = EngineLimits(context_tokens=256, max_parallel=4, max_batch_tokens=32, max_queue=64)


@pytest.fixture(scope="module")
def make_drafted(make_bench, tiny_model):
    """Return engines whose draft model is the model itself: at temperature 0 it is always right.

    Where answers are reproducible, its keys have more bits than the model's, and tokens may differ.
    """

    def make(*, reproducible=True):
        bench = make_bench()
        limits = dataclasses.replace(LIMITS, reproducible=reproducible)
        bench.engine = Engine(
            tiny_model, limits, threads=1, deliver=bench._deliver, draft=tiny_model
        )  # fmt: skip
        return bench

    return make


@pytest.fixture(scope="module")
def drafted(make_drafted):
    return make_drafted()


@pytest.fixture(scope="module")
def plain(make_bench):
    return make_bench()


prompts = st.lists(st.integers(100, 110), min_size=1, max_size=60)


@settings(max_examples=8)
@given(
    st.lists(
        st.tuples(prompts, st.integers(1, 25), st.sampled_from([0.0, 0.3, 1.0])),
        min_size=1,
        max_size=6,
    )
)
def test_tokens_are_the_same_with_and_without_a_draft(drafted, plain, mix):
    def requests():
        return [
            Request(
                prompt,
                SamplerParams(temperature=temperature, seed=7, presence_penalty=0.3),
                new,
                num_top_logprobs=0,
            )
            for prompt, new, temperature in mix
        ]

    left, right = requests(), requests()
    drafted.run(*left)
    plain.run(*right)
    for one, other in zip(left, right, strict=True):
        assert drafted.logprobs(one) == plain.logprobs(other)
        assert drafted.last(one).finish_reason == plain.last(other).finish_reason
        assert drafted.last(one).num_new_tokens == plain.last(other).num_new_tokens


def test_a_draft_that_is_right_saves_steps(make_drafted):
    drafted = make_drafted(reproducible=False)
    # Its first steps have drafts, whether they pay or not.
    before = drafted.engine.stats()
    drafted.run(Request([200, 201], SamplerParams(temperature=0.0), 41))
    after = drafted.engine.stats()
    drafted_tokens = after.num_drafted_tokens - before.num_drafted_tokens
    # The first token comes from the prompt; then each step gives its own and up to four drafted.
    assert after.num_accepted_tokens - before.num_accepted_tokens == drafted_tokens == 32
    assert after.num_steps - before.num_steps == 1 + 8


def test_drafts_are_measured_in_turns_with_steps_without(make_drafted):
    drafted = make_drafted(reproducible=False)
    drafted.run(Request([200, 201], SamplerParams(temperature=0.0), 71))
    stats = drafted.engine.stats()
    assert stats.num_accepted_tokens == stats.num_drafted_tokens > 32
    assert stats.num_steps > 1 + 70 / 5, "with drafts in all steps"


def test_grammars_are_obeyed_without_a_draft(drafted):
    asked = Request(
        [5, 6], SamplerParams(temperature=0.0), 20, grammar=GrammarSource('root ::= "yes"')
    )
    drafted.run(asked)
    assert drafted.text(asked) == "yes"


def test_models_with_different_vocabularies_are_refused(tiny_model):
    class Other:
        vocab_size, path = tiny_model.vocab_size, tiny_model.path

        def piece(self, _token_id: int) -> bytes:
            return b"?"

    with pytest.raises(ConfigError, match="vocabulary of the model"):
        Drafter(Other(), tiny_model, LIMITS, threads=1)


def test_limits_leave_room_for_drafts_in_a_small_batch(tiny_model, make_bench):
    bench = make_bench()
    limits = dataclasses.replace(LIMITS, max_batch_tokens=5)
    bench.engine = Engine(tiny_model, limits, threads=1, deliver=bench._deliver, draft=tiny_model)
    both = [Request([200 + n], SamplerParams(temperature=0.0), 12) for n in range(3)]
    bench.run(*both)
    assert all(bench.last(one).num_new_tokens == 12 for one in both)
