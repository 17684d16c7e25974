"""Speculative decoding: a small model drafts the next tokens, the large one verifies them at once.

The output distribution stays the same. The engine samples every token from the large model's own
logits, in order; a draft only decides how many of them come from one step: the first sampled token
that differs from the draft ends the step. For a draft that is one token with certainty this is the
rejection rule of Leviathan et al. 2023 (algorithm 1 with q = 1 at the drafted token): the token is
kept with probability p, and otherwise replaced by a draw from the rest of p.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from potstill.errors import BackendError, ConfigError
from serve.engine.context import Chunk, DecodeContext
from serve.engine.draft_switch import DraftSwitch
from serve.engine.model import GgufModel
from serve.engine.request import EngineLimits
from serve.engine.sequence import ActiveSequence
from serve.engine.slots import Slot, Slots, common_length

NUM_DRAFT_TOKENS = 4
"""Longest draft; each further token is less likely to be accepted, at the same cost."""

MAX_VERIFIED_TOKENS = 16
"""Drafts are shorter when many sequences decode: beyond this batch a CPU is compute-bound, and a
rejected token takes the time of an accepted one."""


class Drafter:
    """Drafts greedily with a model that has the same vocabulary.

    Raises:
        ConfigError: The two models have different vocabularies, or the draft model's memory cannot
            drop tokens.
    """

    def __init__(
        self, draft: GgufModel, target: GgufModel, limits: EngineLimits, *, threads: int
    ) -> None:
        _check_pair(draft, target)
        self._limits = limits
        self._context = DecodeContext(
            draft,
            num_sequences=limits.max_parallel,
            context_tokens=limits.context_tokens,
            max_batch_tokens=limits.max_batch_tokens,
            threads=threads,
            reproducible=False,  # drafts are verified
        )
        self._slots = Slots(self._context, limits.max_parallel, limits.context_tokens)
        self._slot_of: dict[ActiveSequence, Slot] = {}
        self._end_tokens = frozenset(draft.end_tokens)
        self._switch = DraftSwitch()
        self._before: dict[ActiveSequence, int] = {}
        self._begin = 0.0

    @property
    def decode_seconds(self) -> float:
        """Time spent in llama.cpp."""
        return self._context.decode_seconds

    def draft(self, sequences: Sequence[ActiveSequence]) -> int:
        """Give each eligible sequence a draft, and return the number of drafted tokens.

        Tokens that the draft model has not read yet are read first, one batch at most. There are no
        drafts while they cost more time than they save.
        """
        self._measure(sequences)
        if not self._switch.is_on(len(sequences)):
            return 0
        length = min(NUM_DRAFT_TOKENS, MAX_VERIFIED_TOKENS // max(1, len(sequences)) - 1)
        lengths = {
            s: min(length, s.max_new_tokens - s.num_new_tokens - 1)
            for s in sequences
            if s.grammar is None
        }
        lengths = {s: wanted for s, wanted in lengths.items() if wanted > 0}
        for sequence in lengths:
            self._find_slot(sequence)
        self._slots.close_gaps()
        try:
            self._guess(lengths)
        except BackendError:
            # The large model continues without a draft.
            for sequence in lengths:
                sequence.draft = []
                self._slots.cut(self._slot_of[sequence], 0)
        return sum(len(sequence.draft) for sequence in lengths)

    def _measure(self, sequences: Sequence[ActiveSequence]) -> None:
        """Record the step since the last call; none if all its sequences have ended since."""
        now = time.perf_counter()
        if not self._before.keys().isdisjoint(sequences):
            num_tokens = sum(one.num_new_tokens - had for one, had in self._before.items())
            self._switch.record(len(self._before), now - self._begin, num_tokens)
        self._before = {sequence: sequence.num_new_tokens for sequence in sequences}
        self._begin = now

    def forget(self, sequence: ActiveSequence) -> None:
        """Release the slot of a finished sequence."""
        if slot := self._slot_of.pop(sequence, None):
            self._slots.release(slot)

    def close(self) -> None:
        """Free the memory."""
        self._context.close()

    def _find_slot(self, sequence: ActiveSequence) -> None:
        slot = self._slot_of.get(sequence)
        if slot is None:
            self._slot_of[sequence] = self._slots.take(
                sequence.token_ids, sequence.request.owner, sequence.request.num_public_tokens
            )
        else:
            self._slots.cut(slot, common_length(slot.token_ids, sequence.token_ids[:-1]))

    def _guess(self, lengths: dict[ActiveSequence, int]) -> None:
        budget = self._limits.max_batch_tokens
        parts: dict[ActiveSequence, list[int]] = {}
        for sequence in lengths:
            start = len(self._slot_of[sequence].token_ids)
            part = sequence.token_ids[start : start + budget]
            budget -= len(part)
            if part:
                parts[sequence] = part
        while parts:
            parts = self._next_tokens(parts, lengths)

    def _next_tokens(
        self, parts: dict[ActiveSequence, list[int]], lengths: dict[ActiveSequence, int]
    ) -> dict[ActiveSequence, list[int]]:
        """Read a part of each sequence; return the drafted tokens to read next."""
        slots = [self._slot_of[sequence] for sequence in parts]
        chunks = [
            Chunk(slot.sequence_id, len(slot.token_ids), part, num_outputs=1)
            for slot, part in zip(slots, parts.values(), strict=True)
        ]
        guesses = {}
        rows = self._context.decode(chunks)
        for (sequence, part), slot, logits_1V in zip(parts.items(), slots, rows, strict=True):
            slot.token_ids += part
            if len(slot.token_ids) < len(sequence.token_ids) + len(sequence.draft):
                continue
            token_id = int(logits_1V[0].argmax())
            sequence.draft.append(token_id)
            if len(sequence.draft) < lengths[sequence] and token_id not in self._end_tokens:
                guesses[sequence] = [token_id]
        return guesses


def _check_pair(draft: GgufModel, target: GgufModel) -> None:
    if draft.vocab_size != target.vocab_size or any(
        draft.piece(token_id) != target.piece(token_id) for token_id in range(draft.vocab_size)
    ):
        raise ConfigError(
            "a draft model must have the vocabulary of the model it drafts for",
            where=draft.path,
            expected=f"the vocabulary of {target.path.name}",
            hint="a student and its teacher have one tokenizer",
        )
    if not (draft.can_forget_a_tail and target.can_forget_a_tail):
        raise ConfigError(
            "speculative decoding needs models whose memory can drop tokens",
            where=draft.path,
            hint="models with recurrent layers cannot",
        )
