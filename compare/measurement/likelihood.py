"""How probable a model finds an answer: its mean log-probability per token.

In: a GGUF file, a prompt's token ids, a text. Out: nats per token. Knows nothing of judges.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compare.measurement.fidelity import log_softmax
from compare.measurement.gguf_model import GgufModel


def answer_ids(model: GgufModel, text: str, *, finished: bool) -> list[int]:
    """Return an answer's tokens, with the one that ends it if it ended by itself."""
    return model.tokenize(text) + ([model.end_of_turn] if finished else [])


def mean_logprob(model: GgufModel, prompt_ids: Sequence[int], ids: Sequence[int]) -> float | None:
    """Return the mean log-probability of an answer's tokens after a prompt, in nats.

    Returns:
        None: The answer has no token.

    Raises:
        ContextLengthError: Both together are longer than the model's context.
    """
    if not ids:
        return None
    tokens = [*prompt_ids, *ids]
    logprobs, done = [], 0
    for logits_TV in model.logits(tokens[:-1], start=len(prompt_ids) - 1):
        wanted_T = np.asarray(ids[done : done + len(logits_TV)])
        logprobs.append(log_softmax(logits_TV)[np.arange(len(wanted_T)), wanted_T])
        done += len(logits_TV)
    return float(np.concatenate(logprobs).mean())
