"""How a batch is divided, without any model."""

import pytest

from serve.engine.request import Request
from serve.engine.scheduler import ENOUGH_TOKENS, MOST_PAUSES, Budget, Scheduler
from serve.engine.sequence import ActiveSequence
from serve.engine.slots import Slot
from serve.engine.text import TextStream


def sequence(num_prompt: int, num_new: int = 0, draft=(), **request) -> ActiveSequence:
    """Make a sequence that has read nothing yet, or all but the token it sampled last."""
    made = ActiveSequence(
        request=Request(range(num_prompt), **request),
        token_ids=list(range(num_prompt + num_new)),
        max_new_tokens=100,
        sampler=None,
        text=TextStream(()),
        slot=Slot(0),
        draft=list(draft),
        num_new_tokens=num_new,
    )
    made.slot.token_ids = made.token_ids[: num_prompt + num_new - 1] if num_new else []
    return made


def share(sequences, num_tokens=32, num_outputs=16):
    decoding = [one for one in sequences if not one.is_prefilling]
    shares = Scheduler(Budget(num_tokens, num_outputs)).share(sequences, decoding)
    assert sum(s.num_tokens for s in shares) <= num_tokens
    assert sum(s.num_outputs for s in shares) <= num_outputs
    of = {s.sequence: (s.num_tokens, s.num_outputs) for s in shares}
    return [of.get(s, (0, 0)) for s in sequences]


def test_decoding_comes_first_and_prompts_get_the_rest():
    assert share([sequence(100), sequence(5, 3), sequence(9, 1)]) == [(30, 0), (1, 1), (1, 1)]


def test_tokens_that_a_grammar_forced_are_read_at_once_where_no_other_sequence_has_fewer():
    forced, also, other = sequence(5, 6), sequence(5, 5), sequence(9, 1)
    forced.slot.token_ids, also.slot.token_ids = forced.token_ids[:6], also.token_ids[:6]
    assert share([forced, sequence(100)]) == [(5, 1), (27, 0)]
    assert share([forced, also]) == [(4, 0), (4, 1)]
    assert share([forced, also, other]) == [(1, 0), (1, 0), (1, 1)]
    assert share([forced, also], num_tokens=5) == [(4, 0), (1, 0)]
    forced.draft = [7, 8]
    assert share([forced], num_tokens=6) == [(6, 2)]
    assert share([forced, other]) == [(1, 0), (1, 1)]


def test_the_end_of_a_prompt_needs_its_logits():
    assert share([sequence(20)]) == [(20, 1)]
    assert share([sequence(33)]) == [(32, 0)]


def test_a_short_prompt_does_not_wait_for_a_long_one_nor_a_long_one_for_short_ones():
    assert share([sequence(500), sequence(10)]) == [(22, 0), (10, 1)]
    assert share([sequence(10), sequence(500)]) == [(10, 1), (22, 0)]
    shorts = [sequence(10) for _ in range(8)]
    shares = share([sequence(500), *shorts])
    assert shares[0] == (16, 0)
    assert shares[1:3] == [(10, 1), (6, 0)]


def test_few_prompts_are_read_one_after_another_and_many_together():
    few, many = ([sequence(40) for _ in range(count)] for count in (16, 64))
    read_first = [tokens for tokens, _ in share(few, num_tokens=256)]
    assert read_first == [40] * (ENOUGH_TOKENS // 40 + 1) + [0] * (15 - ENOUGH_TOKENS // 40)
    assert sum(tokens for tokens, _ in share(many, num_tokens=256, num_outputs=64)) == 256
    long, short = sequence(900), sequence(40)
    assert share([long, short], num_tokens=256) == [(216, 0), (40, 1)]
    assert share([long], num_tokens=256) == [(256, 0)]


def test_drafts_are_cut_to_the_room_there_is():
    long = sequence(5, 3, draft=[1, 2, 3, 4])
    assert share([long, sequence(5, 1)], num_tokens=4) == [(3, 3), (1, 1)]
    assert long.draft == [1, 2]
    assert share([sequence(5, 1, draft=[1]), sequence(5, 1, draft=[1])], num_outputs=2) == [
        (1, 1),
        (1, 1),
    ]


def test_prompt_logprobs_take_no_more_outputs_than_there_are():
    asks = sequence(30, num_prompt_logprobs=0)
    assert share([asks, sequence(5, 1)], num_outputs=9) == [(8, 8), (1, 1)]
    assert share([asks, sequence(20)], num_outputs=8)[0][0] <= 8


@pytest.mark.parametrize("num_outputs", [1, 2])
def test_a_prompt_without_room_for_its_logits_waits_with_its_last_token(num_outputs):
    busy = [sequence(5, 1) for _ in range(num_outputs)]
    assert share([*busy, sequence(4)], num_outputs=num_outputs)[-1] == (3, 0)


def test_short_prompts_are_read_before_others_go_on_but_not_for_ever():
    decoding, short, long = sequence(9, 1), sequence(32), sequence(33)
    scheduler = Scheduler(Budget(32, 16))
    found = [scheduler.decoding([decoding, short]) for _ in range(2 * MOST_PAUSES + 2)]
    assert found == [*[[]] * MOST_PAUSES, *[[decoding], []] * (MOST_PAUSES // 2 + 1)]
    for _ in range(MOST_PAUSES):
        assert scheduler.decoding([decoding]) == [decoding]
        # What nobody feels does not count.
        assert scheduler.decoding([short, sequence(3)]) == []
    assert scheduler.decoding([decoding, short]) == []
    assert scheduler.decoding([decoding, short, long]) == [decoding]
    assert scheduler.decoding([decoding]) == [decoding]
    assert scheduler.decoding([]) == []
    (read,) = scheduler.share([decoding, sequence(10)], [])
    assert (read.num_tokens, read.num_outputs) == (10, 1)
