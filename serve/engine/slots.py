"""The prefix cache: llama.cpp's sequences as slots that remember which tokens they hold.

Every slot has room for a whole context, so nothing is evicted to make room: when a slot is needed,
the content of the one that was released first is dropped.

A recurrent layer has one state for all tokens so far, of which the last ones cannot be dropped. For
such models a slot keeps a few earlier states, and goes back to the latest one that fits.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field

from serve.engine.context import DecodeContext

CONTEXT_TOKENS_PER_COPIED_TOKEN = 256
"""A copy moves a whole slot, even if it is nearly empty. On two cores, 2048 tokens of
SmolLM2-135M's memory moved in 8 ms, in which 2 prompt tokens were computed on one core and 6 on
both: copying pays from a prefix of 2048 / 256 = 8 tokens."""
MIN_SAVED_TOKENS = 32
"""Shortest prefix whose state is kept: reading fewer tokens takes no longer than copying it."""
MOST_SAVED = 3
"""States that a slot keeps: the first and the last ones."""
MOST_SAVED_BYTES = 256 << 20
"""Of all slots; a state takes 0.1 to 20 MB in models of up to 1B."""
MOST_AFTER_BORDER = 64
"""Tokens after a prompt's last border from which on its end is one, too."""


@dataclass(eq=False)
class Slot:
    """One of llama.cpp's sequences; the tokens of a finished request stay for later ones."""

    sequence_id: int
    token_ids: list[int] = field(default_factory=list)
    """Tokens in the key-value memory, by position."""
    states: dict[int, bytes] = field(default_factory=dict)
    """Former states of recurrent layers, by the number of tokens that they have read."""
    owner: str = ""
    """Whose request wrote them."""
    is_free: bool = True
    released_at: int = 0
    """Sequence number of its last release."""

    @property
    def num_saved_bytes(self) -> int:
        """Size of its states."""
        return sum(map(len, self.states.values()))


class Slots:
    """All sequences of a context.

    A prompt reuses what the same owner's requests left, and of another owner's only the public part
    of itself: who guesses the beginning of a foreign prompt learns nothing from counts or times.
    """

    def __init__(self, context: DecodeContext, count: int, context_tokens: int) -> None:
        self.min_copied_tokens = max(1, context_tokens // CONTEXT_TOKENS_PER_COPIED_TOKEN)
        self._context = context
        self._slots = [Slot(number) for number in range(count)]
        self._num_releases = 0

    def num_computed(
        self, prompt_token_ids: Sequence[int], owner: str = "", num_public: int = 0
    ) -> int:
        """Return the length of the longest prefix that a slot holds, the last token left out."""
        return self._source(prompt_token_ids, owner, num_public)[1]

    def take(self, prompt_token_ids: Sequence[int], owner: str = "", num_public: int = 0) -> Slot:
        """Take a free slot that starts with the longest prefix that any slot holds.

        The last prompt token is always computed: its logits are needed.

        Args:
            owner: Whose prompt it is.
            num_public: Number of its first tokens that may come from any owner's slot.
        """
        slot = self._oldest()
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
        if num_tokens in slot.states and num_tokens < len(slot.token_ids):
            self._context.set_state(slot.sequence_id, slot.states[num_tokens])
        self._context.forget(slot.sequence_id, num_tokens)
        del slot.token_ids[num_tokens:]
        slot.states = {number: one for number, one in slot.states.items() if number <= num_tokens}

    def borders(
        self, slot: Slot, prompt_token_ids: Sequence[int], end_tokens: Container[int]
    ) -> list[int]:
        """Return after how many tokens of a prompt its slot's state is to be kept.

        These are the end of its first turn, which other prompts may have in common, and the end of
        its last turn, after which the next prompt of a conversation may have another answer.
        """
        if self._context.can_cut:
            return []
        last = len(prompt_token_ids) - 1
        ends = [
            number
            for number, token_id in enumerate(prompt_token_ids[:last], start=1)
            if token_id in end_tokens
        ]
        if last - max(ends, default=0) > MOST_AFTER_BORDER:
            ends.append(last)
        least = max(MIN_SAVED_TOKENS, len(slot.token_ids) + 1)
        return [number for number in sorted({*ends[:1], *ends[-1:]}) if number >= least]

    def save(self, slot: Slot, borders: list[int]) -> None:
        """Keep the state of a slot if it is at the first of the borders, which is then removed."""
        if borders[:1] != [len(slot.token_ids)]:
            return
        del borders[0]
        slot.states[len(slot.token_ids)] = self._context.state_of(slot.sequence_id)
        if len(slot.states) > MOST_SAVED:
            del slot.states[sorted(slot.states)[1]]
        while sum(one.num_saved_bytes for one in self._slots) > MOST_SAVED_BYTES:
            saving = [one for one in self._slots if one.states]
            min(saving, key=lambda one: (not one.is_free, one.released_at)).states.clear()

    def release(self, slot: Slot) -> None:
        """Return a slot; its tokens stay until it is taken again."""
        self._num_releases += 1
        slot.is_free, slot.released_at = True, self._num_releases

    def close_gaps(self) -> None:
        """Make the numbers of the taken slots consecutive, by moving slots.

        A gap doubles the time of a step that is bound by memory bandwidth: llama.cpp decodes the
        sequences before and after it in separate passes. A move costs less than that, once.
        """
        if not self._context.can_cut:
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
        target.token_ids, target.states = list(source.token_ids), dict(source.states)
        target.owner = source.owner

    def _oldest(self) -> Slot:
        return min((slot for slot in self._slots if slot.is_free), key=lambda s: s.released_at)

    def _source(
        self, prompt_token_ids: Sequence[int], owner: str, num_public: int
    ) -> tuple[Slot, int]:
        own = prompt_token_ids[:-1]
        public = own[:num_public]
        lengths = [
            self._usable(
                slot, common_length(slot.token_ids, own if slot.owner == owner else public)
            )
            for slot in self._slots
        ]
        # Of equal ones the free slot that is taken next, so that nothing is copied.
        order = [(one.is_free, -one.released_at) for one in self._slots]
        longest = max(range(len(lengths)), key=lambda n: (lengths[n], *order[n]))
        return self._slots[longest], lengths[longest]

    def _usable(self, slot: Slot, num_tokens: int) -> int:
        """Return to how many of a slot's first tokens it can go back."""
        if self._context.can_cut or num_tokens == len(slot.token_ids):
            return num_tokens
        return max((number for number in slot.states if number <= num_tokens), default=0)


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
