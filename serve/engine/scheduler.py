"""How the tokens of the next batch are divided among the active sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serve.engine.context import Chunk
from serve.engine.sequence import ActiveSequence

FEW_SEQUENCES = 24
"""Up to so many sequences a step reads few prompts. With more, each further step costs as many
tokens of the sequences that decode."""
ENOUGH_TOKENS = 96
"""Tokens of the shortest prompts after which such a step reads no further prompt. Measured with 16
streams: 32 give a median of half the time to the first token, and a 99th percentile of 1.2 times;
96 give 0.78 and 1.03 (benchmarks/serving/throughput.py)."""

MOST_PAUSES = 4
"""Steps in a row that the sequences that decode sit out; of more than those, each other one."""


@dataclass(frozen=True)
class Budget:
    """Limits of one batch."""

    num_tokens: int
    num_outputs: int


@dataclass(frozen=True)
class Share:
    """One sequence's part of a batch."""

    sequence: ActiveSequence
    num_tokens: int
    num_outputs: int

    @property
    def chunk(self) -> Chunk:
        """Its tokens, drafted ones last."""
        sequence = self.sequence
        start = sequence.num_computed
        token_ids = sequence.token_ids[start : start + self.num_tokens]
        token_ids += sequence.draft[: self.num_tokens - len(token_ids)]
        slot_id = sequence.slot.sequence_id if sequence.slot else -1
        return Chunk(slot_id, start, token_ids, self.num_outputs)


class Scheduler:
    """Divides the batches of an engine, one after another.

    Sequences that decode sit steps out while short prompts wait: beside prompts their tokens
    take a pass over the weights of their own, for which all prompts would wait; the time of reading
    the prompts they lose in any case. A prompt that is longer than a step, or an endless row of
    them, does not stop them.

    Args:
        budget: Limits of every batch.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._num_owed = 0
        """Steps that sequences have sat out, less those that they took part in since."""

    def decoding(self, sequences: Sequence[ActiveSequence]) -> list[ActiveSequence]:
        """Return the sequences that decode in the next step."""
        decoding = [s for s in sequences if not s.is_prefilling and s.num_pending]
        longest = max((s.num_pending for s in sequences if s.is_prefilling), default=0)
        pauses = self._num_owed < MOST_PAUSES and 0 < longest <= self._budget.num_tokens
        if decoding:
            self._num_owed = self._num_owed + 1 if pauses else max(0, self._num_owed - 1)
        return [] if pauses else decoding

    def share(
        self, sequences: Sequence[ActiveSequence], decoding: Sequence[ActiveSequence]
    ) -> list[Share]:
        """Divide a batch among sequences: first to those that decode, the rest to prompts.

        A sequence that decodes has one token to read, or several that its grammar forced. All read
        as many as the one with the fewest: llama.cpp reads equal numbers in one pass over the
        weights.

        Half of the tokens for prompts goes to the one that was admitted first, so that none waits
        forever; the other half goes to the prompts that have the least left to read, so that a
        short question does not wait for a long text. Unused tokens go to the next prompt; where
        there are few sequences, only until the step has enough: the next prompt's answer would
        begin hardly earlier, and those of the prompts before it later.

        Drafted tokens are verified as far as the batch has room for them.

        Args:
            decoding: Those of the sequences that decode in this step.
        """
        prefilling = [s for s in sequences if s.is_prefilling and s.num_pending]
        shares = []
        num_tokens, num_outputs = self._budget.num_tokens, self._budget.num_outputs
        num_each = min((s.num_pending for s in decoding), default=1)
        num_still = len(decoding)
        for sequence in decoding:
            num_still -= 1
            pending = min(num_each, num_tokens - num_still)
            is_whole = pending == sequence.num_pending
            room = min(num_tokens - pending, num_outputs - 1) - num_still
            del sequence.draft[max(0, room) if is_whole else 0 :]
            share = Share(
                sequence, pending + len(sequence.draft), int(is_whole) + len(sequence.draft)
            )
            shares.append(share)
            num_tokens, num_outputs = num_tokens - share.num_tokens, num_outputs - share.num_outputs
        parts: dict[ActiveSequence, int] = {}
        if prefilling:
            parts[prefilling[0]] = min(prefilling[0].num_pending, (num_tokens + 1) // 2)
            num_tokens -= parts[prefilling[0]]
        are_few = len(sequences) <= FEW_SEQUENCES
        num_given = 0
        for sequence in sorted(prefilling, key=lambda s: s.num_pending):
            if are_few and num_given >= ENOUGH_TOKENS:
                break
            had = parts.get(sequence, 0)
            more = min(sequence.num_pending - had, num_tokens)
            parts[sequence] = had + more
            num_tokens -= more
            num_given += parts[sequence]
        for sequence, wanted in parts.items():
            share = _prompt_share(sequence, wanted, num_outputs)
            if share.num_tokens:
                shares.append(share)
                num_outputs -= share.num_outputs
        return shares


def _prompt_share(sequence: ActiveSequence, num_tokens: int, num_outputs: int) -> Share:
    """Return a prompt's share, with the outputs it needs: the last token's, or all of them."""
    if sequence.borders:
        num_tokens = min(num_tokens, sequence.borders[0] - sequence.num_computed)
    if sequence.request.num_prompt_logprobs is not None:
        num_tokens = min(num_tokens, num_outputs)
        return Share(sequence, num_tokens, num_tokens)
    is_whole = num_tokens == sequence.num_pending
    if is_whole and num_outputs == 0:
        num_tokens, is_whole = num_tokens - 1, False
    return Share(sequence, num_tokens, int(is_whole))
