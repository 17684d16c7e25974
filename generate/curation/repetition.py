"""Detect repetition in the token ids of answers.

In: an answer's token ids. Out: the share of repeated tokens, and whether it ends in a loop.

Shapes: T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NGRAM_TOKENS = 8
"""Length of a run that counts as repeated. Rae et al. 2021 ("Scaling Language Models",
arXiv:2112.11446, table A1) count runs of 5 to 10 words in web pages."""
MIN_TOKENS = 32
"""Fewest tokens of an answer that is checked."""
MAX_PERIOD = 64
"""Longest period of a loop at an answer's end, in tokens."""
MIN_ROUNDS, MIN_TAIL_TOKENS = 4, 48
"""An answer ends in a loop if a piece occurs four times in a row there, over 48 tokens in all: rows
of a table or lines of code repeat less exactly."""


def repeated_share(token_ids: Sequence[int]) -> float:
    """Return the share of tokens in runs of 8 that occurred before in the answer."""
    seen: set[tuple[int, ...]] = set()
    num_repeated = covered_to = 0
    for start in range(len(token_ids) - NGRAM_TOKENS + 1):
        ngram = tuple(token_ids[start : start + NGRAM_TOKENS])
        if ngram in seen:
            end = start + NGRAM_TOKENS
            num_repeated += end - max(start, covered_to)
            covered_to = end
        seen.add(ngram)
    return num_repeated / max(1, len(token_ids))


def ends_in_loop(token_ids: Sequence[int]) -> bool:
    """Return whether an answer ends in four repetitions of the same tokens, over 48 in all."""
    ids_T = np.asarray(token_ids)
    for period in range(1, min(MAX_PERIOD, len(ids_T) // MIN_ROUNDS) + 1):
        wanted = max(MIN_ROUNDS * period, MIN_TAIL_TOKENS)
        if wanted <= len(ids_T):
            tail_T = ids_T[-wanted:]
            if (tail_T[period:] == tail_T[:-period]).all():
                return True
    return False
