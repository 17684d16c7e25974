"""The prefix cache: llama.cpp's sequences as slots that remember which tokens they hold.

Every slot has room for a whole context, so nothing is evicted to make room: when a slot is needed,
the content of the one that was released first is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from serve.engine.context import DecodeContext

CONTEXT_TOKENS_PER_COPIED_TOKEN = 256
"""A copy moves a whole slot, even if it is nearly empty. On two cores, 2048 tokens of
SmolLM2-135M's memory moved in 8 ms, in which 2 prompt tokens were computed on one core and 6 on
both: copying pays from a prefix of 2048 / 256 = 8 tokens."""


@dataclass(eq=False)
class Slot:
    """One of llama.cpp's sequences; the tokens of a finished request stay for later ones."""

    sequence_id: int
    token_ids: list[int] = field(default_factory=list)
    """Tokens in the key-value memory, by position."""
    owner: str = ""
    """Whose request wrote them."""
    is_free: bool = True
    released_at: int = 0
    """Sequence number of its last release."""


class Slots:
    """All sequences of a context.

    A prompt reuses what the same owner's requests left, and of another owner's only the public part
    of itself: who guesses the beginning of a foreign prompt learns nothing from counts or times.

    Args:
        reuse: Whether the model's memory lets sequences share and drop tokens.
    """

    def __init__(
        self, context: DecodeContext, count: int, *, context_tokens: int, reuse: bool
    ) -> None:
        self.min_copied_tokens = max(1, context_tokens // CONTEXT_TOKENS_PER_COPIED_TOKEN)
        self._context = context
        self._reuse = reuse
        self._slots = [Slot(number) for number in range(count)]
        self._num_releases = 0

    def num_computed(
        self, prompt_token_ids: Sequence[int], owner: str = "", num_public: int = 0
    ) -> int:
        """Return the length of the longest prefix that a slot holds, the last token left out."""
        return self._source(prompt_token_ids, owner, num_public)[1] if self._reuse else 0

    def take(self, prompt_token_ids: Sequence[int], owner: str = "", num_public: int = 0) -> Slot:
        """Take a free slot that starts with the longest prefix that any slot holds.

        The last prompt token is always computed: its logits are needed.

        Args:
            owner: Whose prompt it is.
            num_public: Number of its first tokens that may come from any owner's slot.
        """
        slot = self._oldest()
        num_cached = 0
        if self._reuse:
            source, num_cached = self._source(prompt_token_ids, owner, num_public)
            if source.is_free and 2 * num_cached >= len(source.token_ids):
                slot = source
            elif source is not slot and num_cached >= self.min_copied_tokens:
                self._copy(source, slot)
            elif source is not slot:
                num_cached = 0
        return self._taken(slot, num_cached, owner)

    def take_empty(self, owner: str = "") -> Slot:
        """Take a free slot and empty it."""
        return self._taken(self._oldest(), 0, owner)

    def _taken(self, slot: Slot, num_cached: int, owner: str) -> Slot:
        self.cut(slot, num_cached)
        slot.is_free, slot.owner = False, owner
        return slot

    def cut(self, slot: Slot, num_tokens: int) -> None:
        """Keep only the first tokens of a slot."""
        self._context.forget(slot.sequence_id, num_tokens)
        del slot.token_ids[num_tokens:]

    def release(self, slot: Slot) -> None:
        """Return a slot; its tokens stay until it is taken again."""
        self._num_releases += 1
        slot.is_free, slot.released_at = True, self._num_releases

    def close_gaps(self) -> None:
        """Make the numbers of the taken slots consecutive, by moving slots.

        A gap doubles the time of a step that is bound by memory bandwidth: llama.cpp decodes the
        sequences before and after it in separate passes. A move costs less than that, once.
        """
        if not self._reuse:
            return
        while True:
            taken = sorted((s for s in self._slots if not s.is_free), key=lambda s: s.sequence_id)
            ids = [slot.sequence_id for slot in taken]
            if not ids or ids[-1] - ids[0] < len(ids):
                return
            gaps = sorted(set(range(ids[0], ids[-1])) - set(ids))
            if ids[-1] - ids[-2] >= ids[1] - ids[0]:
                self._move(taken[-1], gaps[0])
            else:
                self._move(taken[0], gaps[-1])

    def _move(self, slot: Slot, sequence_id: int) -> None:
        """Move a taken slot to a free number, whose content replaces the oldest free slot's."""
        displaced = next(s for s in self._slots if s.sequence_id == sequence_id)
        oldest = self._oldest()
        if displaced is not oldest and displaced.token_ids:
            self._copy(displaced, oldest)
            oldest.released_at = displaced.released_at
        self._context.forget(sequence_id, 0)
        self._context.copy(slot.sequence_id, sequence_id)
        displaced.sequence_id, slot.sequence_id = slot.sequence_id, sequence_id
        self.cut(displaced, 0)
        displaced.released_at = 0

    def _copy(self, source: Slot, target: Slot) -> None:
        self._context.forget(target.sequence_id, 0)
        self._context.copy(source.sequence_id, target.sequence_id)
        target.token_ids, target.owner = list(source.token_ids), source.owner

    def _oldest(self) -> Slot:
        return min((slot for slot in self._slots if slot.is_free), key=lambda s: s.released_at)

    def _source(
        self, prompt_token_ids: Sequence[int], owner: str, num_public: int
    ) -> tuple[Slot, int]:
        own = prompt_token_ids[:-1]
        public = own[:num_public]
        lengths = [
            common_length(slot.token_ids, own if slot.owner == owner else public)
            for slot in self._slots
        ]
        longest = max(range(len(lengths)), key=lambda n: (lengths[n], self._slots[n].is_free))
        return self._slots[longest], lengths[longest]


def common_length(left: Sequence[int], right: Sequence[int]) -> int:
    """Return the length of the common prefix of two sequences of one type."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
