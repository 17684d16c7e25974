"""Answers that go round in circles, seen in their token ids.

In: an answer's token ids. Out: how much of it was said before, and how long its end has been
repeating itself. Knows nothing of texts.

Shapes: T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NGRAM_TOKENS = 8
"""Tokens in a row that count as said before. Rae et al. 2021 ("Scaling Language Models",
arXiv:2112.11446, table A1) count runs of 5 to 10 words in web pages."""
MIN_TOKENS = 32
"""Shorter answers hold no loop worth a name."""
MAX_PERIOD = 64
"""Longest repeated piece at an answer's end that is looked for, in tokens."""
MIN_ROUNDS, MIN_TAIL_TOKENS = 4, 48
"""An end is a loop when a piece stands there four times in a row, over 48 tokens in all: rows of a
table or lines of code repeat less exactly."""


def repeated_share(token_ids: Sequence[int]) -> float:
    """Return the share of tokens that lie in a run of 8 that occurred before in the answer."""
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
    """Say whether an answer ends in at least four rounds of the same tokens, 48 in all."""
    ids_T = np.asarray(token_ids)
    for period in range(1, min(MAX_PERIOD, len(ids_T) // MIN_ROUNDS) + 1):
        wanted = max(MIN_ROUNDS * period, MIN_TAIL_TOKENS)
        if wanted <= len(ids_T):
            tail_T = ids_T[-wanted:]
            if (tail_T[period:] == tail_T[:-period]).all():
                return True
    return False
