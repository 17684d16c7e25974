"""vLLM's `FlatLogprobs` as `TokenDistributions`.

Each position holds the token itself, then the most probable tokens by rank.

Shape legend: T tokens, K requested log-probabilities.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from potstill.distributions import TokenDistributions


def to_distributions(flat: Any, top_logprobs: int, start: int = 0) -> TokenDistributions:  # noqa: ANN401
    """Return the distributions of the positions from `start` on.

    Args:
        flat: A `vllm.logprobs.FlatLogprobs` of a completion or of a prompt.
        top_logprobs: K.
        start: First position; at least 1 for a prompt, whose first token has no distribution.

    Source: `vllm.logprobs.FlatLogprobs` (vLLM 0.32).
    """
    first_T = np.asarray(flat.start_indices[start:])
    index_TK = first_T[:, None] + np.arange(1 + top_logprobs)
    ids_TK = np.asarray(flat.token_ids)[index_TK]
    logprobs_TK = np.asarray(flat.logprobs)[index_TK]
    return TokenDistributions.from_padded(ids_TK[:, 1:], logprobs_TK[:, 1:], logprobs_TK[:, 0])
