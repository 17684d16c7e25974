"""The prefix cache: llama.cpp's sequences as slots that remember what they have computed.

In: a prompt. Out: a slot that holds as much of the prompt's beginning as any slot has computed.
Knows nothing of requests or scheduling.

Every slot has room for a whole context, so nothing is ever evicted to make room: a slot's former
tokens are dropped when it is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from serve.engine.context import DecodeContext

MIN_COPIED_TOKENS = 16
"""Fewer tokens are computed sooner than another slot's memory is copied."""


@dataclass
class Slot:
    """One of llama.cpp's sequences. What a finished request left in it may serve the next one."""

    sequence_id: int
    token_ids: list[int] = field(default_factory=list)
    """What the key-value memory holds, position by position."""
    is_free: bool = True
    released_at: int = 0
    """Number of its last release among all slots' releases."""


class Slots:
    """All sequences of a context.

    Args:
        reuse: Whether the model's memory lets sequences share and drop tokens.
    """

    def __init__(self, context: DecodeContext, count: int, *, reuse: bool) -> None:
        self._context = context
        self._reuse = reuse
        self._slots = [Slot(number) for number in range(count)]
        self._num_releases = 0

    def take(self, prompt_token_ids: Sequence[int]) -> Slot:
        """Take a free slot and let it begin with what some slot has computed already.

        The last prompt token is always left to be computed: its logits are needed.
        """
        slot = min((s for s in self._slots if s.is_free), key=lambda s: s.released_at)
        num_cached = 0
        if self._reuse:
            usable = prompt_token_ids[:-1]
            source = max(self._slots, key=lambda s: common_length(s.token_ids, usable))
            num_cached = common_length(source.token_ids, usable)
            if source.is_free and 2 * num_cached >= len(source.token_ids):
                slot = source
            elif source is not slot and num_cached >= MIN_COPIED_TOKENS:
                self._context.forget(slot.sequence_id, 0)
                self._context.copy(source.sequence_id, slot.sequence_id)
            elif source is not slot:
                num_cached = 0
        self._context.forget(slot.sequence_id, num_cached)
        slot.token_ids = list(prompt_token_ids[:num_cached])
        slot.is_free = False
        return slot

    def release(self, slot: Slot) -> None:
        """Give a slot back; its tokens stay until it is taken again."""
        self._num_releases += 1
        slot.is_free, slot.released_at = True, self._num_releases


def common_length(left: Sequence[int], right: Sequence[int]) -> int:
    """Count the tokens in which two sequences begin alike."""
    for number, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return number
    return min(len(left), len(right))
