"""Statistics of parts: counts, lengths, turns, tail mass, entropy.

In: parts. Out: a `Summary`. Memory holds the distributions of one row group.

Shape legend: T tokens of a conversation's answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np

from potstill.distributions import SIGNAL_COLUMNS, TokenDistributions, decode
from potstill.facts.samples import SignalStats
from potstill.schema import Split
from potstill.tables import read_conversation_batches

COLUMNS = ["split", "source", "license", "teacher", "token_ids", "turns", *SIGNAL_COLUMNS]
TAIL_SIZES = (1, 2, 5, 10, 20, 50, 100)
"""Numbers of most probable tokens for which the mass of all others is given."""
ENTROPY_STEP = 0.5
"""Width of a class of the entropies' histogram, in bits."""


@dataclass
class Summary:
    """Statistics of parts; answers are the teacher's turns."""

    rows_by_part: dict[str, int] = field(default_factory=dict)
    num_conversations_by_split: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(get_args(Split), 0)
    )
    sources: Counter[tuple[str, str | None]] = field(default_factory=Counter)
    """Conversations by source and license."""
    teachers: Counter[str] = field(default_factory=Counter)
    """Conversations by teacher, without known answers."""
    num_turns: Counter[int] = field(default_factory=Counter)
    """Conversations by their number of answers."""
    answer_lengths: Counter[int] = field(default_factory=Counter)
    """Answers by their number of tokens."""
    entropies: Counter[int] = field(default_factory=Counter)
    """Tokens by the class of their distribution's entropy, of width ENTROPY_STEP."""
    num_tokens: int = 0
    """Tokens of whole conversations."""
    num_truncated: int = 0
    """Answers that reached the limit of tokens before they ended."""
    tail_mass: float = 0.0
    """Sum over tokens of the probability that is not stored."""
    nats: float = 0.0
    """Sum over sampled tokens of -log p."""
    entropy_bits: float = 0.0
    """Sum over tokens of the entropy of the stored entries with the tail as one category: a lower
    bound of the distribution's."""
    tail_by_size: dict[int, float] = field(default_factory=lambda: dict.fromkeys(TAIL_SIZES, 0.0))
    """Sum over tokens of the mass outside the most probable k, or outside all that are stored."""
    num_entries: int = 0
    """Stored log-probabilities."""
    num_bytes: int = 0
    """Size of the parts."""

    @property
    def num_conversations(self) -> int:
        """All of them."""
        return sum(self.rows_by_part.values())

    @property
    def num_answers(self) -> int:
        """All of them."""
        return sum(self.answer_lengths.values())

    @property
    def completion_tokens(self) -> int:
        """Tokens of all answers."""
        return sum(length * count for length, count in self.answer_lengths.items())

    @property
    def truncated_share(self) -> float:
        """Share of answers that were cut off."""
        return self.num_truncated / max(self.num_answers, 1)

    @property
    def mean_tail_mass(self) -> float:
        """Mean probability that is not stored."""
        return self.tail_mass / max(self.completion_tokens, 1)

    def stats(self) -> SignalStats:
        """Return the figures for a manifest."""
        tokens = max(self.completion_tokens, 1)
        return SignalStats(
            prompt_tokens=self.num_tokens - self.completion_tokens,
            completion_tokens=self.completion_tokens,
            truncated_share=round(self.truncated_share, 4),
            mean_tail_mass=round(self.mean_tail_mass, 6),
            nats_per_token=round(self.nats / tokens, 4),
            entropy_bits=round(self.entropy_bits / tokens, 3),
            entries_per_token=round(self.num_entries / tokens, 2),
            bytes_per_token=round(self.num_bytes / tokens, 1),
        )

    def add_signal(self, signal: TokenDistributions) -> None:
        """Count a conversation's distributions."""
        starts_T = signal.starts_T
        p_N = np.exp(signal.top_logprobs_N.astype(np.float64))
        cumulative_N = np.cumsum(p_N)
        before_T = cumulative_N[starts_T] - p_N[starts_T]
        for size in TAIL_SIZES:
            last_T = starts_T + np.minimum(signal.counts_T, size) - 1
            self.tail_by_size[size] += float((1.0 - (cumulative_N[last_T] - before_T)).sum())
        tail_T = np.maximum(signal.tail_mass_T.astype(np.float64), 1e-12)
        bits_T = -np.add.reduceat(p_N * signal.top_logprobs_N, starts_T) - tail_T * np.log(tail_T)
        bits_T = np.maximum(bits_T, 0.0) / np.log(2.0)
        classes, counts = np.unique((bits_T / ENTROPY_STEP).astype(int), return_counts=True)
        self.entropies.update(dict(zip(classes.tolist(), counts.tolist(), strict=True)))
        self.entropy_bits += float(bits_T.sum())
        self.tail_mass += float(tail_T.sum())
        self.nats -= float(signal.sampled_logprobs_T.sum(dtype=np.float64))
        self.num_entries += len(signal.top_logprobs_N)


def summarize(paths: Iterable[Path]) -> Summary:
    """Summarize files of conversations.

    Raises:
        ArtifactError: A part is damaged.
    """
    summary = Summary()
    for path in paths:
        summary.rows_by_part[path.name] = 0
        summary.num_bytes += path.stat().st_size
        for batch in read_conversation_batches(path, COLUMNS):
            summary.rows_by_part[path.name] += batch.num_rows
            for signal in decode(batch):
                summary.add_signal(signal)
            summary.num_tokens += len(batch["token_ids"].flatten())
            plain = batch.drop_columns(["token_ids", *SIGNAL_COLUMNS]).to_pylist()
            for row in plain:
                if name := row.get("teacher"):
                    summary.teachers[name] += 1
                summary.num_conversations_by_split[row["split"]] += 1
                summary.sources[row["source"], row["license"]] += 1
                summary.num_turns[len(row["turns"])] += 1
                for turn in row["turns"]:
                    summary.answer_lengths[turn["num_tokens"]] += 1
                    summary.num_truncated += turn["finish_reason"] == "length"
    return summary
