"""The mean log-probability of an answer's tokens under a GGUF file.

In: a loaded file, a prompt's token ids, a text. Out: nats per token.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from potstill.llama.context import Context, log_softmax
from potstill.llama.model import LlamaModel


def answer_ids(model: LlamaModel, text: str, *, finished: bool) -> list[int]:
    """Return an answer's tokens, with the one that ends it if it ended by itself."""
    return model.tokenize(text, parse_special=False) + ([model.end_of_turn] if finished else [])


def mean_logprob(context: Context, prompt_ids: Sequence[int], ids: Sequence[int]) -> float | None:
    """Return the mean log-probability of an answer's tokens after a prompt, in nats.

    Returns:
        None: The answer has no tokens.

    Raises:
        ContextLengthError: Both together are longer than the model's context.
    """
    if not ids:
        return None
    tokens = [*prompt_ids, *ids]
    logprobs, done = [], 0
    for logits_TV in context.logits(tokens[:-1], start=len(prompt_ids) - 1):
        wanted_T = np.asarray(ids[done : done + len(logits_TV)])
        logprobs.append(log_softmax(logits_TV)[np.arange(len(wanted_T)), wanted_T])
        done += len(logits_TV)
    return float(np.concatenate(logprobs).mean())
