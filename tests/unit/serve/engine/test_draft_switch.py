import logging

import pytest

from serve.engine.draft_switch import BLOCK_STEPS, HELD_STEPS, NUM_BLOCKS, DraftSwitch

MEASURED = BLOCK_STEPS * NUM_BLOCKS


def steps(switch, count, *, drafted, plain, num_sequences=1):
    """Take steps of so many seconds, three tokens with drafts and one without; return the modes."""
    modes = []
    for _ in range(count):
        is_on = switch.is_on(num_sequences)
        modes.append(is_on)
        switch.record(num_sequences, drafted if is_on else plain, 3 if is_on else 1)
    return modes


def test_both_ways_are_measured_in_turns():
    modes = steps(DraftSwitch(), MEASURED, drafted=1.0, plain=1.0)
    blocks = [modes[start : start + BLOCK_STEPS] for start in range(0, MEASURED, BLOCK_STEPS)]
    assert [block[0] for block in blocks] == [True, False] * (NUM_BLOCKS // 2)
    assert all(len(set(block)) == 1 for block in blocks)


@pytest.mark.parametrize(("seconds", "is_on"), [(2.0, True), (4.0, False)])
def test_drafts_are_made_while_they_save_more_than_they_cost(seconds, is_on, caplog):
    switch = DraftSwitch()
    with caplog.at_level(logging.INFO, logger="serve.engine.draft_switch"):
        steps(switch, MEASURED, drafted=seconds, plain=1.0)
    assert set(steps(switch, HELD_STEPS, drafted=seconds, plain=1.0)) == {is_on}
    assert f"drafts are {'on' if is_on else 'off'} for 1 answers" in caplog.text


def test_it_is_measured_again():
    switch = DraftSwitch()
    steps(switch, MEASURED + HELD_STEPS, drafted=4.0, plain=1.0)
    assert set(steps(switch, MEASURED, drafted=2.0, plain=1.0)) == {True, False}
    assert switch.is_on(1)


def test_each_number_of_sequences_is_measured_by_itself():
    switch = DraftSwitch()
    steps(switch, MEASURED, drafted=2.0, plain=1.0, num_sequences=1)
    steps(switch, MEASURED, drafted=4.0, plain=1.0, num_sequences=4)
    assert switch.is_on(1)
    assert not switch.is_on(4)


def test_the_first_step_of_a_block_does_not_count():
    switch = DraftSwitch()
    for step in range(MEASURED):
        is_on = switch.is_on(1)
        catches_up = is_on and step % BLOCK_STEPS == 0
        switch.record(1, 100.0 if catches_up else 1.0, 2 if is_on else 1)
    assert switch.is_on(1)
